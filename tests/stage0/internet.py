"""Hosts with pages, behind a proxy: what discovery and addresses of ACIs meet in tests."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from executor.stage0.settings import Host, Settings
from shared.security.certificates import ServingFiles


class Internet:
    """Hosts of example.com's behind a proxy that the environment names; `pages` by `host/path`, else 404.

    A page is bytes, (bytes, headers), a status, or a handler. seen: method, `host/path?query` and headers of requests;
    connected: what the proxy was asked for.
    """

    def __init__(self, authority: ServingFiles) -> None:
        self.pages: dict[str, Any] = {}
        self.seen: list[tuple[str, str, Mapping[str, str]]] = []
        self.connected: list[str] = []
        names = ("example.com", "images.example.com", "mirror.example.com")
        self.settings = Settings(hosts={name: Host(ca=authority.authority) for name in names})
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(authority.certificate, authority.key)
        self._tasks: set[asyncio.Task[None]] = set()

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]

    async def start(self) -> str:
        """The proxy's address."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self._proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._proxy.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        where = f"{request.host}{request.path}"
        self.seen.append((request.method, f"{request.host}{request.path_qs}", request.headers))
        page = self.pages.get(where, 404)
        if callable(page):
            answer: web.StreamResponse = await page(request)
            return answer
        if isinstance(page, int):
            return web.Response(status=page)
        body, headers = page if isinstance(page, tuple) else (page, {})
        return web.Response(body=body, headers=headers)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.connected.append(head.split()[1].decode())
        port = self._runner.addresses[0][1]
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_relay(reader, inner_writer), _relay(inner_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, inner_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
