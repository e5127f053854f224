"""What a client and a process say to each other, whatever it travels on.

Channels, as in Kubernetes (k8s.io/apimachinery/pkg/util/remotecommand): stdin, stdout, stderr; error, on which the end
is told as a v1 Status; resize, JSON with Width and Height. Over a WebSocket each message begins with the channel's
number (`v4.channel.k8s.io`; in `v5` 255 and a number end a channel), over SPDY each is a stream.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import WSMsgType, web

from executor.server.query import QueryError
from executor.server.spdy import Connection, Stream

NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
OPENING_SECONDS: Final = 30.0
_NAMES: Final = {number: name for name, number in NUMBERS.items()}
_CLOSE: Final = 255


@dataclass(frozen=True)
class Wanted:
    """Which channels there are."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def check(self) -> None:
        """As in Kubernetes: a terminal has no standard error of its own. Raises QueryError."""
        if not (self.stdin or self.stdout or self.stderr):
            raise QueryError("you must specify at least 1 of stdin, stdout, stderr")
        if self.tty and self.stderr:
            raise QueryError("tty and stderr cannot both be true")


class Session(Protocol):
    """receive: the channel and what came, b"" for its end; None when the client has gone. Sending to one that has gone
    raises OSError. finish: says how it ended (a v1 Status), the last thing there is to say."""

    async def receive(self) -> tuple[str, bytes] | None: ...
    async def send(self, channel: str, data: bytes) -> None: ...
    async def finish(self, status: dict[str, Any]) -> None: ...


class WebSocketSession:
    """Over a WebSocket, by the protocol that was agreed upon."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def begin(self, wanted: Wanted) -> None:
        """An empty message on the first channel there is tells the client that all is well, as in Kubernetes."""
        await self.send("stdout" if wanted.stdout else "stderr" if wanted.stderr else "error", b"")

    async def receive(self) -> tuple[str, bytes] | None:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                data = message.data.encode()
            elif message.type is WSMsgType.BINARY:
                data = bytes(message.data)
            else:
                return None
            if len(data) == 2 and data[0] == _CLOSE and self._socket.ws_protocol == V5:
                return _NAMES.get(data[1], ""), b""
            if len(data) > 1:  # clients open channels with empty messages
                return _NAMES.get(data[0], ""), data[1:]

    async def send(self, channel: str, data: bytes) -> None:
        await self._socket.send_bytes(bytes((NUMBERS[channel],)) + data)

    async def finish(self, status: dict[str, Any]) -> None:
        await self.send("error", json.dumps(status).encode())
        await self._socket.close()


class SpdySession:
    """Over SPDY streams: the client opens one for each channel."""

    def __init__(self, streams: dict[str, Stream]) -> None:
        self._streams = streams
        self._news: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(1)
        self._readers = [
            asyncio.ensure_future(self._read(name, streams[name]))
            for name in ("stdin", "resize")
            if name in streams
        ]

    @classmethod
    async def open(cls, connection: Connection, wanted: Wanted) -> "SpdySession":
        """Once all streams are there. Raises TimeoutError when they do not come."""
        names = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(wanted, name)}
        names |= {"resize"} if wanted.tty else set()
        streams: dict[str, Stream] = {}
        async with asyncio.timeout(OPENING_SECONDS):
            while names - streams.keys():
                stream = await connection.opened.get()
                if stream is None:
                    raise ConnectionResetError
                streams[stream.headers.get("streamtype", "")] = stream
        return cls(streams)

    async def _read(self, name: str, stream: Stream) -> None:
        while data := await stream.read():
            await self._news.put((name, data))
        await self._news.put((name, b""))

    async def receive(self) -> tuple[str, bytes] | None:
        return await self._news.get()

    async def send(self, channel: str, data: bytes) -> None:
        await self._streams[channel].write(data)

    async def finish(self, status: dict[str, Any]) -> None:
        await self._streams["error"].write(json.dumps(status).encode())
        for stream in self._streams.values():
            await stream.close()

    def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
