"""Connections that change their protocol (exec, attach, port-forward): bytes both ways, whatever they mean.

The request goes to the leader as it came. From its 101 on nothing is read or changed. Any other answer is passed back
as an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Mapping

from aiohttp import hdrs, web

from scheduler.api.forward_http import CONNECT_SECONDS, Leader, NotSent, address_of, end_to_end
from scheduler.registry.errors import Timeout

HEAD_LIMIT = 64 * 1024
"""Bytes of an answer's head."""

CLOSING_SECONDS = 10.0
"""For what the client has not read yet."""

BODY_LIMIT = 1024 * 1024
"""Bytes of a refusal."""


def wants_upgrade(request: web.Request) -> bool:
    connection = request.headers.get(hdrs.CONNECTION, "").lower()
    return "upgrade" in connection and hdrs.UPGRADE in request.headers


async def tunnel(
    request: web.Request,
    leader: Leader,
    headers: Mapping[str, str],
    *,
    path: str = "",
    who: str = "leading scheduler",
) -> web.StreamResponse:
    """Until one side closes. path: another than the request's; who: is reached there. Raises NotSent, Timeout."""
    reader, writer = await _connect(leader, who)
    try:
        body = await request.read()
        writer.write(_head(request, leader, headers, len(body), path or request.raw_path) + body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Timeout(f"the {who} at {leader.url} went away before it answered") from error
        status, fields = _parse(head)
        if status != 101:
            return await _refused(status, fields, reader)
        return await _join(request, head, reader, writer)
    finally:
        writer.close()


async def _connect(leader: Leader, who: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = None
    if leader.fingerprint:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # pinned instead, below
    host, port = address_of(leader.url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=HEAD_LIMIT)
    except (OSError, TimeoutError) as error:
        raise NotSent(f"the {who} at {leader.url} cannot be reached: {error}") from error
    if context is not None:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if hashlib.sha256(shown).hexdigest() != leader.fingerprint:
            writer.close()
            raise NotSent(f"{leader.url} shows another certificate than the leading scheduler's")
    return reader, writer


def _head(request: web.Request, leader: Leader, headers: Mapping[str, str], length: int, path: str) -> bytes:
    fields = dict(headers) | {
        hdrs.HOST: leader.url.partition("//")[2],
        hdrs.CONNECTION: "Upgrade",
        hdrs.UPGRADE: request.headers[hdrs.UPGRADE],
    }
    if length or request.method not in ("GET", "HEAD"):
        fields[hdrs.CONTENT_LENGTH] = str(length)
    lines = [f"{request.method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _parse(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = [line.partition(":") for line in rest if line]
    return int(first.split(" ", 2)[1]), [(name.strip(), value.strip()) for name, _, value in fields]


async def _refused(status: int, fields: list[tuple[str, str]], reader: asyncio.StreamReader) -> web.Response:
    headers = end_to_end(fields)
    length = headers.popall(hdrs.CONTENT_LENGTH, ["0"])[0]
    body = await reader.readexactly(min(int(length), BODY_LIMIT))
    return web.Response(status=status, headers=headers, body=body)


class _Pipe(asyncio.Protocol):
    """What the client sends, once its connection is taken over, goes to the leader."""

    def __init__(self, writer: asyncio.StreamWriter, client: asyncio.Transport) -> None:
        self._writer = writer
        self._client = client
        self._server = client.get_protocol()
        self.lost = False
        self.ended = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self._writer.write(data)
        if self._task is None:
            self._client.pause_reading()
            self._task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
            self._client.resume_reading()
        except OSError:
            self.ended.set()
        finally:
            self._task = None

    def eof_received(self) -> bool:
        self.ended.set()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.ended.set()
        self._may_write.set()
        self._server.connection_lost(error)

    def give_back(self) -> None:
        """The server has to see the end of its connection, which cancels the request's handler."""
        if not self.lost:
            self._client.set_protocol(self._server)
            self._client.close()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    async def fill(self, head: bytes, reader: asyncio.StreamReader) -> None:
        """What the leader sends goes to the client."""
        data = head
        while data and not self._client.is_closing():
            self._client.write(data)
            await self._may_write.wait()
            data = await reader.read(HEAD_LIMIT)


async def _join(
    request: web.Request, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> web.StreamResponse:
    client = request.transport
    if client is None:
        raise ConnectionResetError
    pipe = _Pipe(writer, client)
    client.set_protocol(pipe)
    filling = asyncio.ensure_future(pipe.fill(head, reader))
    ending = asyncio.ensure_future(pipe.ended.wait())
    try:
        await asyncio.wait((filling, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (filling, ending):
            task.cancel()
        await asyncio.wait((filling, ending))
        pipe.give_back()
    try:
        async with asyncio.timeout(CLOSING_SECONDS):
            await asyncio.Event().wait()
    except TimeoutError:
        client.abort()
    raise ConnectionResetError  # there is nothing to answer any more
