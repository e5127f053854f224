"""A serving certificate of one's own, for an API that nobody has given one.

As kube-apiserver does with its `--cert-dir`: a certificate authority is made, signs one serving certificate, and its
key is thrown away, so that nothing else can ever be signed by it. Clients get the authority's certificate. Where
several serve the same clients, the authority is kept, key and all, and signs for each of them.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 3650
_RENEW_DAYS = 30  # made anew when it would end sooner than that


@dataclass(frozen=True)
class ServingFiles:
    """PEM files: the authority that clients trust, the serving certificate, its private key."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """PEM of its certificate and of its private key."""

    certificate: bytes
    key: bytes = field(repr=False)


def serving_files(
    directory: Path, hosts: Iterable[str], now: dt.datetime, authority: Authority | None = None
) -> ServingFiles:
    """The files in `directory`; made when missing, about to end, or not valid for all of `hosts` (names or addresses).

    Signed by `authority`; without one, by one that is made for it. Raises OSError when the directory cannot be written,
    ValueError for an authority that cannot be read.
    """
    files = ServingFiles(directory / "ca.crt", directory / "apiserver.crt", directory / "apiserver.key")
    wanted = list(dict.fromkeys(hosts))
    if not _usable(files, wanted, now, authority):
        directory.mkdir(parents=True, exist_ok=True)
        _make(files, wanted, now, authority or make_authority(now))
    return files


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usable(files: ServingFiles, hosts: list[str], now: dt.datetime, wanted: Authority | None) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
        if wanted is not None and authority != x509.load_pem_x509_certificate(wanted.certificate):
            return False
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    left = certificate.not_valid_after_utc - now
    same_key = key.public_key() == certificate.public_key()
    return same_key and left.days >= _RENEW_DAYS and {_alternative(host) for host in hosts} <= set(names)


_USAGE = {
    "key_encipherment": False,
    "content_commitment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "encipher_only": False,
    "decipher_only": False,
}


def make_authority(now: dt.datetime) -> Authority:
    """A new one, good for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"gantry-ca@{int(now.timestamp())}")])
    certificate = (
        _builder(name, name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **_USAGE), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _private(key))


def _make(files: ServingFiles, hosts: list[str], now: dt.datetime, authority: Authority) -> None:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gantry-scheduler")])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **_USAGE),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    _replace(files.key, _private(key), 0o600)
    _replace(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _replace(files.authority, authority.certificate, 0o644)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # clocks of clients may be behind
        .not_valid_after(now + dt.timedelta(days=_DAYS))
    )


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Readers see the old file or the new one; a private key is never readable by others, not even for a moment."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    new.replace(path)
