"""What a stage1 writes, taken apart by its labels."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from executor.contract.console import Console

LABEL = b"[   12.345678] %s[42]: "


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """files(NAME): a descriptor to write to a file of that name."""
    made: list[int] = []

    def make(name: str) -> int:
        made.append(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def finish(console: Console) -> None:
    for fd in console.fds:
        os.close(fd)
    console.close()


async def test_lines_go_where_their_labels_say(files: Callable[[str], int], tmp_path: Path) -> None:
    console = Console((files("out"), files("err")))
    console.add("a", files("a"))
    out, err = console.fds
    os.write(out, b"booting\n" + LABEL % b"a" + b"one\r\n" + LABEL % b"b" + b"unknown\n")
    os.write(err, LABEL % b"a" + b"two\n[ odd ] a[1]: three\n")
    finish(console)
    assert (tmp_path / "a").read_text() == "one\ntwo\n"
    assert (tmp_path / "out").read_bytes() == b"booting\n" + LABEL % b"b" + b"unknown\n"
    assert (tmp_path / "err").read_text() == "[ odd ] a[1]: three\n"


async def test_a_line_may_come_in_pieces(files: Callable[[str], int], tmp_path: Path) -> None:
    console = Console((files("out"), files("err")))
    console.add("a", files("a"))
    line = LABEL % b"a" + b"x" * 200_000 + b"\n"
    for piece in (line[:9], line[9:20], line[20:50_000], line[50_000:150_000], line[150_000:], b"question? "):
        for at in range(0, len(piece), 4096):
            os.write(console.fds[0], piece[at : at + 4096])
            console.drain()
    assert (tmp_path / "out").read_text() == "question? "  # at once: nobody waits for its end
    finish(console)
    assert (tmp_path / "a").read_text() == "x" * 200_000 + "\n"


async def test_an_app_that_was_removed_and_the_next_of_its_name(
    files: Callable[[str], int], tmp_path: Path
) -> None:
    console = Console((files("out"), files("err")))
    for number in range(2):
        console.add("a", files(f"a{number}"))
        os.write(console.fds[0], LABEL % b"a" + b"%d\n" % number)
        console.drain()
    console.remove("a")
    os.write(console.fds[0], LABEL % b"a" + b"late\n")
    finish(console)
    assert [(tmp_path / name).read_text() for name in ("a0", "a1")] == ["0\n", "1\n"]
    assert (tmp_path / "out").read_bytes() == LABEL % b"a" + b"late\n"


async def test_what_comes_too_early_is_kept(files: Callable[[str], int], tmp_path: Path) -> None:
    console = Console((files("out"), files("err")), ["a", "never"])
    os.write(console.fds[0], LABEL % b"a" + b"one\n" + LABEL % b"b" + b"other\n")
    console.drain()
    console.add("a", files("a"))
    os.write(console.fds[0], LABEL % b"a" + b"two\n")
    finish(console)
    assert (tmp_path / "a").read_text() == "one\ntwo\n"
    assert (tmp_path / "out").read_bytes() == LABEL % b"b" + b"other\n"


async def test_who_does_not_read_holds_up_the_stage1_and_not_us(files: Callable[[str], int]) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    console = Console((files("out"), files("err")))
    console.add("a", writing)
    os.close(writing)
    os.set_blocking(console.fds[0], False)
    text, sent = (LABEL % b"a" + b"y" * 2000 + b"\n") * 2000, 0
    full = 0
    while full < 20:  # also after it had time to read
        try:
            sent += os.write(console.fds[0], text[sent : sent + 4096])
            full = 0
        except BlockingIOError:
            full += 1
            await asyncio.sleep(0.01)
    assert sent < len(text)
    got = bytearray()
    os.set_blocking(reading, False)
    async with asyncio.timeout(60):
        while got.count(b"\n") < 2000:
            await asyncio.sleep(0.001)
            with suppress(BlockingIOError):
                sent += os.write(console.fds[0], text[sent : sent + 4096])
            with suppress(BlockingIOError):
                got.extend(os.read(reading, 65536))
    finish(console)
    os.close(reading)
    assert set(got) == {ord("y"), ord("\n")}


async def test_who_has_gone_is_no_error(files: Callable[[str], int], tmp_path: Path) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    console = Console((files("out"), files("err")))
    console.add("a", writing)
    os.close(writing)
    os.close(reading)
    os.write(console.fds[0], LABEL % b"a" + b"lost\nkept\n")
    finish(console)
    assert (tmp_path / "out").read_text() == "kept\n"
