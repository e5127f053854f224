"""One address for several schedulers: connections go to one that is there, as behind any load balancer.

    python -m local.door --listen HOST:PORT --to HOST:PORT,HOST:PORT

It passes bytes, so TLS goes through to the scheduler. For `gantry up --ha` alone; in production clients have a DNS name
with several addresses, a virtual IP or a real load balancer.
"""

import argparse
import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import Coroutine, Iterable

CONNECT_SECONDS = 1.0
CHUNK = 1 << 16
BUSY = 3


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Door:
    """Takes turns; who does not listen is passed over."""

    def __init__(self, targets: Iterable[tuple[str, int]]) -> None:
        self._targets = list(targets)
        self._turn = itertools.count()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        try:
            there = await self._connect()
            if there is not None:
                await _both(_pump(reader, there[1]), _pump(there[0], writer))
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turn) % len(self._targets)
        for host, port in self._targets[first:] + self._targets[:first]:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(host, port)
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()  # one side broke: the other shall know


async def _both(*pumps: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(one) for one in pumps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def serve(listen: tuple[str, int], targets: Iterable[tuple[str, int]]) -> None:
    """Until a signal. Raises OSError when it cannot listen."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = await asyncio.start_server(Door(targets).handle, *listen)
    try:
        await stop.wait()
    finally:
        server.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m local.door")
    parser.add_argument("--listen", type=place, required=True)
    parser.add_argument("--to", required=True)
    args = parser.parse_args(argv)
    try:
        asyncio.run(serve(args.listen, map(place, args.to.split(","))))
    except OSError as error:
        sys.stderr.write(f"gantry: error: door: {error.strerror or error}\n")
        return BUSY
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
