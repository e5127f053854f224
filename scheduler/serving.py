"""The certificate with which the API is served: one that was given, one that is made here, or none (plain HTTP).

kubectl and the official clients send a bearer token over HTTPS only, so a token without TLS is of use to curl alone.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from shared.security.certificates import Authority, serving_files


class ServingError(Exception):
    """One line: which file is wrong and why."""


@dataclass(frozen=True, slots=True)
class Tls:
    """`fingerprint`: SHA-256 of the certificate that is shown, hexadecimal."""

    context: ssl.SSLContext
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """`file` and `key`, PEM; or `directory`, where a self-signed pair is kept (ca.crt is what clients trust)."""

    file: Path | None = None
    key: Path | None = None
    directory: Path | None = None

    @property
    def is_made(self) -> bool:
        """Whether it is made here, so that an authority has to sign it."""
        return self.directory is not None and self.file is None

    def tls(self, hosts: list[str], now: datetime, authority: Authority | None = None) -> Tls | None:
        """What to serve with; None: plain HTTP. Raises ServingError.

        A pair made here is valid for `hosts`, and signed by `authority` (None: by one of its own).
        """
        file, key = self.file, self.key
        if self.directory is not None and file is None:
            try:
                made = serving_files(self.directory, hosts, now, authority)
            except OSError as error:
                why = "not a directory" if self.directory.is_file() else error.strerror
                raise ServingError(f"--cert-dir {self.directory}: {why}") from error
            except ValueError as error:
                raise ServingError(
                    f"the certificate authority in the store cannot be read: {error}"
                ) from error
            file, key = made.certificate, made.key
        if file is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(file, key)
            fingerprint = _fingerprint(file)
        except ssl.SSLError as error:
            raise ServingError(
                f"--tls-cert-file {file}, --tls-private-key-file {key}: not a PEM certificate and its key "
                f"({error.reason or error})"
            ) from error
        except OSError as error:
            raise ServingError(
                f"--tls-cert-file {file} or --tls-private-key-file {key}: {error.strerror}"
            ) from error
        return Tls(context, fingerprint)


def _fingerprint(file: Path) -> str:
    """Of the first certificate in a PEM file: that of the server itself."""
    end = "-----END CERTIFICATE-----"
    first = file.read_text(encoding="ascii", errors="replace")
    first = first[first.index("-----BEGIN CERTIFICATE-----") :].partition(end)[0] + end
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
