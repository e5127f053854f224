"""`kubectl port-forward`: connections to ports of a pod, made in the pod's network.

Over SPDY (also in a WebSocket) a client opens two streams for each connection, `error` and `data`, with the port and a
number of its own. Over a plain WebSocket there is one connection for each port of the query, on two channels: 2 N for
data and 2 N + 1 for errors; each begins with the port, little-endian.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import WSMsgType, web

from executor.pods.handlers import why
from executor.pods.netns import connect
from executor.pods.ports import Sandbox
from executor.server.spdy import Connection, Stream

log = logging.getLogger(__name__)

SPDY: Final = "portforward.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
CHANNELS: Final = "v4.channel.k8s.io"
READ_SIZE: Final = 1 << 16
LOCALHOST: Final = ("127.0.0.1", "::1")


class Target:
    """A pod whose ports are forwarded. name: for messages."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self._sandbox = sandbox
        self._name = name

    async def open(self, port: int) -> socket.socket:
        """Raises OSError with all there is to say."""
        trouble = ""
        for host in LOCALHOST:
            try:
                return await connect(self._sandbox, host, port)
            except OSError as error:
                trouble = trouble or f"dial tcp {host}:{port}: {why(error)}"
        raise OSError(f"error forwarding port {port} to pod {self._name}: {trouble}")


async def relay(
    connected: socket.socket,
    read: Callable[[], Awaitable[bytes]],
    write: Callable[[bytes], Awaitable[None]],
) -> None:
    """Until the pod's side has ended; the client's end is passed on. read: b"" at the end."""
    loop = asyncio.get_running_loop()

    async def inwards() -> None:
        try:
            while data := await read():
                await loop.sock_sendall(connected, data)
            connected.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the pod reads no more; it may still write

    reading = asyncio.ensure_future(inwards())
    try:
        while data := await loop.sock_recv(connected, READ_SIZE):
            await write(data)
    except ConnectionError as error:
        log.debug("a forwarded connection ended: %s", error)
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        connected.close()


# --- SPDY ------------------------------------------------------------------------------------------------------------


async def serve_spdy(connection: Connection, target: Target) -> None:
    """Until the client has gone."""
    waiting: dict[str, dict[str, Stream]] = {}
    pairs: set[asyncio.Task[None]] = set()
    try:
        while (stream := await connection.opened.get()) is not None:
            # Clients that give no number open the data stream right after the error stream.
            key = stream.headers.get("requestid") or f"port {stream.headers.get('port')}"
            pair = waiting.setdefault(key, {})
            pair[stream.headers.get("streamtype", "")] = stream
            if {"error", "data"} <= pair.keys():
                del waiting[key]
                task = asyncio.ensure_future(_pair(connection, target, pair["error"], pair["data"]))
                pairs.add(task)
                task.add_done_callback(pairs.discard)
    finally:
        for task in tuple(pairs):
            task.cancel()
        if pairs:
            await asyncio.wait(pairs)


async def _pair(connection: Connection, target: Target, error: Stream, data: Stream) -> None:
    try:
        connected = await target.open(_port(data.headers.get("port", "")))
    except (OSError, ValueError) as trouble:
        data.drop()
        await error.write(f"an error occurred forwarding: {trouble}".encode())
    else:
        await relay(connected, data.read, data.write)
    finally:
        for stream in (error, data):
            await stream.close()
            connection.forget(stream)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise ValueError(f"{text!r} is not a port")
    return int(text)


# --- channels --------------------------------------------------------------------------------------------------------


async def serve_channels(ws: web.WebSocketResponse, target: Target, ports: list[str]) -> None:
    """Until all connections have ended, or the client has gone. Raises ValueError before anything is said."""
    numbers = [_port(port) for port in ports]
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue(8) for _ in numbers]
    for index, port in enumerate(numbers):
        for channel in (2 * index, 2 * index + 1):
            await ws.send_bytes(bytes((channel,)) + struct.pack("<H", port))

    async def one(index: int) -> None:
        try:
            connected = await target.open(numbers[index])
        except OSError as trouble:
            await ws.send_bytes(bytes((2 * index + 1,)) + str(trouble).encode())
            return

        async def write(data: bytes) -> None:
            await ws.send_bytes(bytes((2 * index,)) + data)

        await relay(connected, queues[index].get, write)

    async def receive() -> None:
        while (message := await ws.receive()).type in (WSMsgType.BINARY, WSMsgType.TEXT):
            data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
            if len(data) > 1 and not data[0] % 2 and data[0] // 2 < len(queues):
                await queues[data[0] // 2].put(data[1:])

    forwarding = asyncio.gather(*(one(index) for index in range(len(numbers))))
    receiving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((forwarding, receiving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        receiving.cancel()
        forwarding.cancel()
        await asyncio.wait((forwarding, receiving))
        await ws.close()
