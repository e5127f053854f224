"""The child's end: what the parent says of the leadership, and whether the parent is alive.

A parent that is silent may have lost its session without a word: the child then stops deciding until it hears from it
again. A parent that is dead, or silent for as long as a session lasts, may leave one behind that keeps everybody else
waiting: the child ends it, and itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections.abc import Callable, MutableMapping

from scheduler.election.messages import LARGEST, TICK, VARIABLE, Candidate, Message, decode, encode
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings

log = logging.getLogger(__name__)

LEASE = 2 / 3
"""Of the session timeout: how long the parent may be silent while the child decides. It has to hear from ZooKeeper as
often."""

CLOSING_SECONDS = 2.0
"""For ending the session of a dead parent; after that it times out by itself."""


class Link:
    """`epoch`: of our own leadership, None while there is none. `leader`: another one, if any is known.

    `on_change` is called on the loop after each change of these or of `trouble`, `on_orphaned` once.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.on_change: Callable[[], None] = lambda: None
        self.on_orphaned: Callable[[], None] = lambda: None
        self.leader: Candidate | None = None
        self.epoch: int | None = None
        self._socket = end
        self._cut_off = True
        self._silent = False
        self._heard = 0.0
        self._timeout = math.inf
        self._session: tuple[int, bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._orphaned = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Link | None:
        """None for a process that was not started by a parent of ours. Nobody below inherits it.

        The number itself is never closed: that this happens is how the parent learns of our end.
        """
        number = environ.pop(VARIABLE, "")
        if not number:
            return None
        os.set_inheritable(int(number), False)
        return cls(socket.socket(fileno=os.dup(int(number))))

    @property
    def trouble(self) -> str:
        """Why nothing can be decided now, in one line; "" when the election works."""
        if self._orphaned:
            return "the supervising process is gone or hung"
        if self._silent:
            return "the supervising process is silent"
        return "ZooKeeper is out of reach" if self._cut_off else ""

    # ---- life

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        loop.add_reader(self._socket.fileno(), self._read)
        self._beat()

    def stop(self) -> None:
        """The parent hears of it only by our end."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._orphaned:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())

    def announce(self, candidate: Candidate) -> None:
        """We may lead, and this is what the others are to know of us. May be said again when it changes."""
        facts = {name: getattr(candidate, name) for name in candidate.__slots__}
        self._send(encode("candidate", **facts))

    def withdraw(self) -> None:
        """We are about to end: another one may lead at once."""
        self._send(encode("withdraw"))

    async def end_session(self, settings: ZooKeeperSettings) -> None:
        """Ends the dead parent's session, so that the next leader need not wait for it to time out."""
        if self._session is None:
            return
        session = Session(settings, client_id=self._session)
        session.start()
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await session.connected()
                await session.stop()
        except TimeoutError:
            log.warning("the session of the supervising process cannot be ended, it will time out")

    # ---- the socket

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except BlockingIOError:
            log.debug("the supervising process does not listen")
        except OSError:
            self._bereave()

    def _beat(self) -> None:
        self._send(encode("tick"))
        self._read()  # what came while the loop was busy counts
        if self._orphaned:
            return
        now = asyncio.get_running_loop().time()
        if now - self._heard > self._timeout:
            self._bereave("hung")
            return
        silent = now - self._heard > self._timeout * LEASE
        if silent != self._silent:
            self._silent = silent
            log.warning("the supervising process is %s", "silent: no more decisions" if silent else "back")
            self.on_change()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._beat)

    def _read(self) -> None:
        while not self._orphaned:
            try:
                data = self._socket.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._bereave()
                return
            self._heard = asyncio.get_running_loop().time()
            self._take(decode(data))

    def _bereave(self, how: str = "gone") -> None:
        if self._orphaned:
            return
        self._orphaned = True
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        log.error("the supervising process is %s", how)
        self.on_change()
        self.on_orphaned()

    def _take(self, message: Message) -> None:
        match message["kind"]:
            case "tick":
                return
            case "session":
                self._session = (message["id"], bytes.fromhex(message["password"]))
                self._timeout = message["timeout"]
                return
            case "lead":
                self.epoch, self.leader = message["epoch"], None
            case "follow":
                leader = message["leader"]
                self.epoch, self.leader = None, Candidate(**leader) if leader else None
            case "cut off":
                self._cut_off = message["on"]
        self.on_change()
