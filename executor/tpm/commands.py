"""The few TPM 2.0 commands that we need (part 3), written out.

Not through tpm2-tools, which start a process for each command, or tpm2-pytss, which is compiled against libtss2: a
pod's start waits for two of these commands. Authorization is by empty passwords; what has another one is refused.
"""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from executor.tpm.errors import BankError, ResponseError, TpmError
from executor.tpm.transport import HEADER, Connection, Tcti, connect
from executor.tpm.wire import Alg, Clock, Reader, pcr_selection, read_clock, read_selection, sized

NO_SESSIONS: Final = 0x8001
SESSIONS: Final = 0x8002
ENDORSEMENT: Final = 0x4000000B
_PASSWORD: Final = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
"""An authorization area with one session: TPM_RS_PW and an empty password."""

AGAIN_SECONDS: Final = 5.0
CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {
    0x0003: ec.SECP256R1,
    0x0004: ec.SECP384R1,
    0x0005: ec.SECP521R1,
}

FIXED_TPM: Final = 1 << 1
RESTRICTED: Final = 1 << 16
SIGN: Final = 1 << 18
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign
_AK_ATTRIBUTES: Final = FIXED_TPM | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | RESTRICTED | SIGN
AK_TEMPLATE: Final = struct.pack(
    ">HHIHHHHHHHH",
    Alg.ECC,
    Alg.SHA256,
    _AK_ATTRIBUTES,
    0,
    Alg.NULL,
    Alg.ECDSA,
    Alg.SHA256,
    0x0003,
    Alg.NULL,
    0,
    0,
)
"""A restricted ECDSA key on P-256. As a primary key it is the same each time, until the TPM gets another seed."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """A key in the TPM. attributes: TPMA_OBJECT."""

    handle: int
    public: PublicKey
    attributes: int


class Tpm:
    """A connection, and commands over it. Raises TpmError, ResponseError, BankError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _command(self, name: str, code: int, body: bytes, *, auth: bool = False) -> Reader:
        command = HEADER.pack(SESSIONS if auth else NO_SESSIONS, HEADER.size + len(body), code) + body
        deadline, pause = time.monotonic() + AGAIN_SECONDS, 0.005
        while True:
            response = self._connection.exchange(command)
            tag, _, rc = HEADER.unpack_from(response)
            if rc == 0:
                break
            refused = ResponseError(name, rc)
            if not refused.again or time.monotonic() + pause > deadline:
                raise refused
            time.sleep(pause)
            pause *= 2
        if tag != (SESSIONS if auth else NO_SESSIONS):
            raise TpmError(f"the TPM answered {name} with tag 0x{tag:04x}")
        return Reader(response[HEADER.size :], f"the TPM's answer to {name}")

    def pcr_read(self, pcr: int) -> bytes:
        """The value in the SHA-256 bank. Raises BankError when the PCR is not in it."""
        answer = self._command("TPM2_PCR_Read", 0x17E, pcr_selection(pcr))
        answer.u32()  # how often any PCR changed
        selected = read_selection(answer)
        values = [answer.sized() for _ in range(answer.u32())]
        answer.end()
        if selected != {Alg.SHA256: frozenset({pcr})} or len(values) != 1:
            raise BankError(
                f"PCR {pcr} is not in the TPM's SHA-256 bank, where extends would be lost; allocate it "
                f"(tpm2_pcrallocate sha256:all) and reboot"
            )
        return values[0]

    def pcr_extend(self, pcr: int, digest: bytes) -> None:
        """Extend the SHA-256 bank. Whether it is there has to be known: a TPM ignores digests for banks it has not."""
        body = struct.pack(">I", pcr) + _PASSWORD + struct.pack(">IH", 1, Alg.SHA256) + digest
        self._command("TPM2_PCR_Extend", 0x182, body, auth=True)

    def read_clock(self) -> Clock:
        answer = self._command("TPM2_ReadClock", 0x181, b"")
        answer.u64()  # ms since the TPM has power
        clock = read_clock(answer)
        answer.end()
        return clock

    @contextmanager
    def primary_ak(self) -> Iterator[Key]:
        """The attestation key that is primary in the endorsement hierarchy; it leaves the TPM's memory at the end."""
        body = struct.pack(">I", ENDORSEMENT) + _PASSWORD
        body += sized(sized(b"") + sized(b"")) + sized(AK_TEMPLATE) + sized(b"") + struct.pack(">I", 0)
        try:
            answer = self._command("TPM2_CreatePrimary in the endorsement hierarchy", 0x131, body, auth=True)
        except ResponseError as error:
            if error.code not in {0x0A2, 0x08E, 0x085}:
                raise
            raise TpmError(
                f"{error}; make an attestation key yourself and name it with --ak-handle"
            ) from None
        handle = answer.u32()
        try:
            answer.u32()
            yield _key(handle, answer.sized())
        finally:
            self._command("TPM2_FlushContext", 0x165, struct.pack(">I", handle))

    def read_public(self, handle: int) -> Key:
        answer = self._command("TPM2_ReadPublic", 0x173, struct.pack(">I", handle))
        return _key(handle, answer.sized())

    def quote(self, key: Key, nonce: bytes, pcr: int) -> tuple[bytes, bytes]:
        """A TPMS_ATTEST and a TPMT_SIGNATURE, by the key's own scheme."""
        body = struct.pack(">I", key.handle) + _PASSWORD + sized(nonce)
        body += struct.pack(">H", Alg.NULL) + pcr_selection(pcr)
        answer = self._command("TPM2_Quote", 0x158, body, auth=True)
        parameters = Reader(answer.take(answer.u32()), "the TPM's quote")
        return parameters.sized(), parameters.rest()


def _key(handle: int, public: bytes) -> Key:
    """Of a TPMT_PUBLIC (part 2, 12.2.4)."""
    reader = Reader(public, "a public key of the TPM")
    kind = reader.u16()
    reader.u16()  # nameAlg
    attributes = reader.u32()
    reader.sized()  # authPolicy
    if reader.u16() != Alg.NULL:
        raise TpmError(f"key 0x{handle:x} is one that encrypts (a parent of others), not an attestation key")
    if reader.u16() != Alg.NULL:
        reader.u16()  # the hash of the scheme
    try:
        return Key(handle, _public(kind, reader), attributes)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TpmError(f"key 0x{handle:x}: {error}") from None


def _public(kind: int, reader: Reader) -> PublicKey:
    if kind == Alg.RSA:
        reader.u16()  # bits
        exponent = reader.u32() or 65537
        return rsa.RSAPublicNumbers(exponent, int.from_bytes(reader.sized())).public_key()
    if kind != Alg.ECC:
        raise ValueError(f"of type 0x{kind:04x}, neither RSA nor ECC")
    curve = CURVES.get(reader.u16())
    if curve is None:
        raise ValueError("on a curve other than P-256, P-384 and P-521")
    if reader.u16() != Alg.NULL:
        reader.u16()  # the hash of the key derivation
    x, y = int.from_bytes(reader.sized()), int.from_bytes(reader.sized())
    return ec.EllipticCurvePublicNumbers(x, y, curve()).public_key()


@contextmanager
def opened(tcti: Tcti) -> Iterator[Tpm]:
    """A TPM for a few commands. Raises TpmError."""
    connection = connect(tcti)
    try:
        yield Tpm(connection)
    finally:
        connection.close()
