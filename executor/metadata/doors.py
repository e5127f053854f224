"""Listening sockets in pods' networks, whose connections are answered or handed on: so many at a time, and no more."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from executor.pods import netns
from executor.pods.launcher import LaunchError

log = logging.getLogger(__name__)

CONNECTIONS: Final = 16
BACKLOG: Final = 64
RATE: Final = 25.0
CROWD: Final = 100
PORT: Final = 18112
"""rkt's, also in pods: below the ports that a kernel gives away by itself."""
URL_FILE: Final = "metadata-url"
"""In a pod directory, for root alone: what stage1 puts into AC_METADATA_URL. It is read when the pod is run."""

Take = Callable[[socket.socket, Callable[[], None]], None]
"""Takes a connection over; calls back, once, when it has ended."""


class Pace:
    """So many a second, after a first crowd: what pods ask is answered with the executor's time, not with theirs."""

    def __init__(
        self, rate: float = RATE, crowd: int = CROWD, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._crowd, self._left = rate, crowd, float(crowd)
        self._clock, self._at = clock, clock()

    def wait(self) -> float:
        """Seconds until the next one may come; 0: now."""
        now = self._clock()
        self._left = min(self._crowd, self._left + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) / self._rate

    def count(self) -> None:
        """One has come."""
        self._left -= 1


class Door:
    """A listening socket, its owner's until `close`. What is too much, at a time or a second, waits in the kernel."""

    def __init__(
        self,
        listening: socket.socket,
        take: Take,
        limit: int = CONNECTIONS,
        pace: Pace | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening, self._take, self._free = listening, take, limit
        self._pace = pace or Pace()
        self._waits = False
        listening.setblocking(False)
        self._watch()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening. Idempotent; connections that are there run to their own end."""
        if self._listening.fileno() >= 0:
            if self._waits:
                self._loop.remove_reader(self._listening.fileno())
            self._listening.close()

    def _watch(self) -> None:
        if not self._waits and self._free and self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening.fileno(), self._come)
            self._waits = True

    def _come(self) -> None:
        while self._free:
            if (seconds := self._pace.wait()) > 0:
                self._pause()
                self._loop.call_later(seconds, self._watch)
                return
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # EMFILE and the like: later, perhaps
                log.error("metadata: accept: %s", error.strerror)
                self._pause()
                self._loop.call_later(1.0, self._watch)
                return
            connection.setblocking(False)
            self._pace.count()
            self._free -= 1
            self._take(connection, self._gone)
        self._pause()

    def _pause(self) -> None:
        if self._waits:
            self._loop.remove_reader(self._listening.fileno())
            self._waits = False

    def _gone(self) -> None:
        self._free += 1
        self._watch()


@runtime_checkable
class Relaying(Protocol):
    """A sandbox whose network is no namespace of this kernel."""

    async def relay(self, port: int, connect: Callable[[], socket.socket]) -> None:
        """Listen on 127.0.0.1:port in the pod's network, before any app runs, and for each connection that comes carry
        bytes to and from what `connect` gives: a stream socket, the caller's to close. Until the sandbox ends."""


@runtime_checkable
class Late(Protocol):
    """A sandbox whose network there is only when its first app runs, each time that it is run; stage1s of others."""

    def when_networked(self, work: Callable[[int], None]) -> None:
        """Call it with the pid of a process in the pod's network, now or whenever there is one. It may raise
        LaunchError, and the pod does not run then."""


class HasNetwork(Protocol):
    """A sandbox. pid: of a process in the pod's network, unless it is `Relaying`."""

    @property
    def pid(self) -> int: ...


def write_url(path: Path, url: str) -> None:
    """Into a pod directory, for stage1. Raises OSError."""
    fd = os.open(path / URL_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(url)


def listen(pid: int, port: int = PORT) -> socket.socket:
    """A socket that listens on 127.0.0.1 in the network of a process. Raises LaunchError."""
    made: socket.socket | None = None
    try:
        made = netns.make_socket(pid, socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen(BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        raise LaunchError(f"listen in the pod's network on 127.0.0.1:{port}: {error.strerror}") from None
    return made
