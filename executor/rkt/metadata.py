"""`metadata-service`, and `run --mds-register`: rkt's daemon for appc's metadata service (docs/appc.md)."""

import asyncio
import logging
import signal
import sys
from ipaddress import IPv4Address
from pathlib import Path

from executor.metadata.client import EVERYWHERE, MetadataError, Registration, forget, reachable
from executor.metadata.doors import PORT
from executor.rkt.common import Globals, need_root, words
from executor.rkt.flags import Failure


def main(g: Globals, args: list[str]) -> int:
    """`metadata-service`: until it is told to end. Its socket may be systemd's."""
    from executor.metadata.keys import Keys
    from executor.metadata.registry import serve

    flags = g.flags("[flags]")
    flags.text("listen-port", str(PORT), "where pods on this machine's network, and we for the others, ask")
    flags.text(
        "listen-address",
        "127.0.0.1",
        "0.0.0.0: for pods, too, that stage1 images of others run, with networks of their own",
    )
    if words(flags, args):
        raise Failure("takes no arguments")
    port = flags.values["listen-port"]
    if not port.isdecimal() or int(port) > 65535:
        raise Failure(f"invalid argument {port!r} for --listen-port: not a port")
    address = flags.values["listen-address"]
    try:
        IPv4Address(address)
    except ValueError:
        raise Failure(f"invalid argument {address!r} for --listen-address: not an IPv4 address") from None
    need_root()
    logging.basicConfig(
        level=logging.DEBUG if g.debug else logging.INFO, stream=sys.stderr, format=f"{g.verb}: %(message)s"
    )

    async def run() -> None:
        keys = Keys(g.data / "metadata" / "key", make=True)
        serving = asyncio.ensure_future(serve(keys, int(port), host=address))
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


def announce(pod: Path, *, host_network: bool) -> Registration:
    """Likewise, one whose stage1, somebody else's, is told the token. It looks for the service where rkt's is: at its
    port on this machine's loopback, or at this machine's end of a network of its own. Failure."""
    try:
        made = Registration.announce(pod, pod.name)
    except (MetadataError, OSError) as error:
        raise Failure(f"failed to register the pod: {error}") from None
    address, port = made.place
    here = host_network and address in {"127.0.0.1", EVERYWHERE}
    if port == PORT and (here or address == EVERYWHERE):
        return made
    forget(pod, pod.name)
    wanted = f"--listen-port={PORT}" + ("" if here or host_network else f" --listen-address={EVERYWHERE}")
    raise Failure(
        f"failed to register the pod: the metadata service is at {address}:{port}, where its stage1 does not look for "
        f"it: start it with {wanted}"
    )


def unregister(pod: Path) -> None:
    """What is left of one that was killed."""
    forget(pod, pod.name)
