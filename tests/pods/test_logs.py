"""Containers' logs: what is written, and what is read back."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.pods.logread import LogOptions, last_words, read_log
from executor.pods.logs import MAX_LINE, LogWriter, stamp


class Clock:
    """Nanoseconds that go on by one second for each look."""

    def __init__(self) -> None:
        self.seconds = 1_000_000

    def __call__(self) -> int:
        self.seconds += 1
        return self.seconds * 10**9 + 5


async def read(path: Path, options: LogOptions | None = None, writer: LogWriter | None = None) -> bytes:
    return b"".join([block async for block in read_log(path, options or LogOptions(), writer)])


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    made = LogWriter(tmp_path / "0.log", clock=Clock())
    yield made
    made.close()


def test_the_stamp_has_a_fixed_width() -> None:
    assert stamp(0) == b"1970-01-01T00:00:00.000000000Z"
    assert stamp(1_767_323_045_123_456_789) == b"2026-01-02T03:04:05.123456789Z"


def test_lines_in_the_cri_format(writer: LogWriter) -> None:
    writer.feed("stdout", b"one\ntwo\nth")
    writer.feed("stderr", b"bad\n")
    writer.feed("stdout", b"ree\n\n")
    writer.feed("stdout", b"no newline")
    writer.close()
    assert writer.path.read_bytes().splitlines() == [
        b"1970-01-12T13:46:41.000000005Z stdout F one",
        b"1970-01-12T13:46:41.000000005Z stdout F two",
        b"1970-01-12T13:46:42.000000005Z stderr F bad",
        b"1970-01-12T13:46:43.000000005Z stdout F three",
        b"1970-01-12T13:46:43.000000005Z stdout F ",
    ]


async def test_a_last_line_without_newline_is_kept_as_it_was(tmp_path: Path) -> None:
    made = LogWriter(tmp_path / "0.log")
    end = made.attach("stdout")
    os.write(end, b"one\nend")
    os.close(end)
    made.close()
    assert await read(made.path) == b"one\nend"


async def test_a_long_line_comes_in_parts_and_back_whole(writer: LogWriter) -> None:
    text = bytes(range(65, 91)) * 2000  # 52,000 bytes
    writer.feed("stdout", text[:30_000])
    writer.feed("stdout", text[30_000:] + b"\nnext\n")
    tags = [line.split(b" ", 3)[2] for line in writer.path.read_bytes().splitlines()]
    assert tags == [b"P", b"P", b"P", b"F", b"F"]
    assert await read(writer.path) == text + b"\nnext\n"


CHUNKS = st.lists(st.binary(max_size=60) | st.just(b"\n") | st.just(b"x" * (MAX_LINE + 7)), max_size=12)


@settings(deadline=None, max_examples=60)
@given(CHUNKS, st.integers(0, 6))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], tail: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    made = LogWriter(path, max_bytes=40_000, max_files=50)
    for chunk in chunks:
        made.feed("stdout", chunk)
    made.feed("stdout", b"\n")
    made.close()
    whole = b"".join(chunks) + b"\n"
    assert asyncio.run(read(path)) == whole if len(whole) < 90_000 else True
    if max(map(len, whole.split(b"\n"))) <= MAX_LINE:
        lines = whole.split(b"\n")[:-1]
        expected = b"".join(line + b"\n" for line in (lines[-tail:] if tail else []))
        assert asyncio.run(read(path, LogOptions(tail=tail))) == expected


async def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    made = LogWriter(tmp_path / "0.log", max_bytes=1000, max_files=3, clock=Clock())
    for number in range(100):
        made.feed("stdout", b"%04d\n" % number)
    made.close()
    files = sorted(os.listdir(tmp_path))
    assert files == ["0.log", "0.log.1", "0.log.2"]
    assert all(os.path.getsize(tmp_path / f) <= 1000 for f in files)
    lines = (await read(tmp_path / "0.log")).split()
    assert lines == [b"%04d" % n for n in range(100 - len(lines), 100)]
    assert len(lines) > 40
    assert await read(tmp_path / "0.log", LogOptions(tail=30)) == b"".join(
        b"%04d\n" % n for n in range(70, 100)
    )


@pytest.mark.parametrize("since", [0, 1, 37, 99, 100, 101, 500])
async def test_since_over_rotated_files(tmp_path: Path, since: int) -> None:
    made = LogWriter(tmp_path / "0.log", max_bytes=1000, max_files=5, clock=Clock())
    for number in range(1, 101):
        made.feed("stdout", b"%d\n" % number)
    made.close()
    kept = [int(line) for line in (await read(made.path)).split()]
    got = [int(line) for line in (await read(made.path, LogOptions(since=1_000_000.0 + since))).split()]
    assert got == [n for n in kept if n >= since]


async def test_tail_since_and_limit_together(writer: LogWriter) -> None:
    for number in range(1, 11):
        writer.feed("stdout", b"line %d\n" % number)
    options = LogOptions(tail=5, since=1_000_008.0, limit=9)
    assert await read(writer.path, options) == b"line 8\nli"


async def test_timestamps(writer: LogWriter) -> None:
    writer.feed("stdout", b"a\nb\n")
    assert await read(writer.path, LogOptions(timestamps=True)) == (
        b"1970-01-12T13:46:41.000000005Z a\n1970-01-12T13:46:41.000000005Z b\n"
    )


async def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await read(tmp_path / "none.log")


async def follower(path: Path, writer: LogWriter, options: LogOptions) -> AsyncIterator[bytes]:
    async for block in read_log(path, options, writer):
        yield block


async def test_follow_sees_lines_as_they_come_and_ends_with_the_writer(tmp_path: Path) -> None:
    made = LogWriter(tmp_path / "0.log")
    made.feed("stdout", b"old\nnew\n")
    blocks = follower(made.path, made, LogOptions(follow=True, tail=1))
    assert await anext(blocks) == b"new\n"
    waiting = asyncio.ensure_future(anext(blocks))
    await asyncio.sleep(0)
    made.feed("stdout", b"incomplete")
    await asyncio.sleep(0)
    assert not waiting.done()
    made.feed("stdout", b" line\n")
    async with asyncio.timeout(60):
        assert await waiting == b"incomplete line\n"
    made.close()
    async with asyncio.timeout(60):
        assert [block async for block in blocks] == []


async def test_follow_goes_on_over_rotations(tmp_path: Path) -> None:
    made = LogWriter(tmp_path / "0.log", max_bytes=600, max_files=3)
    got = b""

    async def collect() -> None:
        nonlocal got
        async for block in read_log(made.path, LogOptions(follow=True), made):
            got += block

    reading = asyncio.ensure_future(collect())
    for number in range(200):
        made.feed("stdout", b"%d\n" % number)
        await asyncio.sleep(0)
    made.close()
    async with asyncio.timeout(60):
        await reading
    assert [int(n) for n in got.split()] == list(range(200))


async def test_pipes_are_read_to_their_end(tmp_path: Path) -> None:
    made = LogWriter(tmp_path / "0.log")
    out, err = made.attach("stdout"), made.attach("stderr")
    os.write(out, b"to out\n")
    os.write(err, b"to err\n")
    os.close(out)
    async with asyncio.timeout(60):
        while b"to err" not in made.path.read_bytes():
            await made.changed()
    os.write(err, b"last words")
    os.close(err)
    made.close()  # reads what is still in the pipe
    lines = made.path.read_text().splitlines()
    assert sorted(re.sub(r"^\S+ ", "", line) for line in lines) == [
        "stderr F to err",
        "stderr P last words",
        "stdout F to out",
    ]


async def test_a_full_disk_loses_lines_not_the_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = LogWriter(Path("/dev/full"))
    made.feed("stdout", b"lost\n")
    made.feed("stdout", b"lost too\n")
    made.close()
    assert len([r for r in caplog.records if "No space left" in r.getMessage()]) == 1


def test_last_words(writer: LogWriter) -> None:
    assert last_words(writer.path.with_name("none")) == ""
    for number in range(100):
        writer.feed("stdout", b"%d\n" % number)
    assert last_words(writer.path) == "".join(f"{n}\n" for n in range(20, 100))
    writer.feed("stdout", b"x" * 5000 + b"\n")
    assert last_words(writer.path) == "x" * 2047 + "\n"
