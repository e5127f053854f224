"""The certificate with which the API is served: one that was given, one that is made here, or none (plain HTTP).

kubectl and the official clients send a bearer token over HTTPS only, so a token without TLS is of use to curl alone.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from shared.security.certificates import serving_files


class ServingError(Exception):
    """One line: which file is wrong and why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """`file` and `key`, PEM; or `directory`, where a self-signed pair is kept (ca.crt is what clients trust)."""

    file: Path | None = None
    key: Path | None = None
    directory: Path | None = None

    def context(self, hosts: list[str], now: datetime) -> ssl.SSLContext | None:
        """What to serve with; None: plain HTTP. A pair made here is valid for `hosts`. Raises ServingError."""
        file, key = self.file, self.key
        if self.directory is not None and file is None:
            try:
                made = serving_files(self.directory, hosts, now)
            except OSError as error:
                raise ServingError(f"--cert-dir {self.directory}: {error.strerror}") from error
            file, key = made.certificate, made.key
        if file is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(file, key)
        except ssl.SSLError as error:
            raise ServingError(
                f"--tls-cert-file {file}, --tls-private-key-file {key}: not a PEM certificate and its key "
                f"({error.reason or error})"
            ) from error
        except OSError as error:
            raise ServingError(
                f"--tls-cert-file {file} or --tls-private-key-file {key}: {error.strerror}"
            ) from error
        return context
