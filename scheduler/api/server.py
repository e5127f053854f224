"""Listening: where it is allowed to, and errors that say what to do."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl

from aiohttp import web

from scheduler.api.auth import is_loopback
from scheduler.api.context import API

log = logging.getLogger(__name__)

KEEPALIVE = 180.0
"""Seconds an idle connection stays open: longer than client-go keeps one (90), so that it closes first."""

SHUTDOWN = 5.0
"""Seconds that requests have to end at shutdown."""

STEP = 0.1
"""Seconds after which a port in use is tried again."""


class ConfigError(Exception):
    """The server cannot listen as asked; one line that says why and what to do."""


def check_listen(host: str, port: int, token: str | None) -> None:
    """Raises ConfigError for an address that others can reach when there is no token."""
    if token is None and not is_loopback(f"[{host}]" if ":" in host else host):
        raise ConfigError(
            f"--listen {address(host, port)}: others could reach this address; "
            "give --token-file, or listen on 127.0.0.1"
        )


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def start_server(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    patience: float = 0.0,
) -> tuple[web.AppRunner, int]:
    """Starts to serve, HTTPS with `tls`; port 0 takes a free one. Returns the runner and the port.

    `patience`: seconds for which a port in use is tried again. Stop it with `await runner.cleanup()`, which ends
    watches and followed logs. Raises ConfigError.
    """
    check_listen(host, port, app[API].token)
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,  # a client that goes away ends its watch
        keepalive_timeout=KEEPALIVE,
        shutdown_timeout=SHUTDOWN,
    )
    await runner.setup()
    try:
        await _bind(runner, host, port, tls, patience)
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"--listen {address(host, port)}: {_why(error)}") from error
    return runner, int(runner.addresses[0][1])


async def _bind(
    runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None, patience: float
) -> None:
    clock = asyncio.get_running_loop().time
    end, complained = clock() + patience, False
    while True:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        try:
            await site.start()
            return
        except OSError as error:
            await site.stop()
            if error.errno != errno.EADDRINUSE or clock() >= end:
                raise
            if not complained:
                log.warning("%s is in use, trying again for %.0f s", address(host, port), patience)
            complained = True
        await asyncio.sleep(STEP)


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the program that listens there, or choose another port"
    if error.errno == errno.EACCES:
        return "not permitted; ports below 1024 need root, choose another port"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine does not have that address; choose one of its own, or 127.0.0.1"
    return f"cannot listen: {error.strerror or error}"
