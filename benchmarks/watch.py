"""Many watchers of one API: how long after a create has been sent does each of them hear of it.

    python -m benchmarks.watch [--watchers N] [--events N] [--json FILE]

A process serves the API over an SQLite store; this one holds the watches, one plain HTTP connection each, and creates
pods one after the other. Lag is from the sending of the POST to the arrival of its event, over all watchers and events;
so the create itself, flushed to the disk, is part of it. `encoded_per_event` is how often the server made an event's
bytes (once is right). The peer, in the same processes and turns, is the least that could be done: a bare asyncio server
that takes a line and writes a response of the same size to as many connections; it stores nothing.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks.store import pod
from scheduler.api.app import make_app
from scheduler.api.server import start_server
from scheduler.api.watch import Encoder
from scheduler.framework.nodes import NodeProxy
from scheduler.store.sqlite import SqliteStore

HOST = "127.0.0.1"
PODS = "/api/v1/namespaces/default/pods"
MARK = b"\n"
LIMIT = 120.0


# ---- the serving process


class Bare(asyncio.Protocol):
    """Whoever sends a line makes the server send it, in an HTTP chunk, to all that sent none."""

    connections: set["Bare"] = set()  # noqa: RUF012 - shared on purpose: there is one server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer = b""
        self.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.connections.discard(self)
        self._buffer += data
        *lines, self._buffer = self._buffer.split(MARK)
        for line in lines:
            chunk = b"%x\r\n%s\n\r\n" % (len(line) + 1, line)
            for one in self.connections:
                one._transport.write(chunk)


async def serve(directory: Path) -> None:
    """Prints the two ports; at the end of its input, how many events it encoded."""
    encoded = 0
    original = Encoder._line

    def counting(self: Encoder, *arguments: Any) -> bytes:
        nonlocal encoded
        encoded += 1
        return original(self, *arguments)

    Encoder._line = counting  # type: ignore[method-assign]
    store = SqliteStore(directory / "state.db")
    await store.open()
    app = make_app(store, nodes=NodeProxy(lambda _: None), version="0", token=None)
    runner, port = await start_server(app, HOST, 0)
    bare = await asyncio.get_running_loop().create_server(Bare, HOST, 0, backlog=4096)
    print(port, bare.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(encoded, flush=True)
    bare.close()
    await runner.cleanup()
    await store.close()


# ---- the measuring process


class Watcher(asyncio.Protocol):
    """Notes when each event arrives."""

    def __init__(self, request: bytes, arrivals: list[float], ready: asyncio.Future[None]) -> None:
        self._request = request
        self._arrivals = arrivals
        self._ready = ready

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._request:
            transport.write(self._request)
        else:
            self._ready.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self._ready.done():  # the head of the answer
            self._ready.set_result(None)
            data = data.partition(b"\r\n\r\n")[2]
        now = time.perf_counter()
        self._arrivals.extend([now] * data.count(b"}\n\r\n"))

    def close(self) -> None:
        self._transport.abort()


async def watchers(port: int, request: bytes, count: int) -> tuple[list[Watcher], list[list[float]]]:
    loop = asyncio.get_running_loop()
    made: list[Watcher] = []
    arrivals: list[list[float]] = [[] for _ in range(count)]
    for seen in arrivals:
        ready: asyncio.Future[None] = loop.create_future()
        _, one = await loop.create_connection(
            lambda seen=seen, ready=ready: Watcher(request, seen, ready),  # type: ignore[misc]
            HOST,
            port,
        )
        made.append(one)
        await ready
    return made, arrivals


async def all_arrived(arrivals: list[list[float]], count: int) -> None:
    async with asyncio.timeout(LIMIT):
        while any(len(seen) < count for seen in arrivals):  # noqa: ASYNC110 - an event would cost time there
            await asyncio.sleep(0.002)


async def lags(port: int, request: bytes, count: int, events: list[bytes], *, answered: bool) -> list[float]:
    """Seconds from the sending of each event to each arrival; an event is sent when all have seen the last one."""
    made, arrivals = await watchers(port, request, count)
    reader, writer = await asyncio.open_connection(HOST, port)
    found: list[float] = []
    for number, event in enumerate(events, 1):
        sent = time.perf_counter()
        writer.write(event)
        if answered:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 201"):
                sys.exit(f"POST: {head!r}")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
        await all_arrived(arrivals, number)
        found += [seen[number - 1] - sent for seen in arrivals]
        await asyncio.sleep(0.02)
    writer.close()
    for one in made:
        one.close()
    return found


async def newest(port: int) -> str:
    """The resourceVersion from which watches tell only what is new."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {PODS}?limit=1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return str(orjson.loads(body)["metadata"]["resourceVersion"])


def post(number: int) -> bytes:
    body = orjson.dumps({**pod(number), "status": {}})
    return (
        f"POST {PODS} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def summary(found: list[float]) -> dict[str, float]:
    found = sorted(found)
    return {
        name: round(found[min(len(found) - 1, int(len(found) * share))] * 1e3, 2)
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0))
    }


async def measure(args: argparse.Namespace, api: int, bare: int) -> dict[str, Any]:
    line = orjson.dumps({"type": "ADDED", "object": pod(1)}) + MARK
    ours: list[float] = []
    peer: list[float] = []
    rounds = 4
    share = max(1, args.events // rounds)
    for turn in range(rounds):
        bodies = [post(turn * share + i) for i in range(share)]
        since = f"resourceVersion={await newest(api)}"
        watch = f"GET {PODS}?watch=1&timeoutSeconds=3600&{since} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        ours += await lags(api, watch, args.watchers, bodies, answered=True)
        peer += await lags(bare, b"", args.watchers, [line] * share, answered=False)
    return {
        "benchmark": "watch",
        "how": __doc__,
        "cpus": os.cpu_count(),
        "watchers": args.watchers,
        "events": share * rounds,
        "gantry": summary(ours),
        "bare": summary(peer),
        "ratio_of_p99": round(summary(ours)["p99_ms"] / summary(peer)["p99_ms"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--watchers", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--events", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if args.serve:
        uvloop.run(serve(args.serve))
        return
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as directory:
        command = [sys.executable, "-m", "benchmarks.watch", "--serve", directory]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            try:
                api, bare = map(int, server.stdout.readline().split())
                result = uvloop.run(measure(args, api, bare))
            finally:
                server.stdin.close()
            result["encoded_per_event"] = round(int(server.stdout.readline()) / result["events"], 2)
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
