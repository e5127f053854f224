"""What a stage1 writes, taken apart: lines that it labels as an app's are that app's, the others its own.

systemd's journal writes `[  123.456789] APP[PID]: TEXT` to the pod's console, and so do rkt's stages that are made of
it. A stage1 that labels nothing loses nothing: all of it goes where the stage1's own lines go. An app that writes what
looks like another's label only says something in the name of its own pod.
"""

import asyncio
import os
import re
from collections import deque
from collections.abc import Iterable
from typing import Final

_LABEL: Final = re.compile(rb"\[ *\d+\.\d{6}\] ([A-Za-z0-9._-]+)\[\d+\]: ")
_LONGEST: Final = 64 << 10  # of a line; the label of a longer one stands for all of its pieces
_WAITING: Final = 1 << 20  # bytes for somebody who does not read; then nobody is read


class _Target:
    """One place to write to. Its pipe is opened anew, for nobody else may be made non-blocking."""

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
        self._left: deque[bytes] = deque()
        self.waiting = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        if not self.closed and data:
            self._left.append(data)
            self.waiting += len(data)
            self._push()

    def _push(self) -> None:
        while self._left:
            try:
                written = os.write(self._fd, self._left[0])
            except BlockingIOError:
                self._loop.add_writer(self._fd, self._push)
                return
            except OSError:  # nobody reads any more
                written = len(self._left[0])
            self.waiting -= written
            if written == len(self._left[0]):
                self._left.popleft()
            else:
                self._left[0] = self._left[0][written:]
        self._loop.remove_writer(self._fd)

    def close(self) -> None:
        """What waits is lost."""
        if not self.closed:
            self.closed = True
            self._loop.remove_writer(self._fd)
            os.close(self._fd)


class Console:
    """`fds`: stdout and stderr for `run`, the caller's to close. rest: where its own stdout and stderr go. expected:
    apps that will be added; what they say before is kept for then."""

    def __init__(self, rest: tuple[int, int], expected: Iterable[str] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest = [_Target(fd) for fd in rest]
        self._apps: dict[str, _Target] = {}
        self._early = dict.fromkeys(expected, b"")
        self._half = [b"", b""]
        self._goes_on: list[_Target | None] = [None, None]
        self._reading: dict[int, int] = {}
        made = []
        for number in range(len(rest)):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reading, False)
            self._reading[reading] = number
            self._loop.add_reader(reading, self._readable, reading)
            made.append(writing)
        self.fds = (made[0], made[1])

    def add(self, app: str, fd: int) -> None:
        """From now on an app's lines go here. It stays the caller's."""
        self.remove(app)
        self._apps[app] = _Target(fd)
        self._apps[app].write(self._early.pop(app, b""))

    def remove(self, app: str) -> None:
        """Its lines are the stage1's own again."""
        if (target := self._apps.pop(app, None)) is not None:
            target.close()

    def drain(self) -> None:
        """Take what has been written until now."""
        for reading in list(self._reading):
            for _ in range(64):
                if not self._readable(reading):
                    break

    def close(self) -> None:
        """The end."""
        self.drain()
        for reading, number in self._reading.items():
            self._flush(number)
            self._loop.remove_reader(reading)
            os.close(reading)
        self._reading.clear()
        for target in (*self._rest, *self._apps.values()):
            target.close()

    def _readable(self, reading: int) -> bool:
        """Whether there was something."""
        if sum(target.waiting for target in (*self._rest, *self._apps.values())) > _WAITING:
            self._loop.remove_reader(reading)  # they hold it up: as a full pipe would
            self._loop.call_later(0.05, self._again, reading)
            return False
        try:
            data = os.read(reading, 32 << 10)
        except BlockingIOError:
            return False
        number = self._reading[reading]
        if data:
            self._take(number, data)
            return True
        self._flush(number)
        self._loop.remove_reader(reading)
        os.close(reading)
        del self._reading[reading]
        return False

    def _again(self, reading: int) -> None:
        if reading in self._reading:
            self._loop.add_reader(reading, self._readable, reading)

    def _take(self, number: int, data: bytes) -> None:
        *lines, half = (self._half[number] + data).split(b"\n")
        for line in lines:
            self._write(number, line + b"\n")
            self._goes_on[number] = None
        # What may yet become a labelled line is kept; other text is shown as it comes, a question perhaps.
        if half and (self._goes_on[number] is not None or not half.startswith(b"[") or len(half) > _LONGEST):
            self._goes_on[number] = self._write(number, half)
            half = b""
        self._half[number] = half

    def _write(self, number: int, text: bytes) -> _Target:
        target, label = self._goes_on[number], _LABEL.match(text)
        if target is None:
            target = self._rest[number]
            name = label[1].decode() if label is not None else ""
            if label is not None and (
                name in self._apps or len(self._early.get(name, b" " * _LONGEST)) < _LONGEST
            ):
                text = text[label.end() :].replace(b"\r\n", b"\n")
                if name not in self._apps:
                    self._early[name] += text
                    return target
                target = self._apps[name]
        target.write(text)
        return target

    def _flush(self, number: int) -> None:
        if self._half[number]:
            self._write(number, self._half[number])
            self._half[number] = b""
