"""How agents get the executor: this very program as an archive (shared/bundle), served by every scheduler.

Over plain HTTP, without a token, on a port of its own: Mesos' fetcher knows neither our authority nor our token. It
needs none of them, because the command that agents run names the digest, and unpacks nothing else. The address is no
part of an executor's version: whichever instance serves it, it is the same archive.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from gantry import __version__
from scheduler.api.server import ConfigError, address
from scheduler.config import ExecutorSettings, Settings, UsageError
from shared.bundle import Bundle, BundleError, cached, check
from shared.bundle.command import executor_command
from shared.progress import Bar

log = logging.getLogger("gantry.scheduler")

WILDCARDS = ("", "0.0.0.0", "::")


@asynccontextmanager
async def offered(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[ExecutorSettings]:
    """What agents are told to run, while it is served. Raises UsageError, ConfigError."""
    executor = settings.executor
    if executor.command:
        yield executor
        return
    bundle = await asyncio.to_thread(_bundle, executor.bundle)
    runner, url = await _serve(bundle, settings, environ)
    log.info("agents fetch the executor (%.1f MB) from %s", bundle.size / 1e6, url)
    try:
        yield replace(executor, command=executor_command(bundle, executor.options), bundle_url=url)
    finally:
        await runner.cleanup()


def _bundle(given: Path | None) -> Bundle:
    """The one that was given, or this program's own. Raises UsageError."""
    try:
        if given is not None:
            return check(given)
        log.info("packing the executor for the agents; this takes some seconds, once a version")
        with Bar("packing the executor") as bar:
            return cached(__version__, progress=bar)
    except (BundleError, OSError) as error:
        flag = "--executor-bundle" if given is not None else "no --executor-bundle, and none can be made"
        why = f"{error.filename or given}: {error.strerror}" if isinstance(error, OSError) else error
        raise UsageError(f"{flag}: {why}") from error


async def _serve(bundle: Bundle, settings: Settings, environ: Mapping[str, str]) -> tuple[web.AppRunner, str]:
    # An open file stays what it was, whoever replaces or removes it.
    file = bundle.path.open("rb")

    async def send(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(
            f"/proc/self/fd/{file.fileno()}", headers={"Content-Type": "application/gzip"}
        )

    async def close(_app: web.Application) -> None:
        file.close()

    app = web.Application()
    app.on_cleanup.append(close)
    app.router.add_get(f"/bundles/{bundle.name}", send)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    listen = settings.bundle_listen
    try:
        await web.TCPSite(runner, listen.host, listen.port).start()
    except OSError as error:
        await runner.cleanup()
        where = address(listen.host, listen.port)
        raise ConfigError(
            f"--bundle-listen {where}: {error.strerror or error}; choose another port"
        ) from error
    host = reachable(settings, environ)
    return runner, f"http://{address(host, int(runner.addresses[0][1]))}/bundles/{bundle.name}"


def reachable(settings: Settings, environ: Mapping[str, str]) -> str:
    """The host by which agents find us: what was given, where we listen, what Mesos says this machine's address is, or
    its name."""
    if settings.advertise:
        return settings.names[0]
    mesos = (environ.get("LIBPROCESS_ADVERTISE_IP", ""), environ.get("LIBPROCESS_IP", ""))
    candidates = (settings.bundle_listen.host, *mesos, settings.framework.hostname)
    return next(one for one in candidates if one not in WILDCARDS)
