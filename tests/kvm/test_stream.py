"""What a template is written as, and what a machine reads of it that goes on from it."""

import asyncio
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from executor.kvm import stream
from executor.kvm.stream import StreamError
from executor.kvm.template import Template

PAGE = 4096
END = struct.pack(">Q", 0x10)
FOOTER = struct.pack(">BI", 0x7E, 2)


def head(*blocks: tuple[bytes, int]) -> bytes:
    total = sum(size for _, size in blocks)
    named = b"".join(bytes((len(name),)) + name + struct.pack(">Q", size) for name, size in blocks)
    start = struct.pack(">BIB3sIIQ", 1, 2, 3, b"ram", 0, 4, total | 0x04)
    return b"QEVM" + struct.pack(">IBI", 3, 7, 7) + b"microvm" + start + named + END + FOOTER


def section(kind: int, *pages: bytes) -> bytes:
    return struct.pack(">BI", kind, 2) + b"".join(pages) + END + FOOTER


def page(offset: int, content: bytes, block: bytes = b"") -> bytes:
    flags = (0x08 if len(content) == PAGE else 0x02) | (0 if block else 0x20)
    return struct.pack(">Q", offset | flags) + (bytes((len(block),)) + block if block else b"") + content


def test_pages_that_are_zero_or_written_again_are_left_out() -> None:
    a, b, zero = b"a" * PAGE, b"b" * PAGE, b"\0"
    blocks = head((b"memory", 4 * PAGE), (b"firmware", PAGE))
    devices = b"\x04 whatever follows: as it is \x7e"
    written = b"".join((
        blocks,
        section(2, page(0, a, b"memory"), page(PAGE, zero), page(2 * PAGE, a)),
        section(2, page(3 * PAGE, a), page(0, zero, b"firmware")),
        section(3, page(2 * PAGE, b, b"memory"), page(3 * PAGE, zero)),
        devices,
    ))  # fmt: skip
    lean = b"".join(stream.lean(memoryview(written)))
    kept = section(3, page(0, a, b"memory"), page(2 * PAGE, b), page(0, zero, b"firmware"))
    assert lean == blocks + kept + devices
    assert b"".join(stream.lean(memoryview(lean))) == lean


def test_a_machine_with_more_memory_is_told_so_in_the_head() -> None:
    blocks = [(b"memory", 4 * PAGE), (b"firmware", PAGE)]
    rest = section(3, page(0, b"a" * PAGE, b"memory"), page(0, b"b" * PAGE, b"firmware")) + b"\x04 devices"
    written = head(*blocks) + rest
    more = head((b"memory", 1 << 33), blocks[1])
    assert stream.resized(written[:4096], 1 << 33) == (more, len(more))
    assert stream.resized(more, 4 * PAGE)[0] == head(*blocks)
    with pytest.raises(StreamError, match="not the size that it says"):
        stream.resized(head(blocks[1]) + rest, 1 << 33)


def _all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


async def test_a_template_is_poured_until_nobody_reads(tmp_path: Path) -> None:
    """What is left is nobody's: a machine that has ended, or has all that it needs."""
    start, rest = head((b"memory", 4 * PAGE)), os.urandom(3 << 20)
    path = tmp_path / "a.template"
    path.write_bytes(start + rest)
    template = Template(path, {})
    whole, pouring = template.pour(8 * PAGE)
    task = asyncio.create_task(pouring)
    assert await asyncio.to_thread(_all, whole) == head((b"memory", 8 * PAGE)) + rest
    await task
    part, pouring = template.pour(8 * PAGE)
    task = asyncio.create_task(pouring)
    try:
        assert await asyncio.to_thread(os.read, part, 1), "it is being written"
    finally:
        os.close(part)
    await asyncio.wait_for(task, 60)
    path.write_bytes(b"what?")
    with pytest.raises(StreamError):
        template.pour(8 * PAGE)
    template.close()
    assert str(path) not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: b"QEVN" + data[4:], "another version"),
        (lambda data: data[:-PAGE], "too early"),
        (lambda data: data.replace(b"\x03ram", b"\x03rum"), "something else"),
        (lambda data: data.replace(page(0, b"a" * PAGE), struct.pack(">Q", 0x128)), "another way: 0x128"),
    ],
)
def test_what_is_no_stream_that_we_know_is_refused(damage: Any, what: str) -> None:
    good = (
        head((b"memory", PAGE))
        + section(2, page(0, b"b" * PAGE, b"memory"), page(0, b"a" * PAGE))
        + section(3)
    )
    list(stream.lean(memoryview(good)))
    with pytest.raises(StreamError, match=what):
        list(stream.lean(memoryview(damage(good))))
