"""Writing containers' logs: from an app's pipes to files in the CRI format, with rotation.

A line of a file is `<RFC 3339, nanoseconds, UTC> <stdout|stderr> <F|P> <text>`; P marks a part of a line that was
longer than 16 KiB (Kubernetes `pkg/kubelet/kuberuntime/logs`, design "CRI logging"). The columns before the text have
one fixed width, so that `logread` can look things up without parsing. A write is never synced: a log may lose its end
with the machine, not with the executor. Reading is in `logread`.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from executor.pods import fds

log = logging.getLogger(__name__)

Stream = Literal["stdout", "stderr"]

STAMP_WIDTH: Final = len("2026-01-02T03:04:05.123456789Z")
TAG_AT: Final = STAMP_WIDTH + len(" stdout ")
TEXT_AT: Final = TAG_AT + len("F ")

MAX_LINE: Final = 16 << 10
MAX_BYTES: Final = 10 << 20
MAX_FILES: Final = 5


def stamp(nanoseconds: int) -> bytes:
    """Unix time in ns as the first column of a line."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), rest)


class LogWriter:
    """The log of one instance of a container. Owned by the event loop; no thread may touch it.

    path: the newest file; older ones are path.1, path.2, …. max_bytes: size at which a file is full; max_files: how
    many are kept, the newest included.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.closed = False
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._clock = clock
        self._open_end: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._readers: dict[int, Stream] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self.taps: set[Callable[[Stream, bytes], None]] = set()
        """Called with what the app writes, as it comes; with b"" at the end. They must not wait."""
        self._lost = 0
        self._fd = self._create()
        self._size = os.fstat(self._fd).st_size

    # --- pipes ---

    def attach(self, stream: Stream) -> int:
        """Make a pipe for a stream; returns the end that the app writes to, which the caller closes."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self._readers[reading] = stream
        asyncio.get_running_loop().add_reader(reading, self._readable, reading)
        return writing

    def adopt(self, fd: int) -> None:
        """Read what comes from a terminal, too; the descriptor is ours from now on."""
        os.set_blocking(fd, False)
        self._readers[fd] = "stdout"
        asyncio.get_running_loop().add_reader(fd, self._readable, fd)

    def _readable(self, fd: int) -> None:
        """One read for each turn of the loop, so that a container that shouts does not silence the others."""
        data = fds.read_now(fd)
        if data is None:
            return
        if data:
            self.feed(self._readers[fd], data)
        else:
            self._detach(fd)

    def _detach(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._finish(self._readers.pop(fd))

    def close(self) -> None:
        """Read what is left in the pipes, and end the log. For when no process of the app is left."""
        for fd in list(self._readers):
            self._drain(fd)
            self._detach(fd)
        if not self.closed:
            self.closed = True
            os.close(self._fd)
            self._wake()
            for tap in tuple(self.taps):
                tap("stdout", b"")

    def _drain(self, fd: int) -> None:
        # Bounded: a process that escaped and goes on writing must not hold us here.
        for _ in range(64):
            data = fds.read_now(fd)
            if not data:
                return
            self.feed(self._readers[fd], data)

    # --- lines ---

    def feed(self, stream: Stream, data: bytes) -> None:
        """Append what the app wrote. A line that is not complete waits for its end, up to MAX_LINE bytes."""
        for tap in tuple(self.taps):
            tap(stream, data)
        *lines, rest = (self._open_end[stream] + data).split(b"\n")
        prefix = b"%s %s " % (stamp(self._clock()), stream.encode())
        parts: list[bytes] = []
        if lines and max(map(len, lines)) <= MAX_LINE:
            full = prefix + b"F "
            parts += (full, (b"\n" + full).join(lines), b"\n")
        else:
            for line in lines:
                line = self._cut(line, prefix, parts)
                parts += (prefix, b"F ", line, b"\n")
        self._open_end[stream] = self._cut(rest, prefix, parts)
        if parts:
            self._write(b"".join(parts))

    @staticmethod
    def _cut(line: bytes, prefix: bytes, parts: list[bytes]) -> bytes:
        """Move all but the last MAX_LINE bytes of a long line into parts; returns what is left."""
        start = 0
        while len(line) - start > MAX_LINE:
            parts += (prefix, b"P ", line[start : start + MAX_LINE], b"\n")
            start += MAX_LINE
        return line[start:]

    def _finish(self, stream: Stream) -> None:
        """The stream ended; what stands there without a newline is its last line."""
        rest, self._open_end[stream] = self._open_end[stream], b""
        if rest:
            self._write(b"%s %s P %s\n" % (stamp(self._clock()), stream.encode(), rest))

    # --- files ---

    def _create(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _write(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            if self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            view = memoryview(data)
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError as error:  # the disk is full: lose lines, not the pod
            if not self._lost:
                log.warning("log %s: %s; lines are lost until there is room", self.path, error.strerror)
            self._lost += len(data)
        else:
            if self._lost:
                log.warning("log %s: there is room again, %d bytes were lost", self.path, self._lost)
                self._lost = 0
        if self._waiters:
            self._wake()

    def _rotate(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            older = rotated(self.path, number)
            newer = rotated(self.path, number - 1)
            if newer.exists():
                newer.rename(older)
        if self._max_files == 1:
            self.path.unlink()
        fresh = self._create()
        os.close(self._fd)
        self._fd, self._size = fresh, 0

    def moved(self, path: Path) -> None:
        """The directory of the log has got another name."""
        self.path = path

    # --- followers ---

    @property
    def followers(self) -> int:
        """How many wait for the next line."""
        return len(self._waiters)

    async def changed(self) -> None:
        """Return at the next line, or at the end of the log."""
        if self.closed:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def rotated(path: Path, number: int) -> Path:
    """The name of the number-th older file of a log; 0 is the newest."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")
