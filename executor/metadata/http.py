"""Answers HTTP on connections, by aiohttp, each for so long and no longer."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from executor.metadata.answers import BODY_LIMIT

log = logging.getLogger(__name__)

SECONDS: Final = 10.0
LINGER_SECONDS: Final = 2.0
"""Of reading what is too much: a client that is still sending would not see our answer."""

_quiet = logging.getLogger(f"{__name__}.requests")
_quiet.setLevel(logging.CRITICAL + 1)  # what is wrong with a request is for whoever sent it

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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

    def drop(self) -> None:
        """End all connections, soon."""
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """End all connections."""
        self.drop()
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
