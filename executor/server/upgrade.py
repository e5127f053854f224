"""Connections that change their protocol: to a WebSocket, or to SPDY on the bare connection."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import WSMsgType, hdrs, web

from executor.server.query import QueryError
from executor.server.spdy import Connection, SpdyError

READ_SIZE: Final = 1 << 16
MESSAGE_LIMIT: Final = 16 << 20
CLOSING_SECONDS: Final = 10.0
PROTOCOL_HEADER: Final = "X-Stream-Protocol-Version"


def is_websocket(request: web.Request) -> bool:
    return _wanted(request) == "websocket"


def is_spdy(request: web.Request) -> bool:
    return _wanted(request) == "spdy/3.1"


def _wanted(request: web.Request) -> str:
    if "upgrade" not in request.headers.get(hdrs.CONNECTION, "").lower():
        return ""
    return request.headers.get(hdrs.UPGRADE, "").lower()


async def websocket(request: web.Request, protocols: Sequence[str]) -> web.WebSocketResponse:
    """One of the protocols is agreed upon. Raises QueryError when the client knows none of them."""
    offered = [one.strip() for one in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    if not set(offered) & set(protocols):
        raise QueryError(
            f"unable to negotiate a protocol: {' '.join(offered)}; there are: {' '.join(protocols)}"
        )
    chosen = next(one for one in protocols if one in offered)
    made = web.WebSocketResponse(protocols=(chosen,), max_msg_size=MESSAGE_LIMIT, timeout=1.0)
    await made.prepare(request)
    return made


class WebSocketCarrier:
    """SPDY in the binary messages of a WebSocket (KEP-4006)."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                if message.data:
                    return bytes(message.data)
            elif message.type is not WSMsgType.TEXT:
                return b""

    async def send(self, data: bytes) -> None:
        await self._socket.send_bytes(data)


class _ConnectionCarrier:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> bytes:
        return await self._reader.read(READ_SIZE)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


async def spdy(
    request: web.Request, protocols: Sequence[str], work: Callable[[Connection], Awaitable[None]]
) -> web.StreamResponse:
    """Serve a connection that was taken over; ends with it. Raises QueryError as `websocket` does."""
    offered = [one.strip() for line in request.headers.getall(PROTOCOL_HEADER, []) for one in line.split(",")]
    chosen = next((one for one in protocols if one in offered), "")
    if not chosen:
        raise QueryError(
            f"unable to negotiate a protocol: {' '.join(offered)}; there are: {' '.join(protocols)}"
        )
    await request.read()
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    loop = asyncio.get_running_loop()
    server = transport.get_protocol()
    reader = asyncio.StreamReader(limit=READ_SIZE, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
    writer.write("\r\n".join([*lines, f"{PROTOCOL_HEADER}: {chosen}", "", ""]).encode())
    try:
        await carry(Connection(_ConnectionCarrier(reader, writer)), work)
    finally:
        if not transport.is_closing():
            transport.set_protocol(server)  # it has to see the end, which ends this request
            transport.close()
        else:
            server.connection_lost(None)
    try:
        async with asyncio.timeout(CLOSING_SECONDS):
            await asyncio.Event().wait()
    except TimeoutError:
        transport.abort()
    raise ConnectionResetError  # there is nothing to answer any more


async def carry(connection: Connection, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Until the work is done, or the other side has gone."""
    running = asyncio.ensure_future(connection.run())
    working = asyncio.ensure_future(work(connection))
    try:
        await asyncio.wait((running, working), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (running, working):
            task.cancel()
        await asyncio.wait((running, working))
    for task in (running, working):
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SpdyError | OSError):
            raise error
