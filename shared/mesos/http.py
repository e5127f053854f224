"""An HTTP/1.1 connection for the v1 APIs: pipelined requests, replies in order, bodies as they come.

Why not aiohttp's client: Mesos gives order only within one connection, so calls must share one and should not
wait for one another's replies; and an event should reach its callback in the same turn of the loop in which
its last byte was read. Not a general client: POST only, no redirects, no cookies, no compression.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import httptools

DEFAULT_PORT = 5050


class HttpError(OSError):
    """The peer speaks something that is not HTTP, or closed where it should not have."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port of a master or agent."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> "Endpoint":
        """From `host:port`, `host`, `[::1]:port` or the (maybe scheme-less) URL of a Location header."""
        url = text.strip()
        try:
            parts = urlsplit(url if "//" in url else f"//{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"not an address: '{text}' ({error})") from error
        if not host:
            raise ValueError(f"not an address: '{text}' (expecting host:port)")
        return cls(host, port or default_port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers (names in lower case) of a response."""

    status: int
    headers: dict[str, str]


class Exchange(Protocol):
    """One request's response as it comes in: `on_head`, `on_body`…, then `on_end`; or `on_lost` at any point."""

    def on_head(self, head: Head) -> None: ...
    def on_body(self, chunk: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_lost(self, error: Exception) -> None: ...


class Reply:
    """An exchange that collects the body and hands over the whole response, or the error."""

    def __init__(self, done: Callable[[Head, bytes], None], lost: Callable[[Exception], None]) -> None:
        self._done = done
        self._lost = lost
        self._head: Head | None = None
        self._body: list[bytes] = []

    def on_head(self, head: Head) -> None:
        self._head = head

    def on_body(self, chunk: bytes) -> None:
        self._body.append(chunk)

    def on_end(self) -> None:
        assert self._head is not None
        self._done(self._head, b"".join(self._body))

    def on_lost(self, error: Exception) -> None:
        head = self._head
        if head is None or "content-length" in head.headers or "transfer-encoding" in head.headers:
            self._lost(error)
        else:
            self.on_end()  # a body that ends with the connection


class HttpConnection(asyncio.Protocol):
    """One connection. Requests leave at once; `pending` of them have no complete response yet."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.closed = False
        self.on_lost: Callable[[Exception], None] = lambda error: None
        self._transport: asyncio.Transport | None = None
        self._exchanges: deque[Exchange] = deque()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        # What the parser's callbacks saw; run after it returned, for it would wrap our exceptions in its own.
        self._seen: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    @classmethod
    async def open(
        cls, endpoint: Endpoint, *, tls: ssl.SSLContext | None = None, timeout: float = 10.0
    ) -> "HttpConnection":
        """Connect. OSError (TimeoutError included) when that fails."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(
                lambda: cls(endpoint), endpoint.host, endpoint.port, ssl=tls
            )
        return connection

    @property
    def pending(self) -> int:
        """Requests without a complete response."""
        return len(self._exchanges)

    def post(self, path: str, headers: str, body: bytes, exchange: Exchange) -> None:
        """Send a JSON body; `headers` are further header lines, each with its CRLF."""
        if self.closed or self._transport is None:
            raise HttpError(f"the connection to {self.endpoint} is closed")
        self._exchanges.append(exchange)
        self._transport.write(
            (
                f"POST {path} HTTP/1.1\r\nHost: {self.endpoint}\r\nContent-Type: application/json\r\n"
                f"Accept: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
            ).encode("latin-1")
            + body
        )

    def close(self) -> None:
        """Close at once. Exchanges that are open get no callback any more."""
        self.closed = True
        self._exchanges.clear()
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        error: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as malformed:
            error = HttpError(f"{self.endpoint} sent malformed HTTP: {malformed}")
        seen, self._seen = self._seen, []
        for callback, arguments in seen:
            if self.closed:
                return
            callback(*arguments)
        if error is not None:
            self._lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc or HttpError(f"{self.endpoint} closed the connection"))

    def _lose(self, error: Exception) -> None:
        if self.closed:
            return
        exchanges = list(self._exchanges)
        self.close()
        for exchange in exchanges:
            exchange.on_lost(error)
        self.on_lost(error)

    # ---- httptools' callbacks

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._seen.append((self._on_head, (Head(self._parser.get_status_code(), self._headers),)))

    def on_body(self, body: bytes) -> None:
        self._seen.append((self._on_body, (body,)))

    def on_message_complete(self) -> None:
        self._seen.append((self._on_end, ()))

    def _on_head(self, head: Head) -> None:
        if not self._exchanges:
            self._lose(HttpError(f"{self.endpoint} sent a response that nobody asked for"))
            return
        self._exchanges[0].on_head(head)

    def _on_body(self, body: bytes) -> None:
        self._exchanges[0].on_body(body)

    def _on_end(self) -> None:
        self._exchanges.popleft().on_end()
