"""Decompresses the legacy frame of LZ4, as Linux compresses itself (lz4_Frame_format.md, lz4_Block_format.md)."""

import struct
from typing import Final

MAGIC: Final = b"\x02\x21\x4c\x18"


def decompress(data: bytes) -> bytes:
    """Raises ValueError. What follows the last whole block is no part of it (Linux puts a size there)."""
    if not data.startswith(MAGIC):
        raise ValueError("no legacy LZ4 frame")
    at, blocks = len(MAGIC), []
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if size == 0 or at + 4 + size > len(data):
            break
        try:
            blocks.append(_block(data[at + 4 : at + 4 + size]))
        except IndexError:
            raise ValueError("an LZ4 block ends too early") from None
        at += 4 + size
    return b"".join(blocks)


def _block(data: bytes) -> bytearray:
    """One block: literals, then a copy of what was written before, and so on; the last sequence has no copy."""
    out, at, end = bytearray(), 0, len(data)
    while True:
        token = data[at]
        at += 1
        length = token >> 4
        if length == 15:
            length, at = _more(data, length, at)
        out += data[at : at + length]
        at += length
        if at >= end:
            return out
        distance = data[at] | data[at + 1] << 8
        at += 2
        length = token & 15
        if length == 15:
            length, at = _more(data, length, at)
        length += 4
        start = len(out) - distance
        if distance == 0 or start < 0:
            raise ValueError("an LZ4 copy starts before the data")
        if distance >= length:
            out += out[start : start + length]
        else:  # it overlaps itself: a pattern
            out += (out[start:] * (length // distance + 1))[:length]


def _more(data: bytes, length: int, at: int) -> tuple[int, int]:
    while True:
        byte = data[at]
        at += 1
        length += byte
        if byte != 255:
            return length, at
