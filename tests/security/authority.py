"""A certificate authority for tests: keys and certificates of any kind, as PEM files. Loaded by path."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """Files go below `directory`; `ca_file` is its own certificate, valid for `days` from yesterday."""

    def __init__(self, directory: Path, name: str = "test CA", days: float = 10) -> None:
        self.directory = directory
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            name, self._key.public_key(), days, [x509.BasicConstraints(ca=True, path_length=None)]
        )
        self.ca_file = self.write(f"{name}.pem", certificate.public_bytes(Encoding.PEM))

    def write(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    def _sign(
        self, name: str, key: ec.EllipticCurvePublicKey, days: float, extensions: list[x509.ExtensionType]
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        begin = now - DAY if days > 0 else now - 2 * DAY
        builder = x509.CertificateBuilder(
            issuer_name=_subject(self.name),
            subject_name=_subject(name),
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=begin,
            not_valid_after=now + days * DAY,
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, SHA256())

    def issue(
        self, name: str, *names: str, days: float = 10, passphrase: bytes | None = None
    ) -> tuple[Path, Path]:
        """Certificate and key file of `name`; `names` (the one name without) are hosts and addresses it stands
        for. It expired when `days` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general(one) for one in names or (name,)])
        certificate = self._sign(name, key.public_key(), days, [alternatives])
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        return (
            self.write(f"{name}.crt", certificate.public_bytes(Encoding.PEM)),
            self.write(f"{name}.key", pem),
        )

    def server_context(
        self, name: str, *names: str, days: float = 10, want_client: bool = False
    ) -> ssl.SSLContext:
        """A server's context with a certificate of this authority; with `want_client` it takes only clients that
        show one, too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, *names, days=days))
        if want_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca_file)
        return context
