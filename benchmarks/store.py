"""Durable creates a second, and how long each takes, at 32 connections: our ZooKeeper store and two peers.

    python -m benchmarks.store [--seconds S] [--rounds N] [--connections N] [--directory DIR] [--json FILE]

One ZooKeeper server (Debian's, default JVM settings, every transaction flushed) and one etcd (Debian's, default
settings) keep their data in the same directory, so on the same disk; both run all the time, one is driven at a time, in
turns. Objects are pods of about 2 KiB of JSON, each create has a name of its own. Latency is from the call to its
acknowledgement. Every peer's client is Python in this process:

* gantry: 32 tasks call `ZooKeeperStore.commit`, one create each, over one session, as the API's connections do. Behind
  its log the store writes a table; what is left of that at the end of a round is not in the rate and is done before
  the next peer's turn: `behind` is how long it takes, as a share of the round.
* kazoo-32: one znode a request: 32 threads with a kazoo client each, `create`. (What "32 connections" says.)
* kazoo-1: one znode a request: 32 requests at any time on one kazoo client. (Faster in Python; ratios are to the
  faster of the two.)
* etcd: PUT over 32 keep-alive HTTP connections to its JSON gateway (`/v3/kv/put`), by a bare HTTP/1.1 client that
  parses no more than it must. The gateway and base64 are part of etcd's time, Python's gRPC would be slower.
"""

import argparse
import asyncio
import base64
import gc
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop
from kazoo.client import KazooClient

from benchmarks import _zookeeper
from local.settings import free_port
from scheduler.instance import COLLECT
from scheduler.store import Entry, Key
from scheduler.store.zookeeper import ZooKeeperStore
from shared.zookeeper.location import Location
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings

HOST = "127.0.0.1"
ETCD = "etcd"
PATIENCE = 60.0


def pod(number: int) -> dict[str, Any]:
    """About 2 KiB, as the API completes it; what differs from pod to pod differs here, too."""
    name = f"web-{number}"
    uid = f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}"
    container = {
        "name": "main",
        "image": "registry.example.com/team/app:1.0",
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/app", "--serve", "--port=8080", f"--instance={number}"],
        "env": [{"name": f"SETTING_{i}", "value": f"value-{i}-{uid[:8]}"} for i in range(12)],
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {
            "limits": {"cpu": "1", "memory": "256Mi"},
            "requests": {"cpu": "50m", "memory": "64Mi"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "creationTimestamp": "2026-03-01T12:00:00Z",
            "labels": {"app": "bench", "tier": "backend", "instance": name},
            "annotations": {"example.com/owner": "team-a", "example.com/revision": uid},
        },
        "spec": {
            "containers": [container],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": f"node.kubernetes.io/{one}", "operator": "Exists", "effect": "NoExecute"}
                for one in ("not-ready", "unreachable")
            ],
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"},
    }


class Numbers:
    """Names that no two creates share, from any thread."""

    def __init__(self) -> None:
        self._next = iter(range(1 << 40))
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            return next(self._next)


Latencies = list[float]
Run = Callable[[float], Coroutine[Any, Any, Latencies]]


class Servers:
    """A ZooKeeper and an etcd below `directory`, killed in the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.zookeeper, self.etcd = free_port(HOST), free_port(HOST)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._spawn("zookeeper", *_zookeeper.command(self.directory, self.zookeeper, "maxClientCnxns=0"))
        self._wait(self.zookeeper)
        if shutil.which(ETCD) is None:
            return
        peer, client = f"http://{HOST}:{free_port(HOST)}", f"http://{HOST}:{self.etcd}"
        self._spawn(
            *("etcd", ETCD, "--data-dir", str(self.directory / "etcd"), "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        )
        self._wait(self.etcd)

    def _spawn(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *command],
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                )
            )

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection((HOST, port), 1).close()
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit(f"port {port} was not opened; see the logs in {self.directory}")
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


# ---- gantry


def _give(obj: dict[str, Any], old: Entry | None) -> dict[str, Any]:
    return obj


class Gantry:
    def __init__(self, port: int, connections: int, numbers: Numbers) -> None:
        self._settings = ZooKeeperSettings(Location(f"{HOST}:{port}", "/gantry"))
        self._connections = connections
        self._numbers = numbers
        self._store = ZooKeeperStore(self._settings)

    async def start(self) -> None:
        await self._store.open()
        session = Session(self._settings)
        session.start()
        epoch = (await session.set("/gantry/epoch", b"")).version
        await session.stop()
        await self._store.lead(epoch)

    async def run(self, seconds: float) -> Latencies:
        taken: Latencies = []
        end = time.perf_counter() + seconds

        async def connection() -> None:
            while (begin := time.perf_counter()) < end:
                obj = pod(self._numbers())
                key = Key("pods", "default", obj["metadata"]["name"])
                await self._store.commit((key, partial(_give, obj)))
                taken.append(time.perf_counter() - begin)

        await asyncio.gather(*(connection() for _ in range(self._connections)))
        return taken

    async def settle(self) -> None:
        """Finishes the table."""
        await self._store.compact()

    async def stop(self) -> None:
        await self._store.close()


# ---- kazoo, one znode a request


class Kazoo:
    """`clients` kazoo clients share the connections' requests among them."""

    def __init__(self, port: int, connections: int, numbers: Numbers, clients: int) -> None:
        self._clients = [KazooClient(f"{HOST}:{port}") for _ in range(clients)]
        self._connections = connections
        self._numbers = numbers

    async def start(self) -> None:
        for client in self._clients:
            client.start()
        self._clients[0].ensure_path("/kazoo")

    async def run(self, seconds: float) -> Latencies:
        taken: Latencies = []
        end = time.perf_counter() + seconds

        def connection(client: KazooClient) -> None:
            while (begin := time.perf_counter()) < end:
                obj = pod(self._numbers())
                client.create(f"/kazoo/{obj['metadata']['name']}", orjson.dumps(obj))
                taken.append(time.perf_counter() - begin)

        threads = [
            threading.Thread(target=connection, args=(self._clients[i % len(self._clients)],))
            for i in range(self._connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        return taken

    async def settle(self) -> None:
        """Nothing is left behind."""

    async def stop(self) -> None:
        for client in self._clients:
            client.stop()
            client.close()


# ---- etcd


class Put(asyncio.Protocol):
    """One keep-alive connection that puts the next object as soon as the last one is acknowledged."""

    def __init__(self, end: float, taken: Latencies, numbers: Numbers, done: asyncio.Future[None]) -> None:
        self._end, self._taken, self._numbers, self._done = end, taken, numbers, done
        self._buffer = b""
        self._begin = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._next()

    def _next(self) -> None:
        self._begin = time.perf_counter()
        if self._begin >= self._end:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        obj = pod(self._numbers())
        key = base64.b64encode(f"/registry/pods/default/{obj['metadata']['name']}".encode())
        body = b'{"key":"%s","value":"%s"}' % (key, base64.b64encode(orjson.dumps(obj)))
        self._transport.write(
            b"POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(self._buffer.decode()))
            return
        self._buffer = b""
        self._taken.append(time.perf_counter() - self._begin)
        self._next()


class Etcd:
    def __init__(self, port: int, connections: int, numbers: Numbers) -> None:
        self._port, self._connections, self._numbers = port, connections, numbers

    async def start(self) -> None:
        """Nothing is kept between runs."""

    async def run(self, seconds: float) -> Latencies:
        loop = asyncio.get_running_loop()
        taken: Latencies = []
        end = time.perf_counter() + seconds
        ends = []
        for _ in range(self._connections):
            done: asyncio.Future[None] = loop.create_future()
            ends.append(done)
            await loop.create_connection(
                lambda done=done: Put(end, taken, self._numbers, done),  # type: ignore[misc]
                HOST,
                self._port,
            )
        await asyncio.gather(*ends)
        return taken

    async def settle(self) -> None:
        """Nothing is left behind."""

    async def stop(self) -> None:
        """Nothing to stop."""


def summary(rounds: list[tuple[float, Latencies]]) -> dict[str, float]:
    """The median round's rate; the quantiles of all latencies, in milliseconds."""
    latencies = sorted(one for _, taken in rounds for one in taken)
    rates = [len(taken) / seconds for seconds, taken in rounds]
    return {
        "creates_per_second": round(statistics.median(rates), 1),
        "lowest_round": round(min(rates), 1),
        "highest_round": round(max(rates), 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
    }


async def measure(args: argparse.Namespace, servers: Servers) -> dict[str, Any]:
    numbers = Numbers()
    peers: dict[str, Any] = {
        "gantry": Gantry(servers.zookeeper, args.connections, numbers),
        "kazoo-32": Kazoo(servers.zookeeper, args.connections, numbers, args.connections),
        "kazoo-1": Kazoo(servers.zookeeper, args.connections, numbers, 1),
    }
    if shutil.which(ETCD):
        peers["etcd"] = Etcd(servers.etcd, args.connections, numbers)
    results: dict[str, list[tuple[float, Latencies]]] = {name: [] for name in peers}
    for peer in peers.values():
        await peer.start()
    behind: list[float] = []
    for peer in peers.values():  # warms the JVM up, above all
        await peer.run(args.seconds / 2)
        await peer.settle()
    for _ in range(args.rounds):
        for name, peer in peers.items():
            begin = time.perf_counter()
            taken = await peer.run(args.seconds)
            took = time.perf_counter() - begin
            results[name].append((took, taken))
            begin = time.perf_counter()
            await peer.settle()
            if name == "gantry":
                behind.append((time.perf_counter() - begin) / took)
    for peer in peers.values():
        await peer.stop()
    found = {name: summary(rounds) for name, rounds in results.items()}
    found["gantry"]["behind"] = round(statistics.median(behind), 2)
    ours = found["gantry"]["creates_per_second"]
    kazoo = max(found[name]["creates_per_second"] for name in ("kazoo-32", "kazoo-1"))
    return {
        "benchmark": "store",
        "how": __doc__,
        "cpus": os.cpu_count(),
        "object_bytes": len(orjson.dumps(pod(1))),
        "connections": args.connections,
        "peers": found,
        "ratio_to_kazoo_32": round(ours / found["kazoo-32"]["creates_per_second"], 2),
        "ratio_to_kazoo": round(ours / kazoo, 2),
        "ratio_to_etcd": round(ours / found["etcd"]["creates_per_second"], 2)
        if "etcd" in found
        else "not installed",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--directory", type=Path, help="on the disk to measure on (a temporary one)")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    args = parser.parse_args()
    for tool in ("java", "setpriv"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing")
    gc.set_threshold(*COLLECT)  # as the scheduler does
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir=args.directory) as directory:
        servers = Servers(Path(directory))
        try:
            servers.start()
            result = uvloop.run(measure(args, servers))
        finally:
            servers.stop()
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
