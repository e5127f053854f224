"""Rewrites the stream in which QEMU has written a machine, so that to go on from it touches no memory in vain.

The stream (QEMU's migration/savevm.c and migration/ram.c, version 3) has every page of a machine's memory, those of
zeros by name. For each of these QEMU looks whether its own, new memory is zero, for which the host has to give it that
page: the machine would hold all of its memory at once. Here they are left out, and what came more than once comes
once. The devices, which follow, are copied as they are.

And who goes on from it may have more memory than it had: then the stream has to begin with another size.
"""

import os
import struct
from collections.abc import Iterator
from typing import Final

MEMORY: Final = b"memory"
"""The block that is left out where it is zero: new memory is. Others (tables, firmware) come filled."""
_MAGIC: Final = struct.pack(">II", 0x5145564D, 3)
_START, _PART, _END, _CONFIGURATION, _FOOTER = 1, 2, 3, 7, 0x7E
_ZERO, _SIZES, _PAGE, _END_OF_SECTION, _SAME_BLOCK = 0x02, 0x04, 0x08, 0x10, 0x20
_PAGE_SIZE: Final = 4096
_VERSION: Final = 4
HEAD: Final = 4096
"""Bytes in which the head ends: it names a few blocks."""
_PART_OF_FILE: Final = 1 << 20

Page = tuple[int, bytes | memoryview]  # its kind; its byte, or contents


class StreamError(ValueError):
    """It is not the stream we know; one line."""


def lean(stream: memoryview) -> Iterator[bytes | memoryview]:
    """The parts of the rewritten stream, in order. Raises StreamError."""
    reader = _Reader(stream)
    number = reader.head()
    yield stream[: reader.at]
    blocks: dict[bytes, dict[int, Page]] = {}
    while reader.section(number, blocks) != _END:
        pass
    yield struct.pack(">BI", _END, number)
    for name, pages in blocks.items():
        block = bytes((len(name),)) + name
        for offset, (kind, content) in pages.items():
            if kind == _PAGE or name != MEMORY:
                yield struct.pack(">Q", offset | kind | (0 if block else _SAME_BLOCK)) + block
                yield content
                block = b""
    yield struct.pack(">QBI", _END_OF_SECTION, _FOOTER, number)
    yield stream[reader.at :]


def pour(head: bytes, source: int, at: int, pipe: int) -> None:
    """Write to a pipe a head, and what follows in a file. Blocks. Closes both. Raises OSError; but whoever reads may
    stop, when there is nothing more for them."""
    try:
        os.write(pipe, head)
        while count := os.sendfile(pipe, source, at, _PART_OF_FILE):
            at += count
    except BrokenPipeError:
        pass
    finally:
        os.close(source)
        os.close(pipe)


def resized(start: bytes, memory: int) -> tuple[bytes, int]:
    """The head of the stream that begins so, with another size of memory; and how long it is. Raises StreamError."""
    reader = _Reader(memoryview(start))
    reader.head()
    head = bytearray(start[: reader.at])
    (total,) = struct.unpack_from(">Q", head, reader.total_at)
    (had,) = struct.unpack_from(">Q", head, reader.size_at)
    struct.pack_into(">Q", head, reader.total_at, total - had + memory)
    struct.pack_into(">Q", head, reader.size_at, memory)
    return bytes(head), reader.at


class _Reader:
    """Over the part of the stream that has the memory."""

    def __init__(self, stream: memoryview) -> None:
        self._stream = stream
        self.at = 0
        self.total_at = self.size_at = 0
        """Where the head says how much memory there is, with all that is of the kind; and without."""
        self._block: dict[int, Page] | None = None  # of the last page, in whichever section that was

    def head(self) -> int:
        """Up to the end of the section that names the blocks; returns the number of the memory's sections."""
        if self._take(8) != _MAGIC or self._byte() != _CONFIGURATION:
            raise StreamError("this is no stream of a machine, or one of another version")
        self._take(self._number(4))
        kind, number = self._byte(), self._number(4)
        name, _, version = self._name(), self._number(4), self._number(4)
        if (kind, name, version) != (_START, b"ram", _VERSION):
            raise StreamError("a stream of a machine begins with something else than its memory")
        self.total_at = self.at
        total = self._number(8)
        if total % _PAGE_SIZE != _SIZES:
            raise StreamError("a machine's memory does not begin with its size")
        left = total - _SIZES
        while left > 0:
            name = self._name()
            if name == MEMORY:
                self.size_at = self.at
            left -= self._number(8)
        if left or not self.size_at or self._number(8) != _END_OF_SECTION:
            raise StreamError("a machine's memory has not the size that it says")
        self._footer(number)
        return number

    def section(self, number: int, blocks: dict[bytes, dict[int, Page]]) -> int:
        """One more of the memory's sections; what comes again replaces what came before. Returns its kind."""
        kind = self._byte()
        if kind not in (_PART, _END) or self._number(4) != number:
            raise StreamError("something else comes between a machine's memory")
        while (head := self._number(8)) != _END_OF_SECTION:
            flags = head % _PAGE_SIZE
            if not flags & _SAME_BLOCK:
                self._block = blocks.setdefault(self._name(), {})
            of_page = flags & ~_SAME_BLOCK
            if self._block is None or of_page not in (_ZERO, _PAGE):
                raise StreamError(f"a page of a machine's memory is written in another way: {flags:#x}")
            self._block[head - flags] = of_page, self._take(1 if of_page == _ZERO else _PAGE_SIZE)
        self._footer(number)
        return kind

    def _take(self, count: int) -> memoryview:
        found = self._stream[self.at : self.at + count]
        if len(found) != count:
            raise StreamError("a stream of a machine ends too early")
        self.at += count
        return found

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _name(self) -> bytes:
        return bytes(self._take(self._byte()))

    def _footer(self, number: int) -> None:
        if self._byte() != _FOOTER or self._number(4) != number:
            raise StreamError("a section of a machine's memory ends in another way")
