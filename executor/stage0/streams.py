"""Byte streams of an import: hashing and decompression on the fly, with bounds.

    blob ─▶ Hashing (digest, size) ─▶ Decompressor (bounded) ─▶ Hashing (diff_id) ─▶ TarReader ─▶ files

Every stage is a `Reader`; nothing is held but one chunk, or a few where a thread of its own reads ahead (`Ahead`). A
bomb is stopped by what has come out so far (`Limits`), never by what a header promises. hashlib and the decompressors
work outside the GIL, so layers import in parallel.
"""

import bz2
import hashlib
import hmac
import lzma
import os
import queue
import threading
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import IO, Protocol, cast

import zstandard

from executor.stage0.errors import ImageBroken

CHUNK = 256 * 1024
MiB = 1024 * 1024


class Reader(Protocol):
    """Anything with a blocking `read`: at most n bytes, b"" only at the end."""

    def read(self, n: int, /) -> bytes: ...


@dataclass(frozen=True)
class Limits:
    """What one layer may grow to. A breach is ImageBroken; it is not an estimate but what was really read."""

    unpacked_bytes: int = 64 * 1024 * MiB
    entries: int = 1_000_000
    ratio: int = (
        200  # unpacked : packed, looked at once `ratio_from` bytes came out (small files compress anyhow)
    )
    ratio_from: int = 1024 * MiB
    header_bytes: int = MiB  # one pax or GNU long-name header
    path_bytes: int = 4095  # PATH_MAX without its NUL
    lzma_memory: int = 256 * MiB
    zstd_window: int = 128 * MiB


class Slice:
    """A range of an open file, read by offset: any number of them may read one file at a time, in any threads."""

    def __init__(self, fd: int, start: int = 0, end: int | None = None) -> None:
        self._fd, self._at = fd, start
        self._end = os.fstat(fd).st_size if end is None else end

    def read(self, n: int, /) -> bytes:
        data = os.pread(self._fd, min(n, self._end - self._at), self._at) if self._at < self._end else b""
        self._at += len(data)
        return data

    def skip(self, n: int) -> int:
        """Go on n bytes later; how many of them there were."""
        there = min(n, max(self._end - self._at, 0))
        self._at += there
        return there

    def close(self) -> None:
        """The file belongs to somebody else."""


class Hashing:
    """Passes bytes through, hashing and counting them; `verify` compares with what was promised."""

    def __init__(self, source: Reader, algorithm: str, *, size: int | None = None) -> None:
        self._source, self._size = source, size
        self._algorithm, self._hash = algorithm, hashlib.new(algorithm)
        self.count = 0

    def read(self, n: int, /) -> bytes:
        data = self._source.read(n)
        self.count += len(data)
        if self._size is not None and self.count > self._size:
            raise ImageBroken(f"is longer than the {self._size} bytes that its descriptor says")
        self._hash.update(data)
        return data

    def drain(self) -> None:
        """Read the rest, so that the digest covers everything."""
        while self.read(CHUNK):
            pass

    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def verify(self, expected: str) -> None:
        """ImageBroken when size or digest differ; call after `drain`."""
        if self._size is not None and self.count != self._size:
            raise ImageBroken(f"has {self.count} bytes, its descriptor says {self._size}: truncated")
        if not hmac.compare_digest(self.digest(), expected):
            raise ImageBroken(f"digest is {self.digest()}, expected {expected}")


class Ahead:
    """Reads its source in a thread of its own, some chunks ahead of whoever reads from here.

    So that one thread fetches, hashes and decompresses while another makes files. `close` before the source is closed;
    wake is called in it, to end a read of the source that waits for somebody else.
    """

    SLOTS = 16

    def __init__(self, source: Reader, wake: Callable[[], None] | None = None) -> None:
        self._source, self._wake = source, wake
        self._room = threading.Semaphore(self.SLOTS)
        self._queue: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._stopped = self._ended = False
        self._rest = b""
        self._thread = threading.Thread(target=self._run, name="layer", daemon=True)
        self._thread.start()

    def read(self, n: int, /) -> bytes:
        if self._ended:
            return b""
        if not self._rest:
            item = self._queue.get()
            self._room.release()
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            self._ended, self._rest = not item, item
        if len(self._rest) <= n:
            data, self._rest = self._rest, b""
        else:
            data, self._rest = self._rest[:n], self._rest[n:]
        return data

    def drain(self) -> None:
        """Read the rest."""
        while self.read(CHUNK):
            pass

    def close(self) -> None:
        """End the thread; nothing of ours touches the source from then on."""
        over, self._ended, self._stopped = self._ended, True, True
        self._room.release()
        if not over and self._wake is not None:
            self._wake()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._room.acquire()
            if self._stopped:
                return
            try:
                data = self._source.read(CHUNK)
            except BaseException as error:  # noqa: BLE001 - the reader's thread raises it
                self._queue.put(error)
                return
            self._queue.put(data)
            if not data:
                return


def algorithm(digest: str) -> str:
    """`sha256` of `sha256:…`; the caller has checked the form (names.is_digest)."""
    return digest.partition(":")[0]


def check_bytes(data: bytes, digest: str, what: str) -> None:
    """A whole document against its digest."""
    found = f"{algorithm(digest)}:{hashlib.new(algorithm(digest), data).hexdigest()}"
    if not hmac.compare_digest(found, digest):
        raise ImageBroken(f"{what}: digest is {found}, expected {digest}")


class _Plain:
    """No compression; gives back the bytes that were read to find that out."""

    def __init__(self, source: Reader, head: bytes, limits: Limits) -> None:
        self._source, self._head, self._left = source, head, limits.unpacked_bytes

    def read(self, n: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:n], self._head[n:]
        else:
            data = self._source.read(n)
        self._left -= len(data)
        if self._left < 0:
            raise ImageBroken("is larger than the limit for unpacked layers")
        return data


class _Codec(Protocol):
    """What zlib, bz2 and lzma decompressors share, after adapting: bounded output, eof, left-over input."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...


class _Zlib:
    """zlib's decompressobj behind the interface that bz2 and lzma have."""

    def __init__(self) -> None:
        self._z = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._z.eof

    @property
    def unused_data(self) -> bytes:
        return self._z.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._z.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._z.decompress(
            self._z.unconsumed_tail + data if data else self._z.unconsumed_tail, max_length
        )


def _gzip() -> tuple[Callable[[], _Codec], type[Exception]]:
    """The faster of two decompressors, and its error: ISA-L (x86-64 and ARM only) takes half of zlib's time."""
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib, zlib.error
    return partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP), cast(
        "type[Exception]", igzip_lib.IsalError
    )


_new_gzip, _GzipError = _gzip()
_BAD_DATA = (_GzipError, OSError, lzma.LZMAError, EOFError)


class _Members:
    """gzip, bzip2 and xz: one or more members one after the other, zero padding behind the last allowed."""

    def __init__(
        self, source: Reader, head: bytes, new: Callable[[], _Codec], limits: Limits, name: str
    ) -> None:
        self._source, self._input, self._new, self._name = source, head, new, name
        self._limits = limits
        self._codec: _Codec | None = new()
        self._in, self._out = len(head), 0

    def read(self, n: int, /) -> bytes:
        while self._codec is not None:
            try:
                data = self._step(self._codec, n)
            except _BAD_DATA as error:
                raise ImageBroken(f"bad {self._name} data: {error}") from None
            if data:
                self._account(len(data))
                return data
        return b""

    def _step(self, codec: _Codec, n: int) -> bytes:
        if codec.eof:
            self._next_member(codec)
            return b""
        if codec.needs_input and not self._input:
            self._fill()
            if not self._input:
                raise EOFError("truncated")
        data, self._input = codec.decompress(self._input, n), b""
        return data

    def _next_member(self, codec: _Codec) -> None:
        rest = codec.unused_data.lstrip(b"\0") or self._fill().lstrip(b"\0")
        while not rest and self._input:
            rest = self._fill().lstrip(b"\0")
        self._input = rest
        self._codec = self._new() if rest else None

    def _fill(self) -> bytes:
        self._input = self._source.read(CHUNK)
        self._in += len(self._input)
        return self._input

    def _account(self, count: int) -> None:
        self._out += count
        _check_growth(self._in, self._out, self._limits)


class _Zstd:
    """zstandard's stream reader: bounded output. A cut-off frame just ends; tar's end and the diff_id tell."""

    def __init__(self, source: Reader, head: bytes, limits: Limits) -> None:
        self._counted = _Counted(source, head)
        self._limits, self._out = limits, 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=limits.zstd_window)
        self._stream = decompressor.stream_reader(cast("IO[bytes]", self._counted), read_across_frames=True)

    def read(self, n: int, /) -> bytes:
        try:
            data: bytes = self._stream.read(n)
        except zstandard.ZstdError as error:
            raise ImageBroken(f"bad zstd data: {error}") from None
        self._out += len(data)
        _check_growth(self._counted.count, self._out, self._limits)
        return data


class _Counted:
    def __init__(self, source: Reader, head: bytes) -> None:
        self._source, self._head, self.count = source, head, 0

    def read(self, n: int = -1, /) -> bytes:
        if self._head:
            data, self._head = self._head, b""
        else:
            data = self._source.read(n if n > 0 else CHUNK)
        self.count += len(data)
        return data


def _check_growth(packed: int, unpacked: int, limits: Limits) -> None:
    if unpacked > limits.unpacked_bytes:
        raise ImageBroken(f"unpacks to more than {limits.unpacked_bytes} bytes")
    if unpacked > limits.ratio_from and unpacked > limits.ratio * max(packed, 1):
        raise ImageBroken(f"unpacks to more than {limits.ratio} times its size: a decompression bomb")


def compression(head: bytes) -> str:
    """gzip, zstd, bzip2, xz or none, by a stream's first six bytes."""
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head[:3] == b"BZh":
        return "bzip2"
    return "xz" if head == b"\xfd7zXZ\0" else "none"


def decompress(source: Reader, limits: Limits, allowed: Collection[str]) -> Reader:
    """The plain bytes of a stream, compression found by its magic number.

    allowed: of "gzip", "zstd", "bzip2", "xz"; no compression is always allowed. Source: RFC 1952, RFC 8878,
    appc `spec/aci/file.go` (magic numbers).
    """
    head = read_up_to(source, 6)
    name = compression(head)
    if name == "none":
        return _Plain(source, head, limits)
    if name not in allowed:
        raise ImageBroken(f"is compressed with {name}; allowed here: {', '.join(sorted(allowed))}, none")
    if name == "zstd":
        return _Zstd(source, head, limits)
    makers: dict[str, Callable[[], _Codec]] = {
        "gzip": _new_gzip,
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.lzma_memory),
    }
    return _Members(source, head, makers[name], limits, name)


def read_up_to(source: Reader, n: int) -> bytes:
    """n bytes, fewer only at the end of the stream."""
    data = source.read(n)
    while len(data) < n:
        more = source.read(n - len(data))
        if not more:
            break
        data += more
    return data
