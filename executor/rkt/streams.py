"""Between the streams of this process and those of programs in pods.

Files, pipes and sockets are handed on as they are. A terminal never is: whoever holds it can read what is typed there.
Its output is copied from a pipe; its input goes to a terminal of the pod's own (`Relay`).
"""

import asyncio
import fcntl
import os
import signal
import struct
import termios
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress

READ_SIZE = 64 << 10


class Output:
    """stdout and stderr for one program: `fds` to start it with, `close_ours` afterwards, `finish` at its end.

    label: makes what stands before each line, for pods of several apps; then everything goes through us. streams: which
    of 1 and 2 are wanted.
    """

    def __init__(self, label: Callable[[], str] | None = None, streams: Sequence[int] = (1, 2)) -> None:
        self._loop = asyncio.get_running_loop()
        self._label = label
        self._made: list[int] = []
        self._readers: dict[int, int] = {}
        self._at_start: dict[int, bool] = {}
        self._done: asyncio.Future[None] = self._loop.create_future()
        self.fds = tuple(self._stream(number) for number in streams)
        self._settle()

    def _stream(self, ours: int) -> int:
        if self._label is None and not os.isatty(ours):
            return ours
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self._made.append(writing)
        self._readers[reading] = ours
        self._at_start[ours] = True
        return writing

    def close_ours(self) -> None:
        """Only the program writes now; begin to read."""
        while self._made:
            os.close(self._made.pop())
        for reading in self._readers:
            self._loop.add_reader(reading, self._copy, reading)

    def _copy(self, reading: int) -> None:
        try:
            data = os.read(reading, READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(reading)
            os.close(reading)
            del self._readers[reading]
            self._settle()
            return
        ours = self._readers[reading]
        write_all(ours, data if self._label is None else self._labelled(ours, data))

    def _labelled(self, ours: int, data: bytes) -> bytes:
        assert self._label is not None
        label, made = self._label().encode(), []
        *lines, last = data.split(b"\n")
        for piece in [*(line + b"\n" for line in lines), *([last] if last else [])]:
            made += [label, piece] if self._at_start[ours] else [piece]
            self._at_start[ours] = piece.endswith(b"\n")
        return b"".join(made)

    def _settle(self) -> None:
        if not self._readers and not self._done.done():
            self._done.set_result(None)

    async def finish(self) -> None:
        """All of it is written. For when the program is dead; what still holds its pipes is not waited for long."""
        self.close_ours()
        await asyncio.wait([self._done], timeout=2.0)
        for reading in list(self._readers):
            self._loop.remove_reader(reading)
            os.close(reading)
            del self._readers[reading]


def write_all(fd: int, data: bytes) -> None:
    """To a stream of ours. What nobody reads any more is lost, not an error."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            time.sleep(0.005)  # somebody made our terminal non-blocking
        except OSError:
            return


def journal_label(app: str, pid: Callable[[], int]) -> Callable[[], str]:
    """As rkt's console: `[  123.456789] app[42]: `."""
    return lambda: f"[{time.monotonic():12.6f}] {app}[{pid()}]: "


class Relay:
    """Our terminal and one in a pod, as one: raw mode, sizes, bytes both ways. `close` gives ours back as it was.

    shown: where what the pod's terminal shows comes from, if not from `master`; -1: from nowhere. interrupt: what is
    typed for that (^C) still does it here, not in the pod.
    """

    def __init__(self, master: int, *, shown: int | None = None, interrupt: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._master = master
        self._source = master if shown is None else shown
        self._saved = termios.tcgetattr(0)
        self._waiting = b""
        self._typing = True
        self.finished: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(master, False)
        tty.setraw(0, termios.TCSADRAIN)
        if interrupt:
            mode = termios.tcgetattr(0)
            mode[3] |= termios.ISIG
            mode[6][termios.VQUIT] = mode[6][termios.VSUSP] = b"\0"  # these are the pod's
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
        self._resize()
        self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
        self._loop.add_reader(0, self._typed)
        if self._source >= 0:
            os.set_blocking(self._source, False)
            self._loop.add_reader(self._source, self._shown)

    def _resize(self) -> None:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
        if any(struct.unpack("4H", size)[:2]):
            with suppress(OSError):  # one that is behind a pipe keeps its size
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _typed(self) -> None:
        try:
            data = os.read(0, READ_SIZE)
        except OSError:
            data = b""
        if not data:
            self._typing = False
            data = b"\x04"  # as if it had been typed
        self._waiting += data
        self._feed()

    def _feed(self) -> None:
        try:
            self._waiting = self._waiting[os.write(self._master, self._waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting = b""
        if self._waiting:
            self._loop.add_writer(self._master, self._feed)
        else:
            self._loop.remove_writer(self._master)
        if self._typing and not self._waiting:
            self._loop.add_reader(0, self._typed)
        else:
            self._loop.remove_reader(0)

    def _shown(self) -> None:
        try:
            data = os.read(self._source, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the other side open
            data = b""
        if data:
            write_all(1, data)
            return
        self._loop.remove_reader(self._source)
        if not self.finished.done():
            self.finished.set_result(None)

    async def close(self) -> None:
        """For when the program has ended: show what it has left."""
        if self._source >= 0:
            await asyncio.wait([self.finished], timeout=1.0)
            self._loop.remove_reader(self._source)
        self._loop.remove_reader(0)
        self._loop.remove_writer(self._master)
        for fd in {self._master, self._source} - {-1}:
            os.close(fd)
        self._loop.remove_signal_handler(signal.SIGWINCH)
        termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
