"""Verifies attestations. Needs no TPM, and believes nothing that the key did not sign.

key ─▶ signature ─▶ TPMS_ATTEST ─┬▶ nonce: it was made for us, now
                                 └▶ PCR's digest = replay of the log ─▶ events
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from executor.tpm.attest import Attestation
from executor.tpm.commands import PublicKey
from executor.tpm.errors import AttestationError, LogError, TpmError
from executor.tpm.events import ZERO, Boot, Event, Replay
from executor.tpm.wire import Alg, Clock, Reader, read_clock, read_selection

MAGIC: Final = 0xFF544347
QUOTE: Final = 0x8018
HASHES: Final[dict[int, type[hashes.HashAlgorithm]]] = {
    Alg.SHA256: hashes.SHA256,
    Alg.SHA384: hashes.SHA384,
    Alg.SHA512: hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class Quote:
    """What a TPMS_ATTEST of a quote says (TPM 2.0 part 2, 10.12). selected: PCRs by bank."""

    nonce: bytes
    clock: Clock
    selected: dict[int, frozenset[int]]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """What was proven: these starts were measured since the boot, in this order, and no others. void: starts that the
    log names and that were never measured; nothing is proven about them. clock: of the TPM, when it signed."""

    boot: Boot
    value: bytes
    clock: Clock
    events: list[Event]
    void: list[Event]


def read_quote(attest: bytes) -> Quote:
    """Raises AttestationError."""
    try:
        reader = Reader(attest, "the quote")
        if reader.u32() != MAGIC or reader.u16() != QUOTE:
            raise AttestationError("what was signed is not a quote of a TPM")
        reader.sized()  # qualifiedSigner
        nonce, clock = reader.sized(), read_clock(reader)
        reader.u64()  # firmwareVersion
        quote = Quote(nonce, clock, read_selection(reader), reader.sized())
        reader.end()
        return quote
    except AttestationError:
        raise
    except TpmError as error:
        raise AttestationError(str(error)) from None


def load_key(pem: bytes) -> PublicKey:
    """Raises ValueError."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise ValueError("neither an RSA nor an ECC key")
    return key


def verify(attestation: Attestation, key: PublicKey, nonce: bytes, pcr: int, base: bytes = ZERO) -> Verified:
    """key: the machine's, known from elsewhere. nonce: what we asked with. pcr: where we expect the measurements. base:
    what the PCR was before Gantry's log, if the system extends it as well. Raises AttestationError that says what is
    wrong."""
    algorithm = check_signature(key, attestation.attest, attestation.signature)
    quote = read_quote(attestation.attest)
    if quote.nonce != nonce:
        raise AttestationError(
            f"the quote is for nonce {quote.nonce.hex() or 'none'}, not for {nonce.hex()}: it is an old one"
        )
    if quote.selected != {Alg.SHA256: frozenset({pcr})}:
        raise AttestationError(f"the quote is not of PCR {pcr} of the SHA-256 bank alone")
    replay = Replay(keep=True)
    try:
        replay.feed(attestation.log.splitlines())
    except LogError as error:
        raise AttestationError(str(error)) from None
    boot = replay.boot
    if boot is None or boot.pcr != pcr:
        raise AttestationError(f"the event log is not one of PCR {pcr}")
    if replay.pending is not None:
        raise AttestationError("the event log ends in the middle of a record")
    if boot.base != base:
        raise AttestationError(
            f"PCR {pcr} was {boot.base.hex()} when the log began, not {base.hex()}: what was extended before is unknown"
        )
    if quote.digest != hashlib.new(algorithm.name, replay.value).digest():
        raise AttestationError(
            "the event log does not lead to the PCR that was signed: it was changed or cut"
        )
    return Verified(boot, replay.value, quote.clock, replay.extended, replay.void)


def check_signature(key: PublicKey, message: bytes, signature: bytes) -> hashes.HashAlgorithm:
    """signature: a TPMT_SIGNATURE. Returns its hash, by which a quote digests the PCRs, too (TPM 2.0 part 3, 18.4).

    Raises AttestationError.
    """
    try:
        reader = Reader(signature, "the signature")
        scheme, name = reader.u16(), reader.u16()
        parts = [reader.sized()] + ([reader.sized()] if scheme == Alg.ECDSA else [])
        reader.end()
    except TpmError as error:
        raise AttestationError(str(error)) from None
    if name not in HASHES:
        raise AttestationError(
            f"the signature is over hash 0x{name:04x}; expected SHA-256, SHA-384 or SHA-512"
        )
    algorithm = HASHES[name]()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and scheme == Alg.ECDSA:
            der = encode_dss_signature(int.from_bytes(parts[0]), int.from_bytes(parts[1]))
            key.verify(der, message, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and scheme == Alg.RSASSA:
            key.verify(parts[0], message, padding.PKCS1v15(), algorithm)
        elif isinstance(key, rsa.RSAPublicKey) and scheme == Alg.RSAPSS:
            key.verify(parts[0], message, padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm)
        else:
            raise AttestationError(f"the signature is of scheme 0x{scheme:04x}, which is none of this key")
    except InvalidSignature:
        raise AttestationError("the signature is not by this key, or what it signed was changed") from None
    return algorithm
