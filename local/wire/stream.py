"""One event stream of the v1 APIs: RecordIO over a chunked reply, written by whoever holds the stream.

`send` and `close` never wait, so that state can be changed and told in one step; a task of the request's handler
(`pump`) moves the bytes. A reader that is too slow is cut off rather than buffered for without end.
"""

import asyncio
import logging
from typing import Any

import orjson
from aiohttp import web

from shared.mesos import recordio

log = logging.getLogger(__name__)

MAX_PENDING = 256 * 1024 * 1024  # bytes


class EventStream:
    """Events out, in order. `closed` is set by either end."""

    def __init__(self, stream_id: str = "") -> None:
        self.stream_id = stream_id
        self.closed = False
        self._pending: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()

    def send(self, event: dict[str, Any]) -> None:
        """Queue one event; dropped when the stream is closed."""
        if self.closed:
            return
        record = recordio.encode(orjson.dumps(event))
        self._pending.append(record)
        self._size += len(record)
        if self._size > MAX_PENDING:
            log.warning("closing an event stream: its reader is %d bytes behind", self._size)
            self._pending.clear()
            self.closed = True
        self._wake.set()

    def close(self) -> None:
        """End the stream once everything queued is written."""
        self.closed = True
        self._wake.set()

    async def pump(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        """Reply with the stream until it is closed; returns when the last byte is handed over.

        The handler is cancelled by the server when the peer goes away.
        """
        response = web.StreamResponse(headers={"Content-Type": "application/json", **headers})
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._pending:
                data = b"".join(self._pending)
                self._pending.clear()
                self._size = 0
                await response.write(data)
            if self.closed and not self._pending:
                await response.write_eof()
                return response
