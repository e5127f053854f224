"""`gantry agent`: an embedded Mesos agent, one process, the real v1 executor HTTP API in JSON.

Runs custom executors in cgroups (v1) or plain sessions, checkpoints what it needs and recovers its executors after a
restart. For laptops and tests: no images, no nested containers, no command or default executor.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time

import uvloop
from aiohttp import web

from local.agent import checkpoint
from local.agent.checkpoint import CheckpointError
from local.agent.containers.cgroups import CgroupError
from local.agent.containers.containerizer import Containerizer
from local.agent.containers.launcher import placement
from local.agent.core import Core
from local.agent.executors import Executors
from local.agent.flags import Flags, parse
from local.agent.master import MasterConnection
from local.agent.oversubscription import Oversubscription
from local.agent.recovery import Recovery
from local.agent.server import Server

log = logging.getLogger(__name__)

KEEPALIVE = 86400.0  # seconds; libprocess does not close idle connections either


def listen(flags: Flags) -> socket.socket:
    """The socket of the HTTP API. With --port 0 the port of the last run, which its executors know."""
    port = flags.port
    agent_id = checkpoint.latest_agent(flags.work_dir)
    if port == 0 and agent_id is not None:
        info = checkpoint.read(checkpoint.Paths(flags.work_dir, agent_id).meta / "slave.info") or {}
        port = info.get("port", 0)
    sock = socket.socket(socket.AF_INET6 if ":" in flags.ip else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((flags.ip, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {flags.ip}:{port}: {error.strerror}") from error
    sock.listen(128)
    return sock


def collect_sandboxes(flags: Flags, core: Core) -> None:
    """Remove sandboxes of earlier runs that are older than --gc_delay."""
    live = {e.sandbox for f in core.frameworks.values() for e in f.executors.values()}
    oldest = time.time() - flags.gc_delay
    for path in flags.work_dir.glob("slaves/*/frameworks/*/executors/*/runs/*"):
        if path not in live and not path.is_symlink() and path.stat().st_mtime < oldest:
            checkpoint.remove(path)


async def serve(flags: Flags) -> None:
    """Run until a signal or the master ends it. Raises OSError, CgroupError or CheckpointError at start."""
    sock = listen(flags)
    containers = placement(flags.launcher, flags.cgroups_hierarchy, flags.cgroups_root, flags.isolation)
    core = Core(flags, sock.getsockname()[1], Containerizer(containers, flags.work_dir))
    executors = Executors(core)
    recovery = Recovery(core, executors)
    oversubscription = Oversubscription(core, executors)
    connection = MasterConnection(core, executors, oversubscription.announce)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, core.stop)
    loop.add_signal_handler(signal.SIGUSR1, connection.unregister)
    await recovery.run()
    collect_sandboxes(flags, core)
    runner = web.AppRunner(
        Server(core, executors).app(),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEPALIVE,
        shutdown_timeout=0.2,
    )
    await runner.setup()
    await web.SockSite(runner, sock, ssl_context=flags.tls.server).start()
    log.info("agent listens on %s:%d", flags.ip, core.port)
    temporary = flags.work_dir / "endpoint.tmp"
    temporary.write_text(f"{flags.ip}:{core.port}")
    os.replace(temporary, flags.work_dir / "endpoint")
    while recovery.waiting() and not core.stopped.is_set():
        await core.settled.wait()
        core.settled.clear()
    core.recovering = False
    linking = asyncio.gather(connection.run(), oversubscription.run())
    try:
        await core.stopped.wait()
        if core.fatal is not None:
            raise core.fatal
    finally:
        linking.cancel()
        await asyncio.gather(linking, return_exceptions=True)
        core.updates.close()
        await runner.cleanup()
        await core.containerizer.close()


def main(argv: list[str]) -> int:
    """Entry point; 0 when it was told to end, 1 with one line on stderr when it cannot start."""
    flags = parse(argv)
    logging.basicConfig(
        level=flags.log_level.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
    try:
        uvloop.run(serve(flags))
    except (OSError, CgroupError, CheckpointError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        sys.stderr.write(f"gantry: error: agent: {text}\n")
        return 1
    return 0
