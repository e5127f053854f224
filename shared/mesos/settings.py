"""How the command line and the environment say who we are to Mesos and whom we trust.

`add_flags` and `access_from` are all a command needs; `tls_from_environ` is for an executor, which is told by
libprocess' variables. Every complaint is a ValueError of one line that names the flag, variable or file.

Sources: Mesos docs/ssl.md, docs/authentication.md; the DC/OS names are those of dcos-commons.
"""

import argparse
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.mesos.credentials import BasicCredentials, Credentials
from shared.mesos.flags import SERVICE_ACCOUNT_VARIABLE, add_flags
from shared.security.dcos import DcosLogin, ServiceAccount
from shared.security.secretfile import read_line
from shared.security.tls import client_context
from shared.security.tokens import BearerTokenFile

__all__ = [
    "SERVICE_ACCOUNT_VARIABLE",
    "Access",
    "access_from",
    "add_flags",
    "credentials_from",
    "tls_from",
    "tls_from_environ",
]

_TRUE = frozenset(("1", "true"))
_FALSE = frozenset(("0", "false"))


@dataclass(frozen=True, slots=True)
class Access:
    """What the drivers and operator calls take. Without `tls`, only `https://` masters are spoken to in TLS."""

    credentials: Credentials | None
    tls: ssl.SSLContext | None


def access_from(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Access:
    """From the flags; without TLS flags, from libprocess' variables."""
    tls = tls_from(
        enabled=arguments.mesos_tls,
        ca_file=arguments.mesos_ca_file,
        cert_file=arguments.mesos_cert_file,
        key_file=arguments.mesos_key_file,
        insecure=arguments.mesos_insecure,
    )
    if tls is None:
        tls = tls_from_environ(environ)
    credentials = credentials_from(
        principal=arguments.mesos_principal,
        secret_file=arguments.mesos_secret_file,
        token_file=arguments.mesos_token_file,
        service_account_file=arguments.dcos_service_account,
        service_account=environ.get(SERVICE_ACCOUNT_VARIABLE),
        tls=tls,
    )
    return Access(credentials, tls)


def credentials_from(
    *,
    principal: str | None = None,
    secret_file: Path | None = None,
    token_file: Path | None = None,
    service_account_file: Path | None = None,
    service_account: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Credentials | None:
    """The one kind of credentials that is given, or None. `service_account` is the JSON itself, and only looked
    at when no flag is given; `tls` is for its login endpoint."""
    if (principal is None) != (secret_file is None):
        raise ValueError("--mesos-principal and --mesos-secret-file belong together")
    given = {
        "--mesos-secret-file": secret_file,
        "--mesos-token-file": token_file,
        "--dcos-service-account": service_account_file,
    }
    flags = [flag for flag, file in given.items() if file is not None]
    if len(flags) > 1:
        raise ValueError(f"{' and '.join(flags)}: only one kind of credentials can be used")
    if principal is not None and secret_file is not None:
        return BasicCredentials(principal, read_line(secret_file, "secret file"))
    if token_file is not None:
        return BearerTokenFile(token_file)
    if service_account_file is not None:
        return DcosLogin(ServiceAccount.load(service_account_file), tls=tls)
    if service_account:
        return DcosLogin(ServiceAccount.parse(service_account, SERVICE_ACCOUNT_VARIABLE), tls=tls)
    return None


def tls_from(
    *,
    enabled: bool = False,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    insecure: bool = False,
) -> ssl.SSLContext | None:
    """None when none of it is given. TlsError (a ValueError) names a file that cannot be used."""
    if not (enabled or insecure or ca_file or cert_file or key_file):
        return None
    return client_context(ca_file=ca_file, cert_file=cert_file, key_file=key_file, verify=not insecure)


def tls_from_environ(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """From libprocess' variables: MESOS_SSL_ENABLED or LIBPROCESS_SSL_ENABLED, and LIBPROCESS_SSL_CA_FILE,
    _CERT_FILE, _KEY_FILE, _VERIFY_SERVER_CERT (before Mesos 1.9: _VERIFY_CERT). None when it is not enabled.

    Other than libprocess we verify unless told not to.
    """
    if not (_flag(environ, "MESOS_SSL_ENABLED") or _flag(environ, "LIBPROCESS_SSL_ENABLED")):
        return None
    verify = _flag(environ, "LIBPROCESS_SSL_VERIFY_SERVER_CERT")
    if verify is None:
        verify = _flag(environ, "LIBPROCESS_SSL_VERIFY_CERT")
    return client_context(
        ca_file=_file(environ, "LIBPROCESS_SSL_CA_FILE"),
        cert_file=_file(environ, "LIBPROCESS_SSL_CERT_FILE"),
        key_file=_file(environ, "LIBPROCESS_SSL_KEY_FILE"),
        verify=verify is not False,
    )


def _flag(environ: Mapping[str, str], name: str) -> bool | None:
    value = environ.get(name, "").strip().lower()
    if value and value not in _TRUE | _FALSE:
        raise ValueError(f"{name}: expecting true, 1, false or 0, not '{value}'")
    return value in _TRUE if value else None


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name)
    return Path(value) if value else None
