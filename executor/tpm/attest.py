"""Attestations: a TPM's signature over the PCR and a verifier's nonce, with the event log that explains the PCR.

In a file they are one JSON object: {"version": 1, "pcr": N, "nonce": HEX, "attest": BASE64 of TPMS_ATTEST,
"signature": BASE64 of TPMT_SIGNATURE, "key": PEM, "log": [LINE, …]}. All of it is the machine's word; see verify.
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from executor.tpm.commands import FIXED_TPM, RESTRICTED, SIGN, Key, Tpm
from executor.tpm.errors import AttestationError, TpmError
from executor.tpm.recorder import Recorder
from executor.tpm.transport import Tcti

VERSION: Final = 1
NONCE_BYTES: Final = range(8, 33)
PERSISTENT: Final = range(0x81000000, 0x82000000)


@dataclass(frozen=True, slots=True)
class Attestation:
    """attest: a TPMS_ATTEST; signature: a TPMT_SIGNATURE; key: PEM of the key that should have made it; log: the event
    log of the machine's boot."""

    pcr: int
    nonce: bytes
    attest: bytes
    signature: bytes
    key: str
    log: bytes

    def dump(self) -> str:
        made = {
            "version": VERSION,
            "pcr": self.pcr,
            "nonce": self.nonce.hex(),
            "attest": base64.b64encode(self.attest).decode(),
            "signature": base64.b64encode(self.signature).decode(),
            "key": self.key,
            "log": self.log.decode().split("\n")[:-1],
        }
        return json.dumps(made, indent=1) + "\n"

    def write(self, directory: Path) -> None:
        """As files, `attestation.json` and what tpm2_checkquote takes. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        files = {
            "attestation.json": self.dump().encode(),
            "quote.msg": self.attest,
            "quote.sig": self.signature,
            "ak.pem": self.key.encode(),
            "events.jsonl": self.log,
        }
        for name, data in files.items():
            made = directory / f".{name}.new"
            made.write_bytes(data)
            os.replace(made, directory / name)


def parse(text: str) -> Attestation:
    """Raises AttestationError."""
    try:
        found: dict[str, Any] = json.loads(text)
        if found["version"] != VERSION:
            raise AttestationError(f"version {found['version']!r} of attestations is unknown")
        if type(found["pcr"]) is not int:
            raise TypeError("pcr is not a number")
        return Attestation(
            found["pcr"],
            bytes.fromhex(found["nonce"]),
            base64.b64decode(found["attest"], validate=True),
            base64.b64decode(found["signature"], validate=True),
            str(found["key"]),
            "".join(f"{line}\n" for line in found["log"]).encode(),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        text = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise AttestationError(f"not an attestation: {text}") from None


def parse_nonce(text: str) -> bytes:
    """Raises ValueError."""
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"--nonce {text!r}: expected hexadecimal digits") from None
    if len(nonce) not in NONCE_BYTES:
        raise ValueError(f"--nonce: {len(nonce)} bytes; expected 8 to 32, fresh for each attestation")
    return nonce


def parse_handle(text: str) -> int:
    """Of a persistent key. Raises ValueError."""
    try:
        handle = int(text, 16)
    except ValueError:
        handle = 0
    if handle not in PERSISTENT:
        raise ValueError(f"--ak-handle {text!r}: expected a persistent handle, 0x81000000 to 0x81ffffff")
    return handle


def attest(tcti: Tcti, directory: Path, pcr: int, nonce: bytes, ak_handle: int | None = None) -> Attestation:
    """A quote of what this machine measured since it booted.

    directory: of the event logs. ak_handle: a persistent attestation key; without it the one that is primary in the
    endorsement hierarchy, the same each time. Raises TpmError (also when log and PCR differ) or another OSError.
    """
    recorder = Recorder(tcti, directory, pcr)
    with recorder.session() as tpm:
        if ak_handle is None:
            with tpm.primary_ak() as key:
                return _quote(tpm, key, recorder, pcr, nonce)
        key = tpm.read_public(ak_handle)
        wanted = FIXED_TPM | RESTRICTED | SIGN
        if key.attributes & wanted != wanted:
            raise TpmError(
                f"key 0x{ak_handle:x} is no attestation key: it is not fixedTPM, restricted and for signing, so it "
                f"would sign what only looks like a quote"
            )
        return _quote(tpm, key, recorder, pcr, nonce)


def _quote(tpm: Tpm, key: Key, recorder: Recorder, pcr: int, nonce: bytes) -> Attestation:
    """While nobody else extends."""
    message, signature = tpm.quote(key, nonce, pcr)
    pem = key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return Attestation(pcr, nonce, message, signature, pem, recorder.log.read())
