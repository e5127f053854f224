"""Reading and writing of TPM 2.0 structures (part 2): big-endian numbers, buffers with a 16-bit size. Pure."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from executor.tpm.errors import TpmError

PCR_SELECT_BYTES: Final = 3
DIGEST_BYTES: Final = 32


class Alg(IntEnum):
    """TPM_ALG_ID, those we may meet."""

    RSA = 0x0001
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018
    ECC = 0x0023


class Reader:
    """Takes a structure apart. Raises TpmError when it is too short, or something is left."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise TpmError(f"{self._what} is cut short")
        part = self._data[self._at : end]
        self._at = end
        return part

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2))

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def u64(self) -> int:
        return int.from_bytes(self.take(8))

    def sized(self) -> bytes:
        """A TPM2B."""
        return self.take(self.u16())

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self._at != len(self._data):
            raise TpmError(f"{self._what} has {len(self._data) - self._at} bytes too many")


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def pcr_selection(pcr: int) -> bytes:
    """A TPML_PCR_SELECTION of one PCR in the SHA-256 bank."""
    bits = (1 << pcr).to_bytes(PCR_SELECT_BYTES, "little")
    return struct.pack(">IHB", 1, Alg.SHA256, PCR_SELECT_BYTES) + bits


def read_selection(reader: Reader) -> dict[int, frozenset[int]]:
    """A TPML_PCR_SELECTION: PCRs by bank. Banks without any are left out."""
    found: dict[int, frozenset[int]] = {}
    for _ in range(reader.u32()):
        bank, bits = reader.u16(), int.from_bytes(reader.take(reader.u8()), "little")
        pcrs = frozenset(number for number in range(bits.bit_length()) if bits >> number & 1)
        if pcrs:
            found[bank] = found.get(bank, frozenset()) | pcrs
    return found


@dataclass(frozen=True, slots=True)
class Clock:
    """TPMS_CLOCK_INFO. clock: ms of power since the TPM was cleared; resets, restarts: how often it was, and since then
    resumed. safe: no earlier clock was told after one like it."""

    clock: int
    resets: int
    restarts: int
    safe: bool


def read_clock(reader: Reader) -> Clock:
    return Clock(reader.u64(), reader.u32(), reader.u32(), reader.u8() == 1)
