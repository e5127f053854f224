"""What the dynamic loader reads of an ELF file (elf(5)): the program headers and the dynamic section.

Not a general ELF reader: 64-bit little-endian files only, which is what x86_64 and aarch64 have.
"""

import struct
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_MAGIC: Final = b"\x7fELF\x02\x01"


class ElfError(Exception):
    """The file is not what it begins like."""


@dataclass(frozen=True)
class Elf:
    """`interpreter`: the loader that the kernel starts for it, or "". `needed`: names of libraries."""

    interpreter: str
    needed: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def is_elf(data: bytes) -> bool:
    return data[: len(_MAGIC)] == _MAGIC


def read(data: bytes) -> Elf:
    """Raises ElfError."""
    try:
        segments = _segments(data)
        interpreter = next((_bytes(data, one) for one in segments if one.kind == _PT_INTERP), b"")
        return Elf(interpreter.rstrip(b"\0").decode(), _needed(data, segments))
    except (struct.error, ValueError, IndexError) as error:
        raise ElfError(f"a damaged ELF file: {error}") from error


def loaded(data: bytes) -> bytes:
    """The file without what the loader never maps: symbols and debugging information, the section headers.

    Raises ElfError.
    """
    try:
        fields = list(_HEADER.unpack_from(data))
        end = max(one.offset + one.size for one in _segments(data))
    except (struct.error, ValueError) as error:
        raise ElfError(f"a damaged ELF file: {error}") from error
    fields[6] = fields[12] = fields[13] = 0  # e_shoff, e_shnum, e_shstrndx
    return _HEADER.pack(*fields) + data[_HEADER.size : end]


def _segments(data: bytes) -> list[_Segment]:
    header = _HEADER.unpack_from(data)
    offset, size, count = header[5], header[9], header[10]
    result = []
    for number in range(count):
        kind, _, at, address, _, length, _, _ = _PROGRAM.unpack_from(data, offset + number * size)
        result.append(_Segment(kind, at, address, length))
    return result


def _bytes(data: bytes, segment: _Segment) -> bytes:
    return data[segment.offset : segment.offset + segment.size]


def _needed(data: bytes, segments: list[_Segment]) -> tuple[str, ...]:
    dynamic = next((one for one in segments if one.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return ()
    names, strings = [], 0
    for tag, value in _DYNAMIC.iter_unpack(_bytes(data, dynamic)):
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            names.append(value)
        elif tag == _DT_STRTAB:
            strings = _offset(segments, value)
    return tuple(data[strings + name : data.index(b"\0", strings + name)].decode() for name in names)


def _offset(segments: list[_Segment], address: int) -> int:
    """Where in the file a mapped address is."""
    for one in segments:
        if one.kind == _PT_LOAD and one.address <= address < one.address + one.size:
            return one.offset + address - one.address
    raise ValueError(f"address {address:#x} is not in the file")
