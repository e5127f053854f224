"""TLS of master and agents, as libprocess' environment variables say.

LIBPROCESS_SSL_ENABLED, _CERT_FILE, _KEY_FILE, _CA_FILE, _REQUIRE_CLIENT_CERT (before Mesos 1.9: _REQUIRE_CERT),
_VERIFY_SERVER_CERT (_VERIFY_CERT). As there, who is asked is only verified when that is asked for.

Source: Mesos docs/ssl.md, 3rdparty/libprocess/src/openssl.cpp.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

_TRUE = ("1", "true")
_FALSE = ("0", "false", "")


@dataclass(frozen=True)
class Contexts:
    """Of one process: to be asked, and to ask. None: plain HTTP."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.server is not None else "http"


def contexts(environ: Mapping[str, str]) -> Contexts:
    """Raises ValueError of one line that names the variable."""
    if not _flag(environ, "ENABLED"):
        return Contexts()
    files = {name: environ.get(f"LIBPROCESS_SSL_{name}") for name in ("CERT_FILE", "KEY_FILE", "CA_FILE")}
    for name in ("CERT_FILE", "KEY_FILE"):
        if not files[name]:
            raise ValueError(f"LIBPROCESS_SSL_{name}: needed with LIBPROCESS_SSL_ENABLED")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load(context, files)
    if _flag(environ, "REQUIRE_CLIENT_CERT", "REQUIRE_CERT"):
        server.verify_mode = ssl.CERT_REQUIRED
    if not _flag(environ, "VERIFY_SERVER_CERT", "VERIFY_CERT"):
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
    return Contexts(server, client)


def _load(context: ssl.SSLContext, files: Mapping[str, str | None]) -> None:
    try:
        context.load_cert_chain(str(files["CERT_FILE"]), files["KEY_FILE"])
        if files["CA_FILE"]:
            context.load_verify_locations(files["CA_FILE"])
        else:
            context.load_default_certs()
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(str(file) for file in files.values() if file)
        raise ValueError(f"LIBPROCESS_SSL_*: {named}: {error.strerror or error}") from error


def _flag(environ: Mapping[str, str], *names: str) -> bool:
    for name in names:
        value = environ.get(f"LIBPROCESS_SSL_{name}")
        if value is None:
            continue
        if value.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(f"LIBPROCESS_SSL_{name}: expecting true, 1, false or 0, not '{value}'")
        return value.lower() in _TRUE
    return False
