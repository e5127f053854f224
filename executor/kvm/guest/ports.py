"""Connections to and from ports of the pod, over the wire. Imported when the first one is asked for.

This process is in the pod's network by then.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from executor.kvm.guest import frames
from executor.kvm.guest.agent import Agent, Stream

_BACKLOG: Final = 64
_CONNECTIONS: Final = 16
"""Of one listening socket at a time."""


class Ports:
    """What the host asks for; see executor/kvm/sandbox.py."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._accepted = 0

    def perform(self, request: dict[str, Any]) -> None:
        """Answers by itself."""
        try:
            getattr(self, f"_{request['do']}")(request)
        except OSError as error:
            self._agent.answer(request, {"errno": error.errno})

    def _connect(self, request: dict[str, Any]) -> None:
        ((_, number),) = request["streams"]
        address = request["address"]
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        failed = sock.connect_ex((address, request["port"]))
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(failed, os.strerror(failed))
        self._agent.add(number, Connection(self._agent, number, sock, partial(self._agent.answer, request)))

    def _listen(self, request: dict[str, Any]) -> None:
        """On a port of the pod's loopback. Who connects is served at once: the host hears of it, and what it says."""
        port = request["port"]
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        Door(self._agent, listening, partial(self._accept, port))
        self._agent.answer(request, {})

    def _accept(self, port: int, door: "Door", made: socket.socket) -> None:
        number = frames.OWN + self._accepted % frames.OWN
        self._accepted += 1
        self._agent.send(frames.message({"event": "connection", "port": port, "stream": number}))
        connection = Connection(self._agent, number, made, ended=door.gone)
        self._agent.add(number, connection)
        connection.look()


class Door:
    """A listening socket. accepted: told of each connection. What is too much waits in the kernel."""

    def __init__(
        self, agent: Agent, listening: socket.socket, accepted: Callable[["Door", socket.socket], None]
    ) -> None:
        self._agent = agent
        self._listening = listening
        self._accepted = accepted
        self._free = _CONNECTIONS
        self._watch()

    def gone(self) -> None:
        """A connection has ended."""
        self._free += 1
        self._watch()

    def _watch(self) -> None:
        self._agent.watch(
            self._listening.fileno(), select.EPOLLIN if self._free else 0, lambda _: self._come()
        )

    def _come(self) -> None:
        try:
            made, _ = self._listening.accept()
        except OSError:
            return  # it has gone again
        made.setblocking(False)
        self._free -= 1
        self._watch()
        self._accepted(self, made)


class Connection(Stream):
    """A connection to a port of the pod, each way of which ends by itself. answer: called once, when it
    is made or not; None: it is made.

    A second END of the host says that it takes nothing any more, either; so does ours.
    """

    def __init__(
        self,
        agent: Agent,
        number: int,
        sock: socket.socket,
        answer: Callable[[dict[str, Any]], None] | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._sock = sock
        self._ended = ended
        self._connecting = answer
        self._shut = False
        super().__init__(agent, number, sock.fileno(), reads=True, writes=True)

    def look(self) -> None:
        """Whoever connects has often spoken already."""
        self._on_event(select.EPOLLIN)

    def end(self) -> None:
        if self._ending:
            self._close()
        else:
            super().end()

    def resize(self, rows: int, columns: int) -> None:
        """It is no terminal."""

    def _watch(self) -> None:
        if self._connecting is None:
            super()._watch()
        else:
            self._agent.watch(self._fd, select.EPOLLOUT, self._on_connected)

    def _on_connected(self, _: int) -> None:
        answer, self._connecting = self._connecting, None
        failed = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if answer is not None:
            answer({"errno": failed} if failed else {})
        if failed:
            self._close()
        else:
            self._watch()

    def _finish(self) -> None:
        """What the host has sent is there, and nothing more comes."""
        if self._fd < 0:
            return
        if self._ending and not self._pending and not self._shut:
            self._shut = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other side has gone altogether
            if not self._reads:
                self._close()
                return
        self._watch()

    def _end_reading(self) -> None:
        if self._shut:
            self._close()
        else:
            self._reads = False
            self._agent.send(frames.pack(frames.END, self._number))
            self._watch()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._agent.watch(self._fd, 0, self._on_event)
        self._fd = -1
        self._sock.close()
        self._ended()
        self._agent.forget(self._number)
        for _ in range(2 if self._reads else 1):
            self._agent.send(frames.pack(frames.END, self._number))
