"""A standby takes over a cluster of 100,000 running pods: until it serves writes, and until it has reconciled.

    python -m benchmarks.takeover [--pods N] [--rounds N] [--json FILE]

One ZooKeeper (Debian's, data on disk) holds the pods, their tasks, nodes and executors, as if they ran for long. Two
schedulers, real processes; the one that leads is killed with SIGKILL (its supervising process sees that), again and
again. The master is a server in this process that speaks as much of Mesos' scheduler API as it takes: it answers
SUBSCRIBE, and notes when RECONCILE calls have named all tasks. A client creates a pod at the standby once every few
milliseconds until one is acknowledged by the new leader. Memory is VmRSS and VmHWM of the scheduler proper,
cpu_s the processor time that it took from the kill to the last RECONCILE: what there is to compare on a busy machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import IO, Any

import aiohttp
import orjson
from aiohttp import web

from benchmarks import _zookeeper
from benchmarks.store import pod
from local.settings import free_port
from scheduler.framework import records
from scheduler.framework.core.entities import Executor, Node, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.nodeobjects import node_object
from scheduler.store import Change, Entry, Key
from scheduler.store.zookeeper import ZooKeeperStore
from shared.mesos.recordio import encode
from shared.zookeeper.location import Location
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings

HOST = "127.0.0.1"
FRAMEWORK = "11111111-2222-3333-4444-555555555555-0000"
A_NODE = 100  # pods
AT_ONCE = 250  # objects a commit
PATIENCE = 120.0


class Master:
    """As much of a Mesos master as a scheduler needs to reconcile."""

    def __init__(self) -> None:
        self.port = 0
        self.subscribed: dict[int, float] = {}
        self.named: set[str] = set()
        self.first = self.last = 0.0

    async def start(self) -> web.AppRunner:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/api/v1/scheduler", self._call)
        app.router.add_post("/api/v1", self._operator)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        self.port = runner.addresses[0][1]
        return runner

    def forget(self) -> None:
        self.named.clear()
        self.first = self.last = 0.0

    async def _operator(self, _request: web.Request) -> web.Response:
        return web.json_response({"type": "GET_AGENTS", "get_agents": {"agents": []}})

    async def _call(self, request: web.Request) -> web.StreamResponse:
        try:
            call = orjson.loads(await request.read())
        except ConnectionResetError:  # a scheduler that was killed
            raise web.HTTPBadRequest from None
        if call["type"] == "SUBSCRIBE":
            return await self._subscribe(request)
        if call["type"] == "RECONCILE":
            now = time.perf_counter()
            self.first = self.first or now
            self.named |= {one["task_id"]["value"] for one in call["reconcile"].get("tasks") or ()}
            self.last = now
        return web.Response(status=202)

    async def _subscribe(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Mesos-Stream-Id": "s"})
        await response.prepare(request)
        event: dict[str, Any] = {"framework_id": {"value": FRAMEWORK}, "heartbeat_interval_seconds": 15}
        event["master_info"] = {"id": "m", "ip": 0, "port": self.port, "hostname": HOST}
        await response.write(encode(orjson.dumps({"type": "SUBSCRIBED", "subscribed": event})))
        with contextlib.suppress(ConnectionResetError):
            while True:
                await asyncio.sleep(15)
                await response.write(encode(b'{"type":"HEARTBEAT"}'))
        return response


def objects(pods: int) -> list[Change]:
    """All that such a cluster's store holds."""
    made: list[tuple[Key, dict[str, Any]]] = []
    now = time.time()
    facts = {"name": records.FRAMEWORK.name}
    made.append(
        (records.FRAMEWORK, {"metadata": facts, "frameworkId": FRAMEWORK, "nodeTokenSecret": "00" * 32})
    )
    for number in range(pods):
        agent, executor = f"agent-{number // A_NODE}", f"gantry.0.{number // A_NODE}"
        if number % A_NODE == 0:
            node = Node(agent, agent, f"{agent}:5051")
            obj = node_object(None, node, uid=f"node-{agent}", now=now, max_pods=110, version="0")
            made.append((Key("nodes", "", agent), obj))
            info = {"executor_id": {"value": executor}, "type": "CUSTOM", "resources": []}
            one = Executor(executor, agent, "0", "gantry")
            made.append((records.executor_key(executor), records.executor_object(one, info)))
        obj = pod(number)
        obj["spec"]["nodeName"] = agent
        state = {"running": {"startedAt": "2026-03-01T12:00:01Z"}}
        obj["status"] = {
            "phase": "Running",
            "hostIP": "10.0.0.1",
            "startTime": "2026-03-01T12:00:00Z",
            "conditions": [
                {"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "Ready")
            ],
            "containerStatuses": [
                {
                    "name": "main",
                    "image": "app:1.0",
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        meta = obj["metadata"]
        made.append((Key("pods", meta["namespace"], meta["name"]), obj))
        ids = (f"{meta['uid']}.1", meta["uid"], meta["namespace"], meta["name"])
        where = (agent, agent, executor)
        task = Task(*ids, 1, *where, TaskState.RUNNING, launched_at=now, started_at=now)
        made.append((records.task_key(task.id), records.task_object(task)))
    return [(key, partial(_give, obj)) for key, obj in made]


def _give(obj: dict[str, Any], _: Entry | None) -> dict[str, Any]:
    return obj


async def fill(settings: ZooKeeperSettings, pods: int) -> None:
    store = ZooKeeperStore(settings)
    await store.open()
    session = Session(settings)
    session.start()
    await session.connected()
    await store.lead((await session.set(settings.location.child("epoch"), b"")).version)
    changes = objects(pods)
    for start in range(0, len(changes), AT_ONCE):
        await store.commit(*changes[start : start + AT_ONCE], patient=True)
    await session.stop()
    await store.close()


class Scheduler:
    """A supervising process and its child."""

    def __init__(self, directory: Path, name: str, store: str, master: int) -> None:
        self.port = free_port(HOST)
        command = [
            sys.executable,
            "-m",
            "gantry",
            "scheduler",
            "--store",
            store,
            "--master",
            f"{HOST}:{master}",
        ]
        command += ["--listen", f"{HOST}:{self.port}", "--executor-command", "true", "--user", "root"]
        with (directory / f"{name}.log").open("wb") as log:
            self.process = _spawn(command, log, directory)

    @property
    def child(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def memory(self, field: str) -> float:
        """MB."""
        lines = Path(f"/proc/{self.child}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(field))

    def cpu(self) -> float:
        """Seconds so far."""
        fields = Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def idle(self) -> None:
        """Until it has read ahead all there is."""
        while True:
            before = self.cpu()
            await asyncio.sleep(2)
            if self.cpu() - before < 0.1:
                return

    async def ready(self, client: aiohttp.ClientSession) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(f"http://{HOST}:{self.port}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
        sys.exit("a scheduler did not become ready")


async def write(client: aiohttp.ClientSession, port: int, number: int) -> float:
    """When a pod that nobody can place was acknowledged."""
    obj = pod(number)
    body = {
        **obj,
        "metadata": {"name": f"new-{number}"},
        "spec": {**obj["spec"], "nodeSelector": {"no": "where"}},
    }
    end, text = time.monotonic() + PATIENCE, ""
    while time.monotonic() < end:
        url = f"http://{HOST}:{port}/api/v1/namespaces/default/pods"
        async with client.post(url, json=body) as answer:
            if answer.status in (201, 409):
                return time.perf_counter()
            text = await answer.text()
        await asyncio.sleep(0.005)
    sys.exit(f"no write: {text}")


async def one_round(
    client: aiohttp.ClientSession,
    master: Master,
    leader: Scheduler,
    standby: Scheduler,
    pods: int,
    number: int,
) -> dict[str, float]:
    await leader.ready(client)
    await standby.ready(client)
    await standby.idle()
    figures = {"standby_mb": standby.memory("VmRSS")}
    master.forget()
    began, cpu = time.perf_counter(), standby.cpu()
    os.kill(leader.child, signal.SIGKILL)
    figures["serving_s"] = await write(client, standby.port, 10**9 + number) - began
    end = time.monotonic() + PATIENCE
    while len(master.named) < pods:
        if time.monotonic() > end:
            sys.exit(f"only {len(master.named)} tasks were reconciled")
        await asyncio.sleep(0.005)
    figures |= {"reconciling_s": master.first - began, "reconciled_s": master.last - began}
    figures["cpu_s"] = standby.cpu() - cpu
    figures |= {"leader_mb": standby.memory("VmRSS"), "peak_mb": standby.memory("VmHWM")}
    return figures


def _spawn(command: list[str], log: IO[bytes], directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command], stdout=log, stderr=log, cwd=directory
    )


async def measure(directory: Path, pods: int, rounds: int) -> dict[str, Any]:
    port = free_port(HOST)
    java = _zookeeper.command(directory, port, java=("-Xmx2g",))
    processes = []
    try:
        with (directory / "zk.log").open("wb") as log:
            processes.append(_spawn(java, log, directory))
        settings = ZooKeeperSettings(Location(f"{HOST}:{port}", "/gantry"))
        began = time.perf_counter()
        await fill(settings, pods)
        print(f"{pods} pods written in {time.perf_counter() - began:.1f} s", flush=True)
        master = Master()
        runner = await master.start()
        found: list[dict[str, float]] = []
        async with aiohttp.ClientSession() as client:
            pair = []
            for name in ("one", "two"):
                pair.append(Scheduler(directory, name, str(settings.location), master.port))
                processes.append(pair[-1].process)
                await pair[-1].ready(client)
            for number in range(rounds):
                leader, standby = pair[number % 2], pair[(number + 1) % 2]
                found.append(await one_round(client, master, leader, standby, pods, number))
                print({name: round(value, 3) for name, value in found[-1].items()}, flush=True)
        await runner.cleanup()
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
    return {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]} | {
        "pods": pods,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.takeover", description="Take over a large cluster.")
    parser.add_argument("--pods", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="takeovers (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as directory:
        figures = asyncio.run(measure(Path(directory), args.pods, args.rounds))
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
