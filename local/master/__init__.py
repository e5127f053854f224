"""`gantry master`: an embedded Mesos master, one process, the real v1 HTTP APIs in JSON.

For laptops and tests, never for production: no ZooKeeper, no authorization.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from dataclasses import replace

import uvloop
from aiohttp import web

from local.master.cluster import Cluster
from local.master.flags import Flags, parse
from local.master.registry import Registry, RegistryError
from local.master.server import Server

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Agents may all come at once; who finds it full tries again after a second, then three, and so on."""
KEEPALIVE = 86400.0  # seconds; libprocess does not close idle connections either


async def serve(flags: Flags, registry: Registry, stop: asyncio.Event) -> None:
    """Run until `stop` is set. OSError when the address is taken."""
    loop = asyncio.get_running_loop()
    family_port = await loop.create_server(asyncio.Protocol, flags.ip, flags.port, start_serving=False)
    socket = family_port.sockets[0].dup()
    family_port.close()
    flags = replace(flags, port=flags.advertise_port or socket.getsockname()[1])
    server = Server(Cluster(flags, registry))
    runner = web.AppRunner(
        server.app(),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEPALIVE,
        shutdown_timeout=0.2,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, socket, ssl_context=flags.tls.server, backlog=BACKLOG).start()
        server.start()
        temporary = flags.work_dir / "endpoint.tmp"
        temporary.write_text(f"{flags.advertise_ip or flags.ip}:{flags.port}")
        os.replace(temporary, flags.work_dir / "endpoint")
        log.info("master listens on %s:%d", flags.ip, socket.getsockname()[1])
        await stop.wait()
    finally:
        await runner.cleanup()
        registry.flush()


async def _until_signalled(flags: Flags, registry: Registry) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    await serve(flags, registry, stop)


def main(argv: list[str]) -> int:
    """Entry point; 0 after SIGTERM or SIGINT, 1 with one line on stderr when it cannot start."""
    flags = parse(argv)
    logging.basicConfig(
        level=flags.log_level.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
    try:
        registry = Registry.open(flags.work_dir)
        gc.set_threshold(50_000, 10, 20)  # the state is no garbage, and large
        uvloop.run(_until_signalled(flags, registry))
    except (RegistryError, OSError) as error:
        sys.stderr.write(f"gantry: error: master: {error}\n")
        return 1
    return 0
