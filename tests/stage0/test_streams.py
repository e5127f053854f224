"""Decompression and hashing: right bytes, bounded output, damage noticed."""

import bz2
import gzip
import io
import lzma
import os
import random
import threading
import zlib

import pytest
import zstandard

from executor.stage0.errors import ImageBroken
from executor.stage0.streams import CHUNK, Ahead, Hashing, Limits, Reader, decompress

PACKERS = {
    "gzip": lambda data: gzip.compress(data, 6),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "none": lambda data: data,
}
ALL = ("gzip", "zstd", "bzip2", "xz")
DATA = random.Random(1).randbytes(300_000) + b"a" * 300_000


def read(reader: Reader, chunk: int = CHUNK) -> bytes:
    return b"".join(iter(lambda: reader.read(chunk), b""))


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("chunk", [1000, CHUNK])
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "one", "long"])
def test_round_trip(name: str, chunk: int, data: bytes) -> None:
    assert read(decompress(io.BytesIO(PACKERS[name](data)), Limits(), ALL), chunk) == data


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_several_members_are_one_stream(name: str) -> None:
    packed = PACKERS[name](DATA) + PACKERS[name](b"second")
    assert read(decompress(io.BytesIO(packed), Limits(), ALL)) == DATA + b"second"


def test_zero_padding_behind_gzip_is_allowed() -> None:
    packed = gzip.compress(b"data") + bytes(CHUNK * 2 + 5)
    assert read(decompress(io.BytesIO(packed), Limits(), ALL)) == b"data"


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_truncation_is_noticed(name: str) -> None:
    packed = PACKERS[name](DATA)
    for cut in (7, len(packed) // 2, len(packed) - 1):
        with pytest.raises(ImageBroken, match=f"bad {name} data"):
            read(decompress(io.BytesIO(packed[:cut]), Limits(), ALL))


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_damage_is_noticed(name: str) -> None:
    packed = bytearray(PACKERS[name](DATA))
    packed[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff\x00" * 4
    try:
        found = read(decompress(io.BytesIO(bytes(packed)), Limits(), ALL))
    except ImageBroken:
        return
    assert found != DATA  # zstd frames carry no checksum unless asked for: the digests tell


def test_garbage_behind_a_member_is_an_error() -> None:
    with pytest.raises(ImageBroken, match="bad gzip data"):
        read(decompress(io.BytesIO(gzip.compress(b"x") + b"garbage"), Limits(), ALL))


@pytest.mark.parametrize("name", ["bzip2", "xz"])
def test_only_allowed_compressions(name: str) -> None:
    with pytest.raises(ImageBroken, match=f"compressed with {name}; allowed here: gzip, zstd, none"):
        decompress(io.BytesIO(PACKERS[name](DATA)), Limits(), ("gzip", "zstd"))


def bomb(name: str, size: int) -> bytes:
    if name == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    return bytes(PACKERS[name](bytes(size)))


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_a_bomb_is_stopped_by_its_size(name: str) -> None:
    limits = Limits(unpacked_bytes=4 << 20)
    reader = Hashing(decompress(io.BytesIO(bomb(name, 16 << 20)), limits, ALL), "sha256")
    with pytest.raises(ImageBroken, match="unpacks to more than 4194304 bytes"):
        reader.drain()
    assert reader.count <= 4 << 20


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_a_bomb_is_stopped_by_its_ratio(name: str) -> None:
    limits = Limits(ratio=100, ratio_from=1 << 20)
    reader = Hashing(decompress(io.BytesIO(bomb(name, 16 << 20)), limits, ALL), "sha256")
    with pytest.raises(ImageBroken, match="decompression bomb"):
        reader.drain()
    assert reader.count < 16 << 20


def test_an_endless_plain_stream_is_stopped() -> None:
    class Endless:
        def read(self, n: int, /) -> bytes:
            return b"x" * n

    reader = Hashing(decompress(Endless(), Limits(unpacked_bytes=1 << 20), ALL), "sha256")
    with pytest.raises(ImageBroken, match="larger than the limit"):
        reader.drain()


def test_a_zstd_window_that_eats_the_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    packer = zstandard.ZstdCompressor(
        compression_params=parameters
    ).compressobj()  # streaming: the frame says 256 MiB
    packed = packer.compress(DATA) + packer.flush()
    with pytest.raises(ImageBroken, match="bad zstd data"):
        read(decompress(io.BytesIO(packed), Limits(), ALL))


def test_verify_tells_truncation_from_a_wrong_digest() -> None:
    short = Hashing(io.BytesIO(b"abc"), "sha256", size=5)
    short.drain()
    with pytest.raises(ImageBroken, match="has 3 bytes, its descriptor says 5"):
        short.verify("sha256:" + "0" * 64)
    with pytest.raises(ImageBroken, match="longer than the 2 bytes"):
        Hashing(io.BytesIO(b"abc"), "sha256", size=2).drain()
    other = Hashing(io.BytesIO(b"abc"), "sha256")
    other.drain()
    with pytest.raises(ImageBroken, match="expected sha256:000"):
        other.verify("sha256:" + "0" * 64)


class _Stuck:
    """A source that waits until it is woken."""

    def __init__(self) -> None:
        self.asked, self.woken = threading.Event(), threading.Event()

    def read(self, n: int, /) -> bytes:
        self.asked.set()
        assert self.woken.wait(60)
        return b""


def test_ahead_gives_what_the_source_gives() -> None:
    data = os.urandom(3 * CHUNK + 7)
    ahead = Ahead(io.BytesIO(data))
    assert b"".join(iter(lambda: ahead.read(100_000), b"")) == data
    assert ahead.read(1) == b""
    ahead.close()


def test_ahead_raises_what_the_source_raises() -> None:
    class Broken:
        def read(self, n: int, /) -> bytes:
            raise ImageBroken("bad")

    ahead = Ahead(Broken())
    with pytest.raises(ImageBroken, match="bad"):
        ahead.drain()
    assert ahead.read(1) == b""
    ahead.close()


@pytest.mark.parametrize("slots", [0, 1], ids=["source-waits", "reader-does-not-read"])
def test_ahead_ends_with_its_reader(slots: int) -> None:
    stuck = _Stuck()
    ahead = Ahead(stuck if not slots else io.BytesIO(bytes(100 * CHUNK)), stuck.woken.set)
    if not slots:
        assert stuck.asked.wait(60)
    ahead.close()  # joins its thread
    assert stuck.woken.is_set()
