"""An HTTP/1.1 connection for the v1 APIs: pipelined requests, replies in order, bodies as they come.

Why not aiohttp's client: Mesos gives order only within one connection, so calls must share one and should not
wait for one another's replies; and an event should reach its callback in the same turn of the loop in which
its last byte was read. Not a general client: POST only, no redirects, no cookies, no compression.

TLS or not is the endpoint's own scheme where it has one, else whether the caller has a TLS context.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import httptools

from shared.security.tls import client_context, explain

DEFAULT_PORT = 5050

_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_SCHEMES = {"http": False, "https": True, "": None}
_TLS_ALERT = 0x15


class HttpError(OSError):
    """The peer speaks something that is not HTTP, or closed where it should not have."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port of a master or agent; `tls` as its URL says, None for one without a scheme. `alias` is another
    name it may have in its certificate: masters register with an IP and a hostname."""

    host: str
    port: int
    tls: bool | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> "Endpoint":
        """From `host:port`, `host`, `[::1]:port` or an http(s) URL, whose path is of no interest."""
        url = text.strip()
        try:
            parts = urlsplit(url if "//" in url else f"//{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"not an address: {error}") from None
        if parts.username is not None:
            raise ValueError(
                "not an address: a password does not belong into a URL; credentials are given apart"
            )
        if not host or parts.scheme not in _SCHEMES:
            raise ValueError(f"not an address: '{text}' (expecting host:port)")
        return cls(host, port or default_port, _SCHEMES[parts.scheme])

    def redirected(self, location: str, tls: ssl.SSLContext | None) -> "Endpoint":
        """Where a Location header (Mesos' have no scheme) leads from here. ValueError when it leads nowhere, or
        from TLS to plain text: our credentials go along."""
        target = Endpoint.parse(location, self.port)
        if target.tls is False and self.context(tls) is not None:
            raise ValueError(f"not from TLS to plain text: {location}")
        return target if target.tls is not None else replace(target, tls=self.tls)

    def context(self, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """What to connect with, when `tls` is what was configured; None for plain text."""
        if self.tls is None:
            return tls
        return (tls or _system_context()) if self.tls else None

    def url(self, tls: ssl.SSLContext | None) -> str:
        """As `parse` takes it back: `https://host:port`, or `host:port`."""
        return f"https://{self}" if self.context(tls) is not None else str(self)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@cache
def _system_context() -> ssl.SSLContext:
    return client_context()


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
        context = endpoint.context(tls)
        async with asyncio.timeout(timeout):
            try:
                return await cls._connect(endpoint, context, endpoint.host)
            except ssl.SSLCertVerificationError as error:
                if endpoint.alias is None or error.verify_code not in _OTHER_NAME:
                    raise HttpError(f"TLS with {endpoint}: {explain(error)}") from error
            except ssl.SSLError as error:
                raise HttpError(f"TLS with {endpoint}: {explain(error)}") from error
            try:
                return await cls._connect(endpoint, context, endpoint.alias)
            except ssl.SSLError as error:
                raise HttpError(f"TLS with {endpoint} ({endpoint.alias}): {explain(error)}") from error

    @classmethod
    async def _connect(
        cls, endpoint: Endpoint, context: ssl.SSLContext | None, name: str
    ) -> "HttpConnection":
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(endpoint),
            endpoint.host,
            endpoint.port,
            ssl=context,
            server_hostname=name if context else None,
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

    def pause_reading(self) -> None:
        """Leave what comes to the kernel, whose full buffers slow the peer down."""
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

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
            said = "speaks TLS" if data[0] == _TLS_ALERT else f"sent malformed HTTP: {malformed}"
            error = HttpError(f"{self.endpoint} {said}")
        seen, self._seen = self._seen, []
        for callback, arguments in seen:
            if self.closed:
                return
            callback(*arguments)
        if error is not None:
            self._lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):  # TLS 1.3: here a client learns that its certificate was refused
            exc = HttpError(f"TLS with {self.endpoint}: {explain(exc)}")
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
