"""TLS contexts for what we connect to: a CA bundle, a client certificate, verification unless switched off.

Why not ssl's own errors: "[SSL] PEM lib (_ssl.c:4149)" says neither which file nor what is wrong with it.
Everything a file can be wrong about is looked at here, before a context is made of it.
"""

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

logger = logging.getLogger(__name__)


class TlsError(ValueError):
    """One line that names the file and what is wrong with it."""


def client_context(
    *,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    verify: bool = True,
    now: datetime | None = None,
) -> ssl.SSLContext:
    """A context for connecting: TLS 1.2 or newer, the peer's certificate and name verified.

    `ca_file`: a PEM bundle, instead of the system's CAs. `cert_file` (PEM, with its chain) and `key_file`
    (may be left out when the key is in `cert_file`): what we show when we are asked who we are.
    `verify=False` trusts everybody, with a warning. TlsError for a file that cannot be used at `now`.
    """
    now = now or datetime.now(UTC)
    # Not create_default_context(): from Python 3.13 on it refuses CAs older versions take.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        _load_authorities(context, ca_file, now)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if cert_file is not None:
        _load_identity(context, cert_file, key_file, now)
    elif key_file is not None:
        raise TlsError(f"key file '{key_file}': of no use without a certificate file")
    if not verify:
        logger.warning(
            "TLS certificates are not verified: anybody on the way can pose as the peer and read our credentials"
        )
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def explain(error: ssl.SSLError) -> str:
    """What went wrong in a handshake, without OpenSSL's file names and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS"
    return (error.reason or str(error)).lower().replace("_", " ")


def _load_authorities(context: ssl.SSLContext, path: Path, now: datetime) -> None:
    certificates = _certificates("CA file", path)
    valid = [one for one in certificates if one.not_valid_after_utc > now]
    if not valid:
        raise TlsError(f"CA file '{path}': {_expired(certificates[0])}")
    for one in certificates:
        if one not in valid:
            logger.warning("CA file '%s': %s", path, _expired(one))
    try:
        context.load_verify_locations(
            cadata="".join(one.public_bytes(Encoding.PEM).decode() for one in valid)
        )
    except ssl.SSLError as error:
        raise TlsError(f"CA file '{path}': {explain(error)}") from error


def _load_identity(context: ssl.SSLContext, path: Path, key_path: Path | None, now: datetime) -> None:
    certificate = _certificates("certificate file", path)[0]
    if certificate.not_valid_after_utc <= now:
        raise TlsError(f"certificate file '{path}': {_expired(certificate)}")
    if certificate.not_valid_before_utc > now:
        since = certificate.not_valid_before_utc
        raise TlsError(
            f"certificate file '{path}': {_name(certificate)} is not valid before {since:%Y-%m-%d %H:%M} UTC"
        )
    key = _private_key(key_path or path)
    if _public(certificate.public_key()) != _public(key.public_key()):
        raise TlsError(f"key file '{key_path or path}': not the key of the certificate in '{path}'")
    try:
        context.load_cert_chain(path, key_path)
    except (ssl.SSLError, OSError) as error:
        why = explain(error) if isinstance(error, ssl.SSLError) else error.strerror
        raise TlsError(f"certificate file '{path}': {why}") from error


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{what} '{path}': {error.strerror}") from error


def _certificates(what: str, path: Path) -> list[x509.Certificate]:
    data = _read(what, path)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        found = "a private key, not a certificate" if b"PRIVATE KEY-----" in data else "no PEM certificate"
        raise TlsError(f"{what} '{path}': there is {found} in it")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise TlsError(f"{what} '{path}': the certificate is damaged") from error


def _private_key(path: Path) -> PrivateKeyTypes:
    data = _read("key file", path)
    if b"PRIVATE KEY-----" not in data:
        raise TlsError(f"key file '{path}': there is no PEM private key in it")
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:  # cryptography's word for "it is encrypted"
        raise TlsError(f"key file '{path}': the key has a passphrase; give one without") from error
    except ValueError as error:
        raise TlsError(f"key file '{path}': the private key is damaged") from error


def _public(key: object) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))  # type: ignore[attr-defined]


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "the certificate"


def _expired(certificate: x509.Certificate) -> str:
    return f"{_name(certificate)} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
