"""The launcher's side of a starter: the process that prepares one process of an app, spawns it and ends."""

import os
import socket
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from executor.stage1 import channel, children

if TYPE_CHECKING:
    from executor.stage1.launcher import Launcher


class Child(NamedTuple):
    """Its pid and our end of the socket to it; whether it starts one app after the other (worker.py), or one."""

    pid: int
    socket: socket.socket
    lasts: bool


class Waiting:
    """Starters that wait for the next start. Those that have waited for too long go, but for a few; the others are
    used before them."""

    def __init__(self, few: int, seconds: float) -> None:
        self._few = few
        self._seconds = seconds
        self._since: dict[Child, float] = {}  # in the order of their times

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._since)

    def add(self, child: Child, now: float) -> None:
        """It waits from now on."""
        self._since[child] = now

    def take(self) -> Child | None:
        """One of them, that has waited no longer than any other."""
        return self._since.popitem()[0] if self._since else None

    def discard(self, child: Child) -> bool:
        """Whether it waited."""
        return self._since.pop(child, None) is not None

    def expire(self, now: float) -> tuple[list[Child], float | None]:
        """Those that go, and after how many seconds to look again; None: when there are more."""
        gone: list[Child] = []
        while len(self._since) > self._few:
            child, since = next(iter(self._since.items()))
            if since + self._seconds > now:
                return gone, since + self._seconds - now
            del self._since[child]
            gone.append(child)
        return gone, None


class Answer(Protocol):
    """Answers a request, once; with descriptors if it has any to give."""

    def __call__(self, reply: dict[str, Any], descriptors: tuple[int, ...] = (), /) -> None: ...


class Starter:
    """The conversation with one process that prepares an app's process and spawns it."""

    def __init__(
        self,
        launcher: "Launcher",
        child: Child,
        starters: dict[str, int],
        name: str,
        on_started: Callable[[int], None],
        on_failed: Callable[[str], None],
        answer: Answer,
        on_end: Callable[[], None],
    ) -> None:
        self._launcher = launcher
        self._starters = starters
        self._name = name
        self._on_started = on_started
        self._on_failed = on_failed
        self._answer = answer
        self._on_end = on_end
        self._master = -1
        self._child = child
        self._pid, self._socket = child.pid, child.socket
        starters[name] = self._pid
        launcher.expect(self._pid, self._on_exit)
        launcher.watch(self._socket.fileno(), self._on_message)

    def _on_exit(self, _status: int) -> None:
        """It has been reaped: its pid may be another's by now. What it has said may not have been heard yet."""
        if self._starters.get(self._name) == self._pid:
            self._starters[self._name] = 0

    def begin(self, job: bytes, fds: list[int], named: list[int]) -> None:
        """Send the job with the streams: three; two, then stdin is /dev/null; none, then they are a new terminal.

        The job's last part names the descriptors `named`: whom to enter, and the user namespace if there is one.
        """
        null = [_null()] if len(fds) == 2 else []
        channel.send_encoded(self._socket, job, [*null, *fds, *named])

    def end(self, *, well: bool = False) -> None:
        """Forget it. `well`: it has started what it should, and may be of use for more."""
        self._launcher.unwatch(self._socket.fileno())
        lives = self._starters.pop(self._name) != 0
        if self._master >= 0:
            os.close(self._master)
        self._launcher.starter_done(self._child, well=well and lives)

    def _on_message(self) -> None:
        message: Any
        fds: list[int] = []
        try:
            message, fds = channel.receive(self._socket)
        except OSError as error:
            message = str(error)
        if message == children.TERMINAL:
            (self._master,) = fds
        elif isinstance(message, int):
            # The answer first: an exit that has come already is told right after it.
            self._answer({"pid": message}, (self._master,) if self._master >= 0 else ())
            self._on_started(message)
            self.end(well=True)
        else:
            self.end()
            self._on_failed(message or "")
            self._on_end()


@cache
def _null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
