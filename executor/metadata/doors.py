"""Listening sockets, in whichever network, whose connections are answered or handed on; with limits for whoever is in
there: connections at a time, seconds a connection may take.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from executor.metadata.answers import BODY_LIMIT

log = logging.getLogger(__name__)

CONNECTIONS: Final = 16
SECONDS: Final = 10.0
BACKLOG: Final = 64
LINGER_SECONDS: Final = 2.0
"""Of reading what is too much: a client that is still sending would not see our answer."""

_quiet = logging.getLogger(f"{__name__}.http")
_quiet.setLevel(logging.CRITICAL + 1)  # what is wrong with a request is for whoever sent it

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Take = Callable[[socket.socket, Callable[[], None]], None]
"""Takes a connection over; calls back, once, when it has ended."""


class Door:
    """A listening socket, its owner's until `close`. What is too much waits in the kernel until others have ended."""

    def __init__(self, listening: socket.socket, take: Take, limit: int = CONNECTIONS) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening, self._take, self._free = listening, take, limit
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


class Http:
    """Answers HTTP on connections that others have accepted."""

    def __init__(self, answer: Answer, *, body_limit: int = BODY_LIMIT) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = web.Server(answer, request_factory=self._request)
        self._body_limit = body_limit
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        """Answer what is asked there. The socket is ours from here on. See `Take`."""
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, ended))

    def end(self) -> socket.socket:
        """A connection to this service without a network: the other side is served, this one is the caller's."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.take(ours, lambda: None)
        return theirs

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: "asyncio.Task[None]", ended: Callable[[], None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("metadata: a connection: %s", error)
        ended()

    async def _serve(self, connection: socket.socket) -> None:
        """One connection: a request and its answer, within the time there is."""
        over = self._loop.create_future()
        try:
            transport, protocol = await self._loop.connect_accepted_socket(
                lambda: _Protocol(self._server, self._loop, over), connection
            )
        except BaseException:
            connection.close()
            raise
        try:
            async with asyncio.timeout(SECONDS):
                await over
        except TimeoutError:
            pass  # nothing that it could be told: it is just being slow
        finally:
            transport.abort()
            await protocol.shutdown(0)

    def _request(self, message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._body_limit
        )


class _Protocol(web.RequestHandler):
    """aiohttp's, which says when it is over."""

    __slots__ = ("_over",)

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, over: "asyncio.Future[None]"
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as web.Server does
            logger=_quiet,
            keepalive_timeout=SECONDS,
            lingering_time=LINGER_SECONDS,
            tcp_keepalive=False,
            auto_decompress=False,
        )
        self._over = over

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if not self._over.done():
            self._over.set_result(None)
