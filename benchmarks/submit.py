"""From `POST` of many pods to the last `Running` on a watch: real master, real scheduler, simulated executors.

    python -m benchmarks.submit [--pods N] [--agents N] [--connections N] [--rounds N] [--json FILE]

Four processes on loopback: `gantry master`, `gantry scheduler` (SQLite store, every commit flushed to the disk, no
TLS), `gantry simulate` (agents that answer TASK_RUNNING at once, with a full container status), and this client.
Keep-alive connections each post the next pod as soon as the last one is acknowledged; the clock runs from the first
POST to the last Running on a watch that was open before.

The peers, in each round just before and after ours, on the same disk: how many pods a second plain SQLite makes
durable one commit each, with as many writes as a pod costs us (created, bound with its task, running with its task);
and the same in commits of 100 pods. Each round is a new cluster. A machine that does other things swings, so the
ratio is taken in each round, and what is reported is the median of the rounds.
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import uvloop

from local.settings import free_port

HOST = "127.0.0.1"
PODS = "/api/v1/namespaces/default/pods"
PATIENCE = 120.0


def pod(name: str) -> bytes:
    container = {
        "name": "main",
        "image": "registry.example/app:1.0",
        "command": ["/bin/app", "--serve"],
        "env": [{"name": "MODE", "value": "production"}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    }
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "backend"}},
        "spec": {"containers": [container]},
    }
    return orjson.dumps(obj)


class Cluster:
    """The processes, in a directory; ended by SIGTERM."""

    def __init__(self, directory: Path, agents: int, profile: str) -> None:
        self.directory = directory
        self.agents = agents
        self.profile = profile
        self.master, self.api = free_port(HOST), free_port(HOST)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, *argv: str) -> None:
        log = (self.directory / f"{name}.log").open("wb")
        command = [sys.executable, "-m"]
        if name == self.profile:
            command += ["cProfile", "-o", str(Path.cwd() / f"{name}.prof"), "-m"]
        command += ["gantry", name, *argv]
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        log.close()

    def start(self) -> None:
        master = f"{HOST}:{self.master}"
        self.spawn("master", "--port", str(self.master), "--work_dir", "master", "--log_level", "warning")
        self.spawn(
            *("scheduler", "--master", master, "--store", "sqlite:state.db", "--log-level", "warning"),
            *("--listen", f"{HOST}:{self.api}", "--executor-command", "simulated"),
        )
        self.spawn("simulate", "--master", master, "--agents", str(self.agents), "--log_level", "warning")

    def cpu_seconds(self) -> dict[str, float]:
        """What each process has used up to now."""
        tick = os.sysconf("SC_CLK_TCK")
        used = {}
        for name, process in self.processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) / tick
        return used

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)


class Connection:
    """One keep-alive HTTP/1.1 connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port, limit=1 << 24)

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        for line in answer.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                return status, await self._reader.readexactly(int(line[15:]))
        return status, b""

    async def lines(self, path: str) -> Any:
        """The lines of a chunked answer that goes on."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await self._reader.readuntil(b"\r\n\r\n")
        rest = b""
        while True:
            size = int(await self._reader.readline(), 16)
            if not size:
                return
            *lines, rest = (rest + (await self._reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in lines:
                yield line

    def close(self) -> None:
        self._writer.close()


async def ready(cluster: Cluster) -> None:
    """Wait until every agent is a node."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        connection = Connection(cluster.api)
        try:
            await connection.open()
            status, body = await connection.request("GET", "/api/v1/nodes")
            connection.close()
            if status == 200 and len(json.loads(body)["items"]) == cluster.agents:
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.1)
    sys.exit(f"the {cluster.agents} nodes did not appear: see {cluster.directory}")


async def measure(cluster: Cluster, count: int, connections: int) -> dict[str, Any]:
    await ready(cluster)
    watching = Connection(cluster.api)
    await watching.open()
    begun = asyncio.Event()
    seen: dict[str, float] = {}

    async def watch() -> None:
        begun.set()
        async for line in watching.lines(f"{PODS}?watch=1&timeoutSeconds=3600"):
            if b'"phase":"Running"' in line:
                name = orjson.loads(line)["object"]["metadata"]["name"]
                seen.setdefault(name, time.perf_counter())
                if len(seen) == count:
                    return

    watcher = asyncio.create_task(watch())
    await begun.wait()
    await asyncio.sleep(0.3)
    used = cluster.cpu_seconds()
    bodies = iter([(f"bench-{number}", pod(f"bench-{number}")) for number in range(count)])
    posted: dict[str, float] = {}
    acked: list[float] = []

    async def post() -> None:
        connection = Connection(cluster.api)
        await connection.open()
        for name, body in bodies:
            posted[name] = sent = time.perf_counter()
            status, answer = await connection.request("POST", PODS, body)
            if status != 201:
                sys.exit(f"POST of {name}: {status} {answer[:300]!r}")
            acked.append(time.perf_counter() - sent)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(post() for _ in range(connections)))
    created = time.perf_counter() - began
    async with asyncio.timeout(PATIENCE):
        await watcher
    took = max(seen.values()) - began
    after = cluster.cpu_seconds()
    waits = sorted(seen[name] - posted[name] for name in posted)
    watching.close()
    return {
        "pods": count,
        "seconds": round(took, 3),
        "pods_per_second": round(count / took),
        "creates_per_second": round(count / created),
        "create_p50_ms": round(sorted(acked)[count // 2] * 1e3, 1),
        "submit_to_running_p50_ms": round(waits[count // 2] * 1e3, 1),
        "submit_to_running_p99_ms": round(waits[int(count * 0.99)] * 1e3, 1),
        "cpu_ms_per_pod": {name: round((after[name] - used[name]) / count * 1e3, 3) for name in used},
    }


def plain_sqlite(directory: Path, count: int, together: int) -> float:
    """Pods a second when every pod costs three durable commits of `together` pods each."""
    path = directory / f"plain-{together}.db"
    for one in directory.glob(f"{path.name}*"):
        one.unlink()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE objects (name TEXT PRIMARY KEY, raw BLOB)")
    raw = os.urandom(1700)
    began = time.perf_counter()
    for first in range(0, count, together):
        for kinds in (("pod",), ("pod", "task"), ("pod", "task")):
            db.execute("BEGIN")
            for number in range(first, first + together):
                rows = [(f"{kind}-{number}", raw if kind == "pod" else raw[:500]) for kind in kinds]
                db.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?)", rows)
            db.execute("COMMIT")
    took = time.perf_counter() - began
    db.close()
    return count / took


def once(args: argparse.Namespace) -> dict[str, Any]:
    """A round: peers, ours, peers again."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="gantry-submit-", dir="/var/tmp"))
        )
        alone, grouped = [plain_sqlite(directory, 300, 1)], [plain_sqlite(directory, 3000, 100)]
        cluster = Cluster(directory, args.agents, args.profile)
        stack.callback(cluster.stop)
        cluster.start()
        figures: dict[str, Any] = {"gantry": uvloop.run(measure(cluster, args.pods, args.connections))}
        figures["load_average"] = round(os.getloadavg()[0], 2)
        alone.append(plain_sqlite(directory, 300, 1))
        grouped.append(plain_sqlite(directory, 3000, 100))
    ours = figures["gantry"]["pods_per_second"]
    figures["sqlite_commit_each"] = round(statistics.mean(alone))
    figures["sqlite_commits_of_100"] = round(statistics.mean(grouped))
    figures["to_commit_each"] = round(ours / statistics.mean(alone), 3)
    figures["to_commits_of_100"] = round(ours / statistics.mean(grouped), 4)
    return figures


def median(rounds: list[dict[str, Any]], *path: str) -> float:
    """Of a figure over the rounds."""
    values = []
    for one in rounds:
        value: Any = one
        for name in path:
            value = value[name]
        values.append(value)
    return float(statistics.median(values))


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [one["gantry"]["pods_per_second"] for one in rounds]
    names = ("submit_to_running_p50_ms", "submit_to_running_p99_ms", "create_p50_ms")
    return {
        "pods_per_second": median(rounds, "gantry", "pods_per_second"),
        "pods_per_second_of_rounds": rates,
        **{name: median(rounds, "gantry", name) for name in names},
        "scheduler_cpu_ms_per_pod": median(rounds, "gantry", "cpu_ms_per_pod", "scheduler"),
        "to_commit_each": median(rounds, "to_commit_each"),
        "to_commits_of_100": median(rounds, "to_commits_of_100"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.submit", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=5000, help="default: %(default)s")
    parser.add_argument("--agents", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--connections", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--profile", default="", help="run this of the processes under cProfile, into NAME.prof"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    rounds = [once(args) for _ in range(args.rounds)]
    text = json.dumps({"median": summary(rounds), "rounds": rounds}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
