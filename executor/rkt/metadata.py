"""`metadata-service`, and `run --mds-register`: rkt's daemon for appc's metadata service (docs/appc.md)."""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from executor.metadata.client import MetadataError, Registration, forget, reachable
from executor.rkt.common import Globals, need_root, words
from executor.rkt.flags import Failure


def main(g: Globals, args: list[str]) -> int:
    """`metadata-service`: until it is told to end. Its socket may be systemd's."""
    from executor.metadata.doors import PORT
    from executor.metadata.keys import Keys
    from executor.metadata.registry import serve

    flags = g.flags("[flags]")
    flags.text("listen-port", str(PORT), "where pods on this machine's network, and we for the others, ask")
    if words(flags, args):
        raise Failure("takes no arguments")
    port = flags.values["listen-port"]
    if not port.isdecimal() or int(port) > 65535:
        raise Failure(f"invalid argument {port!r} for --listen-port: not a port")
    need_root()
    logging.basicConfig(
        level=logging.DEBUG if g.debug else logging.INFO, stream=sys.stderr, format=f"{g.verb}: %(message)s"
    )

    async def run() -> None:
        serving = asyncio.ensure_future(serve(Keys(g.data / "metadata" / "key", make=True), int(port)))
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, serving.cancel)
        await asyncio.wait([serving])
        if not serving.cancelled():
            serving.result()

    try:
        asyncio.run(run())
    except (OSError, ValueError) as error:
        raise Failure(str(error)) from None
    return 0


def check() -> None:
    """Whether there is a service. Failure."""
    try:
        reachable()
    except MetadataError as error:
        raise Failure(str(error)) from None


def register(pod: Path, *, host_network: bool) -> Registration:
    """A pod that is about to be run. Blocking. Failure."""
    try:
        return Registration.register(pod, pod.name, host_network=host_network)
    except (MetadataError, OSError) as error:
        raise Failure(f"failed to register the pod: {error}") from None


def unregister(pod: Path) -> None:
    """What is left of one that was killed."""
    forget(pod, pod.name)
