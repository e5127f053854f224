"""Reading containers' logs as `kubectl logs` asks for them: tail, since, timestamps, follow, limit.

The start is looked up, not read up to: lines have columns of fixed width (`logs`), so the n-th line from the end is
found by counting newlines backwards, and a time by bisection. A clock that was set back makes the bisection begin at
some line of about that time; nothing else depends on the order of the stamps.
"""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from executor.pods.logs import MAX_FILES, MAX_LINE, STAMP_WIDTH, TAG_AT, TEXT_AT, LogWriter, rotated, stamp

BLOCK: Final = 64 << 10
FALLBACK_LINES: Final = 80
FALLBACK_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class LogOptions:
    """v1 PodLogOptions. tail: lines; since: Unix time in seconds; limit: bytes of output. None: no such bound."""

    follow: bool = False
    tail: int | None = None
    since: float | None = None
    timestamps: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class _Format:
    since: bytes
    timestamps: bool

    def output(self, block: bytes) -> bytes:
        """Whole lines of a file as they go out."""
        parts: list[bytes] = []
        for line in block.split(b"\n"):
            if len(line) < TEXT_AT or line[:STAMP_WIDTH] < self.since:
                continue
            if self.timestamps:
                parts += (line[:STAMP_WIDTH], b" ")
            parts.append(line[TEXT_AT:])
            if line[TAG_AT : TAG_AT + 1] == b"F":
                parts.append(b"\n")
        return b"".join(parts)


async def read_log(path: Path, options: LogOptions, writer: LogWriter | None = None) -> AsyncIterator[bytes]:
    """The log as asked for, in blocks. With follow and a writer: goes on until that writer closes.

    Raises FileNotFoundError when there is no log (any more).
    """
    left = options.limit
    async for block in _blocks(path, options, writer if options.follow else None):
        if left is not None:
            block = block[:left]
            left -= len(block)
        if block:
            yield block
        if left == 0:
            return


async def _blocks(path: Path, options: LogOptions, writer: LogWriter | None) -> AsyncIterator[bytes]:
    since = b"" if options.since is None else stamp(int(options.since * 1e9))
    style = _Format(since, options.timestamps)
    file, position = _start(path, options, since)
    try:
        file.seek(position)
        while True:
            for block in _whole_lines(file):
                yield style.output(block)
            successor = _successor(writer.path if writer else path, file)
            if successor is not None:
                # What was written before the rotation and after our last read comes first.
                for block in _whole_lines(file):
                    yield style.output(block)
                file.close()
                file = successor
            elif writer is None or writer.closed:
                break
            else:
                await writer.changed()
        for block in _whole_lines(file):
            yield style.output(block)
    finally:
        file.close()


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Blocks of whole lines up to the end of the file; leaves the position after the last whole line."""
    while block := file.read(BLOCK):
        end = block.rfind(b"\n") + 1
        if end < len(block):
            file.seek(end - len(block), os.SEEK_CUR)
        if not end:
            return  # lines are shorter than a block: this is the end, being written
        yield block[:end]


def _files(path: Path) -> list[Path]:
    """The files of a log that are there, oldest first."""
    found = [p for n in range(MAX_FILES - 1, -1, -1) if (p := rotated(path, n)).exists()]
    if not found:
        raise FileNotFoundError(f"no log {path}")
    return found


def _successor(path: Path, file: IO[bytes]) -> IO[bytes] | None:
    """The file that was begun after this one, None for the newest, or when the log was moved or removed."""
    mine = os.fstat(file.fileno())
    try:
        files = _files(path)
    except FileNotFoundError:
        return None
    for number, candidate in enumerate(files):
        there = candidate.stat()
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            return None if number == len(files) - 1 else files[number + 1].open("rb")
    return files[0].open("rb")  # ours has been rotated away meanwhile


def _start(path: Path, options: LogOptions, since: bytes) -> tuple[IO[bytes], int]:
    """The file and position to begin at."""
    files = _files(path)
    if options.tail is not None:
        return _tail_start(files, options.tail)
    if since:
        for candidate in reversed(files):
            file = candidate.open("rb")
            position = _since_start(file, since)
            if position > 0 or candidate == files[0]:
                return file, position
            file.close()
    return files[0].open("rb"), 0


def _tail_start(files: list[Path], lines: int) -> tuple[IO[bytes], int]:
    """Where the last so many lines begin, over all files."""
    for candidate in reversed(files):
        file = candidate.open("rb")
        position, found = _count_back(file, lines)
        if found == lines or candidate == files[0]:
            return file, position
        lines -= found
        file.close()
    raise FileNotFoundError("no log files")


def _count_back(file: IO[bytes], lines: int) -> tuple[int, int]:
    """The position so many lines before the end, and how many lines that are (fewer when the file is shorter)."""
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end, 0
    found, position = -1, end  # the newline at the very end ends the last line, it does not begin one
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        newlines = block.count(b"\n")
        if found + newlines < lines:
            found += newlines
            continue
        cut = len(block)
        while found < lines:
            cut = block.rfind(b"\n", 0, cut)
            found += 1
        return position + cut + 1, lines
    return 0, found + 1


def _since_start(file: IO[bytes], since: bytes) -> int:
    """The position of the first line that is not older."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        middle = (low + high) // 2
        begin, line = _line_at(file, middle)
        if not line or begin >= high:
            high = middle
        elif line[:STAMP_WIDTH] < since:
            low = begin + len(line)
        else:
            high = middle
    begin, _ = _line_at(file, low)
    return begin


def _line_at(file: IO[bytes], position: int) -> tuple[int, bytes]:
    """The first line that begins at or after a position: where it begins, and its text with the newline."""
    begin = position
    if position > 0:
        file.seek(position - 1)
        begin = position - 1 + len(file.readline(2 * MAX_LINE))
    file.seek(begin)
    return begin, file.readline(2 * MAX_LINE)


def last_words(path: Path) -> str:
    """The end of a log, for a termination message: at most 80 lines and 2048 bytes, as the kubelet takes."""
    style = _Format(b"", timestamps=False)
    try:
        files = _files(path)
        file, position = _tail_start(files, FALLBACK_LINES)
    except FileNotFoundError:
        return ""
    with file:
        file.seek(position)
        text = style.output(file.read())
    for newer in files[files.index(Path(file.name)) + 1 :]:
        text += style.output(newer.read_bytes())
    return text[-FALLBACK_BYTES:].decode("utf-8", "replace")
