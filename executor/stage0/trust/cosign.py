"""cosign's signatures of docker and OCI images: found in the registry, checked with public keys.

The signatures of manifest `sha256:HEX` are the layers of the image `sha256-HEX.sig` in the same repository: the blob is
the "simple signing" payload, an annotation carries the signature over its bytes. Keys: ECDSA P-256 and P-384, Ed25519,
RSA of 2048 bits and more. Keyless signatures (certificates, transparency log) are not checked and count for nothing.
Sources: sigstore/cosign `specs/SIGNATURE_SPEC.md`, containers/image `docs/containers-signature.5.md`.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from executor.stage0 import manifest as m
from executor.stage0 import names
from executor.stage0.errors import ImageBroken, ImageNotFound, ImageUntrusted, InvalidImageName, StoreError
from executor.stage0.sources import Repository
from executor.stage0.trust.keystore import read_key

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"
MAX_PAYLOAD = 64 * 1024
MAX_SIGNATURES = 50
MIN_RSA = 2048
_CURVES: dict[str, hashes.HashAlgorithm] = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384()}

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class Key:
    """A public key of a file. id: `cosign:sha256:…` of its SubjectPublicKeyInfo."""

    path: str
    id: str
    public: PublicKey


@dataclass(frozen=True)
class Signature:
    """One signed payload, not checked yet."""

    payload: bytes
    signature: bytes


def load_key(path: str) -> Key:
    """A PEM public key. StoreError names the file and what is wrong with it."""
    try:
        public = serialization.load_pem_public_key(read_key(Path(path)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StoreError(f"key {path}: not a PEM public key: {error}") from None
    match public:
        case ec.EllipticCurvePublicKey() if public.curve.name in _CURVES:
            pass
        case ed25519.Ed25519PublicKey():
            pass
        case rsa.RSAPublicKey() if public.key_size >= MIN_RSA:
            pass
        case _:
            raise StoreError(
                f"key {path}: only ECDSA P-256 and P-384, Ed25519 and RSA from {MIN_RSA} bits are taken"
            )
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Key(path, f"cosign:sha256:{hashlib.sha256(der).hexdigest()}", public)


def tag(digest: str) -> str:
    """Where the signatures of a manifest are."""
    return f"{digest.replace(':', '-')}.sig"


async def fetch(repository: Repository, digest: str) -> list[Signature]:
    """Every signature that the registry has for a manifest; none is no error."""
    try:
        _, data, _ = await repository.manifest(tag(digest))
    except ImageNotFound:
        return []
    layers = m.parse_json(data, "signature manifest").get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_SIGNATURES:
        raise ImageBroken(f"signature manifest: not a list of at most {MAX_SIGNATURES} layers")
    found = []
    for number, layer in enumerate(layers):
        descriptor = m.descriptor(layer, f"layers[{number}]")
        text = (layer.get("annotations") or {}).get(ANNOTATION)
        if descriptor.media_type != PAYLOAD or not isinstance(text, str):
            continue
        if descriptor.size > MAX_PAYLOAD:
            raise ImageBroken(
                f"signature manifest: a payload of {descriptor.size} bytes (limit {MAX_PAYLOAD})"
            )
        try:
            signature = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ImageBroken(f"signature manifest: layers[{number}]: the signature is not base64") from None
        found.append(Signature(await repository.blob(descriptor), signature))
    return found


def check(
    signatures: Iterable[Signature], digest: str, keys: Iterable[Key], subject: str, identity: str
) -> list[Key]:
    """The keys with a good signature of `digest`. ImageUntrusted says why there is none.

    subject: the repository that was asked for; identity: as in policies.
    """
    keys, problems, good = list(keys), [], []
    there = list(signatures)
    for signature in there:
        # The payload is looked into only once a trusted key has signed it.
        signer = next((key for key in keys if _fits(key.public, signature)), None)
        if signer is None:
            continue
        problem = _wrong(signature.payload, digest, subject, identity)
        if problem:
            problems.append(f"signed by {signer.path}, but {problem}")
        else:
            good.append(signer)
    if good:
        return good
    shown = ", ".join(key.path for key in keys)
    if problems:
        raise ImageUntrusted("; ".join(dict.fromkeys(problems))[:600])
    raise ImageUntrusted(
        f"no signature by {shown}"
        + (f" among the {len(there)} that the registry has" if there else "; it is not signed")
    )


def _fits(key: PublicKey, signed: Signature) -> bool:
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signed.signature, signed.payload, ec.ECDSA(_CURVES[key.curve.name]))
            case ed25519.Ed25519PublicKey():
                key.verify(signed.signature, signed.payload)
            case rsa.RSAPublicKey():
                key.verify(signed.signature, signed.payload, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _wrong(payload: bytes, digest: str, subject: str, identity: str) -> str:
    """What of a signed payload does not fit, "" when all does."""
    try:
        critical = _table(m.parse_json(payload, "payload"), "critical")
        signed = _table(critical, "image").get("docker-manifest-digest")
        reference = _table(critical, "identity").get("docker-reference")
    except ImageBroken as error:
        return str(error)
    if critical.get("type") != TYPE:
        return f"the payload is of type {str(critical.get('type'))[:60]!r}"
    if signed != digest:
        return f"for another image, {str(signed)[:80]}"
    wanted = subject if identity == "repository" else identity
    if identity != "any" and _repository(reference) != _repository(wanted):
        return f"as {str(reference)[:120]!r}, where {wanted} is wanted"
    return ""


def _table(obj: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = obj.get(key)
    if not isinstance(value, dict):
        raise ImageBroken(f"the payload has no {key!r}")
    return value


def _repository(reference: object) -> str:
    """`nginx:1`, `docker.io/library/nginx@sha256:…` → `docker.io/library/nginx`; "" for what is none."""
    try:
        parsed = names.parse(str(reference))
    except InvalidImageName:
        return ""
    return f"{parsed.host}/{parsed.repository}" if isinstance(parsed, names.Registry) else ""
