"""What a layer's tar has beside the content of its files, so that the tar can be put together again from the tree.

    tar ─▶ Tap ─▶ TarReader ─▶ tree          tree + split ─▶ Joined ─▶ the same tar, byte by byte

So a layer can be checked against the digest that its image promised long after the tar has gone, and exported as it
was. It costs headers, well compressed, and no second hash. A file that a later entry of the same tar replaced is kept
here. (The idea is that of `tar-split`.) The file: zstd of records

    b"M" u32 length, bytes                  goes into the tar as it is
    b"C" u16 length, name, u64 size         the content of a file of the tree
    b"R" u16 length, name, u64 size, bytes  what the first "C" of this name without one meant
"""

import os
import stat
import struct
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import zstandard

from executor.stage0.errors import ImageBroken
from executor.stage0.streams import CHUNK, Reader
from executor.stage0.tarstream import Entry, Kind

_NAME = struct.Struct("<cHQ")
_META = struct.Struct("<cI")
_FLUSH = 256 * 1024
_AHEAD = 4 * CHUNK  # more than a TarReader holds unread


class Tap:
    """Passes a tar through to its reader and notes what is not content. `entry` has to be told of every entry.

    root: of the tree, an fd; the name of an entry in the tree is what `entry` is given, "" for what is not in it.
    """

    def __init__(self, source: Reader, path: Path, root: int) -> None:
        self._source, self._root = source, root
        self._file: IO[bytes] = path.open("wb")
        self._out: Any = zstandard.ZstdCompressor(level=1).stream_writer(self._file, closefd=False)
        self._at = self._content_to = 0
        self._pending = b""
        self._meta = bytearray()
        self._seen: set[str] = set()

    def read(self, n: int, /) -> bytes:
        data = self._source.read(n)
        self._at += len(data)
        fresh = self._at - self._content_to
        if fresh >= len(data):
            self._pending = self._pending + data if self._pending else data
            if len(self._pending) > 4 * _AHEAD:
                self._note(len(self._pending) - _AHEAD)  # the reader has passed by these
        elif fresh > 0:
            self._pending = data[-fresh:]
        return data

    def entry(self, entry: Entry, name: str) -> None:
        """The reader has just given this entry: what came before its content is known to be no content."""
        if name in self._seen and entry.kind is not Kind.DIRECTORY:
            self._keep(name)
        size = entry.size if entry.kind is Kind.FILE and name else 0
        if not size:
            return
        start = self._at - len(self._pending)
        self._note(entry.offset - start)
        self._flush()
        raw = os.fsencode(name)
        self._out.write(_NAME.pack(b"C", len(raw), size) + raw)
        self._seen.add(name)
        self._content_to = entry.offset + size
        self._pending = self._pending[size:]

    def drain(self) -> None:
        """Read the rest of the source."""
        while self.read(CHUNK):
            pass

    def close(self) -> None:
        """Write what is left. The tree still has what was noted."""
        try:
            self._note(len(self._pending))
            self._flush()
            self._out.close()
        finally:
            self._file.close()

    def _note(self, length: int) -> None:
        self._meta += self._pending[:length]
        self._pending = self._pending[length:]
        if len(self._meta) > _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self._meta:
            self._out.write(_META.pack(b"M", len(self._meta)) + self._meta)
            self._meta.clear()

    def _keep(self, name: str) -> None:
        """A file is about to be replaced: its content would be gone."""
        self._seen.discard(name)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        try:
            raw, left = os.fsencode(name), os.fstat(fd).st_size
            self._flush()
            self._out.write(_NAME.pack(b"R", len(raw), left) + raw)
            while left and (data := os.read(fd, min(CHUNK, left))):
                self._out.write(data)
                left -= len(data)
        finally:
            os.close(fd)


class Joined:
    """The tar again, as a Reader. tree: an fd. ImageBroken when a file is not there or has another size.

    Nothing is believed about the tree: no link is followed, nothing but regular files is opened.
    """

    def __init__(self, path: Path, tree: int) -> None:
        self._path, self._tree = path, tree
        self._replaced = self._offsets()
        self._parts = self._run()
        self._rest = b""

    def read(self, n: int, /) -> bytes:
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._rest = part
        data, self._rest = self._rest[:n], self._rest[n:]
        return data

    def close(self) -> None:
        self._parts.close()

    def _offsets(self) -> dict[str, int]:
        """How often each name was replaced."""
        found: dict[str, int] = {}
        with _Records(self._path) as records:
            while (record := records.next()) is not None:
                kind, name, size = record
                if kind == b"R":
                    found[name] = found.get(name, 0) + 1
                if kind != b"C":
                    records.skip(size)
        return found

    def _run(self) -> Generator[bytes, None, None]:
        seen: dict[str, int] = {}
        with _Records(self._path) as records:
            while (record := records.next()) is not None:
                kind, name, size = record
                if kind == b"M":
                    yield records.read(size)
                elif kind == b"R":
                    records.skip(size)
                elif seen.get(name, 0) < self._replaced.get(name, 0):
                    number = seen[name] = seen.get(name, 0) + 1
                    yield from self._old(name, number)
                else:
                    yield from self._content(name, size)

    def _old(self, name: str, number: int) -> Generator[bytes, None, None]:
        """The content that the n-th replacement of this name took away. Rare, so it is looked for from the start."""
        with _Records(self._path) as records:
            while (record := records.next()) is not None:
                kind, there, size = record
                if kind == b"C":
                    continue
                number -= kind == b"R" and there == name
                if number == 0:
                    while size:
                        data = records.read(min(size, CHUNK))
                        size -= len(data)
                        yield data
                    return
                records.skip(size)

    def _content(self, name: str, size: int) -> Generator[bytes, None, None]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._tree)
        except OSError as error:
            raise ImageBroken(f"{name[:200]!r}: {error.strerror}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size != size:
                raise ImageBroken(f"{name[:200]!r} has {info.st_size} bytes, the image says {size}")
            while size:
                data = os.read(fd, min(CHUNK, size))
                if not data:
                    raise ImageBroken(f"{name[:200]!r} became shorter while it was read")
                size -= len(data)
                yield data
        finally:
            os.close(fd)


class _Records:
    """Reads a split. ImageBroken when it is damaged."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            raise ImageBroken("the store has no notes on how this layer was put together") from None
        self._stream = zstandard.ZstdDecompressor().stream_reader(self._file)

    def __enter__(self) -> "_Records":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def next(self) -> tuple[bytes, str, int] | None:
        """(kind, name, bytes that follow; for "C" the content's)."""
        kind = self._some(1)
        if not kind:
            return None
        if kind == b"M":
            return kind, "", int(_META.unpack(kind + self.read(_META.size - 1))[1])
        if kind not in {b"C", b"R"}:
            raise ImageBroken("the store's notes on this layer are damaged")
        _, length, size = _NAME.unpack(kind + self.read(_NAME.size - 1))
        return kind, os.fsdecode(self.read(length)), int(size)

    def read(self, n: int) -> bytes:
        data = self._some(n)
        if len(data) != n:
            raise ImageBroken("the store's notes on this layer are cut off")
        return data

    def skip(self, n: int) -> None:
        while n:
            n -= len(self.read(min(n, CHUNK)))

    def _some(self, n: int) -> bytes:
        data = b""
        try:
            while len(data) < n and (more := self._stream.read(n - len(data))):
                data += more
        except zstandard.ZstdError as error:
            raise ImageBroken(f"the store's notes on this layer are damaged: {error}") from None
        return data
