"""A cluster of real processes and a scheduler that speaks plain HTTP to it."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from shared.mesos.recordio import Decoder
from tests import waiting

Json = dict[str, Any]
HERE = Path(__file__).parent
TIMEOUT = 60.0
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
EXECUTOR = f"exec {sys.executable} -S {HERE / 'scripted_executor.py'}"
RESOURCES = "cpus:4;mem:8192;disk:20000;ports:[31000-32000]"
FRAMEWORK: Json = {
    "user": "root",
    "name": "gantry",
    "roles": ["gantry"],
    "capabilities": [
        {"type": name}
        for name in (
            "MULTI_ROLE",
            "PARTITION_AWARE",
            "TASK_KILLING_STATE",
            "RESERVATION_REFINEMENT",
            "REGION_AWARE",
        )
    ],
    "checkpoint": True,
    "failover_timeout": 604800.0,
    "hostname": "scheduler.example",
    "principal": "gantry",
}


class Process:
    """`gantry master` or `gantry agent` with a work directory, started again on the same port if need be."""

    def __init__(self, kind: str, work_dir: Path, *flags: str) -> None:
        self.kind, self.work_dir, self.flags = kind, work_dir, flags
        self.endpoint = ""
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> "Process":
        """Returns when it listens."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        file = self.work_dir / "endpoint"
        file.unlink(missing_ok=True)
        port = self.endpoint.rpartition(":")[2] or "0"
        command = ["-m", "gantry", self.kind, "--port", port, "--work_dir", str(self.work_dir), *self.flags]
        with (self.work_dir / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=log, stderr=log
            )
        await self._listening(file)
        self.endpoint = file.read_text()
        return self

    async def _listening(self, file: Path) -> None:
        assert self.process is not None
        for _ in range(int(TIMEOUT * 100)):
            if file.exists():
                return
            if self.process.returncode is not None:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.process.wait(), 0.01)
        raise AssertionError(f"{self.kind} does not start: {(self.work_dir / 'log').read_text()}")

    def send_signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    async def kill(self, signum: int = signal.SIGKILL) -> int:
        """End it, and only it; its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signum)
        return await asyncio.wait_for(self.process.wait(), TIMEOUT)


class Scheduler:
    """One framework's stream and calls, with all events seen so far."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str) -> None:
        self.session, self.url = session, f"http://{endpoint}/api/v1/scheduler"
        self.framework_id = ""
        self.stream_id = ""
        self.status = 0
        self.text = ""
        self.events: list[Json] = []
        self.offers: list[Json] = []
        self.acknowledge = True
        self.closed = False
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._used = 0

    async def subscribe(self, headers: Json | None = None, **changes: Any) -> "Scheduler":
        """`changes` to the FrameworkInfo; `suppressed_roles` beside it."""
        suppressed = changes.pop("suppressed_roles", None)
        info = {**FRAMEWORK, **changes}
        call: Json = {"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}
        if suppressed is not None:
            call["subscribe"]["suppressed_roles"] = suppressed
        if "id" in info:
            call["framework_id"] = info["id"]
        response = await self.session.post(
            self.url, data=orjson.dumps(call), headers={**HEADERS, **(headers or {})}
        )
        self._response = response
        self.status = response.status
        self.stream_id = response.headers.get("Mesos-Stream-Id", "")
        if response.status != 200:
            self.text = await response.text()
            return self
        self._reader = asyncio.create_task(self._read(response))
        return self

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        decoder = Decoder()
        with contextlib.suppress(aiohttp.ClientError):
            async for chunk in response.content.iter_any():
                for record in decoder.feed(chunk):
                    await self._event(orjson.loads(record))
        async with self._news:
            self.closed = True
            self._news.notify_all()

    async def _event(self, event: Json) -> None:
        if event["type"] == "SUBSCRIBED":
            self.framework_id = event["subscribed"]["framework_id"]["value"]
        if event["type"] == "OFFERS":
            self.offers.extend(event["offers"]["offers"])
        if event["type"] == "RESCIND":
            gone = event["rescind"]["offer_id"]
            self.offers = [offer for offer in self.offers if offer["id"] != gone]
        if event["type"] == "UPDATE" and self.acknowledge and "uuid" in event["update"]["status"]:
            await self.ack(event["update"]["status"])
        async with self._news:
            self.events.append(event)
            self._news.notify_all()

    async def ack(self, status: Json) -> None:
        body = {"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]}
        await self.call("ACKNOWLEDGE", body)

    async def call(
        self, kind: str, body: Json | None = None, stream_id: str | None = "own"
    ) -> tuple[int, str]:
        call: Json = {"framework_id": {"value": self.framework_id}, "type": kind}
        if body is not None:
            call[kind.lower()] = body
        return await self.raw(orjson.dumps(call), stream_id)

    async def raw(self, data: bytes, stream_id: str | None = "own", **headers: str) -> tuple[int, str]:
        chosen = self.stream_id if stream_id == "own" else stream_id
        sent = {**HEADERS, **headers}
        if chosen is not None:
            sent["Mesos-Stream-Id"] = chosen
        async with self.session.post(self.url, data=data, headers=sent) as response:
            return response.status, await response.text()

    async def next(self, kind: str, match: Callable[[Json], bool] = lambda body: True) -> Json:
        """The body of the next event of that type after those taken so far."""

        def find() -> int | None:
            for index in range(self._used, len(self.events)):
                event = self.events[index]
                if event["type"] == kind and match(event.get(kind.lower(), {})):
                    return index
            return None

        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: find() is not None), TIMEOUT)
            index = find()
        assert index is not None
        self._used = index + 1
        return self.events[index].get(kind.lower(), {})

    async def update(self, state: str, task_id: str | None = None) -> Json:
        """The next status in that state."""
        body = await self.next(
            "UPDATE",
            lambda b: (
                b["status"]["state"] == state
                and (task_id is None or b["status"]["task_id"]["value"] == task_id)
            ),
        )
        return body["status"]

    async def until_closed(self) -> None:
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: self.closed), TIMEOUT)

    async def offer(self, cpus: float = 0.0, names: set[str] | None = None) -> Json:
        """An offer that is out, has that many CPUs, and resources of exactly these names if given."""

        def find() -> Json | None:
            for offer in self.offers:
                resources = offer["resources"]
                if amount(resources, "cpus") >= cpus and names in (None, {r["name"] for r in resources}):
                    return offer
            return None

        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: find() is not None), TIMEOUT)
            found = find()
        assert found is not None
        self.offers.remove(found)
        return found

    def task(self, offer: Json, what: str, executor_id: str = "gantry.a1b2c3.1", **changes: Any) -> Json:
        """A TaskInfo of the scripted executor; `environment` and `executor` change that."""
        variables = [{"name": k, "value": v} for k, v in changes.pop("environment", {}).items()]
        executor: Json = {
            "type": "CUSTOM",
            "executor_id": {"value": executor_id},
            "name": "gantry executor",
            "command": {"shell": True, "value": EXECUTOR, "environment": {"variables": variables}},
            "resources": small(),
            "shutdown_grace_period": {"nanoseconds": 30_000_000_000},
            **changes.pop("executor", {}),
        }
        return {
            "name": "web-0",
            "task_id": {"value": f"{uuid.uuid4()}.1"},
            "agent_id": offer["agent_id"],
            "executor": executor,
            "resources": small(),
            "data": base64.b64encode(what.encode()).decode(),
            **changes,
        }

    async def accept(self, offer: Json, *tasks: Json, refuse_seconds: float = 0) -> None:
        operations = [{"type": "LAUNCH", "launch": {"task_infos": list(tasks)}}]
        body = {
            "offer_ids": [offer["id"]],
            "operations": operations,
            "filters": {"refuse_seconds": refuse_seconds},
        }
        assert await self.call("ACCEPT", body) == (202, "")

    async def launch(self, what: str, executor_id: str = "gantry.a1b2c3.1", **changes: Any) -> Json:
        """One task on the next offer; the TaskInfo."""
        offer = await self.offer(0.2)
        task = self.task(offer, what, executor_id, **changes)
        await self.accept(offer, task)
        return task

    async def close(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader


def small(cpus: float = 0.1, mem: float = 32) -> list[Json]:
    return [
        {"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}},
        {"name": "mem", "type": "SCALAR", "scalar": {"value": mem}},
    ]


def amount(resources: list[Json], name: str) -> float:
    return sum(r["scalar"]["value"] for r in resources if r["name"] == name)


async def until(probe: Callable[[], Any]) -> Any:
    """The first true value of the probe, asked every 10 ms."""
    return await waiting.eventually(probe, TIMEOUT)


class Cluster:
    """One master, one agent, any number of schedulers."""

    def __init__(self, tmp_path: Path, session: aiohttp.ClientSession) -> None:
        self.tmp_path, self.session = tmp_path, session
        self.cgroups_root = f"gantry-test-{uuid.uuid4().hex[:12]}"
        self.master = Process("master", tmp_path / "master", "--allocation_interval", "200ms")
        self.agent = Process("agent", tmp_path / "agent")
        self.schedulers: list[Scheduler] = []
        self.others: list[Process] = []

    async def start(self, master: tuple[str, ...] = (), agent: tuple[str, ...] = ()) -> "Cluster":
        self.master.flags = (*self.master.flags, *master)
        await self.master.start()
        self.agent.flags = (
            *("--master", self.master.endpoint, "--resources", RESOURCES),
            *("--attributes", "rack:r1;os:debian", "--cgroups_root", self.cgroups_root, *agent),
        )
        await self.agent.start()
        return self

    def make(self, kind: str, name: str, *flags: str) -> Process:
        """One more process; it ends with the cluster."""
        if kind == "agent":
            flags = (*flags, "--resources", RESOURCES, "--cgroups_root", self.cgroups_root)
        process = Process(kind, self.tmp_path / name, *flags)
        self.others.append(process)
        return process

    def scheduler(self) -> Scheduler:
        scheduler = Scheduler(self.session, self.master.endpoint)
        self.schedulers.append(scheduler)
        return scheduler

    async def subscribe(self, **changes: Any) -> Scheduler:
        scheduler = await self.scheduler().subscribe(**changes)
        await scheduler.next("SUBSCRIBED")
        return scheduler

    async def get(self, path: str, of: Process | None = None) -> Any:
        async with self.session.get(f"http://{(of or self.master).endpoint}{path}") as response:
            return await response.json()

    async def operator(self, call: Json, of: Process | None = None) -> tuple[int, Any]:
        url = f"http://{(of or self.master).endpoint}/api/v1"
        async with self.session.post(url, data=orjson.dumps(call), headers=HEADERS) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else text

    def sandbox(self, executor_id: str = "gantry.a1b2c3.1") -> Path:
        (found,) = self.tmp_path.glob(f"agent/slaves/*/frameworks/*/executors/{executor_id}/runs/latest")
        return found.resolve()

    def sandbox_of(self, agent_id: str, executor_id: str = "gantry.a1b2c3.1") -> Path:
        """The same on one of several agent ids."""
        path = self.tmp_path / "agent" / "slaves" / agent_id / "frameworks"
        (found,) = path.glob(f"*/executors/{executor_id}/runs/latest")
        return found.resolve()

    def wire(self, executor_id: str = "gantry.a1b2c3.1") -> list[Json]:
        """What the executor saw, in its present run."""
        try:
            lines = (self.sandbox(executor_id) / "wire.jsonl").read_text().splitlines()
        except (FileNotFoundError, ValueError):
            return []
        return [json.loads(line) for line in lines]

    async def seen(self, match: Callable[[Json], bool], executor_id: str = "gantry.a1b2c3.1") -> Json:
        """The first line of `wire` that matches, once it is there."""
        return await until(lambda: next((line for line in self.wire(executor_id) if match(line)), None))

    until = staticmethod(until)

    ended = staticmethod(waiting.gone)

    async def until_async(self, probe: Callable[[], Any]) -> None:
        """The same with a probe that is a coroutine."""
        deadline = time.monotonic() + TIMEOUT
        while not await probe():
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.01)

    def cgroup(self, subsystem: str, container_id: str = "") -> Path:
        return Path("/sys/fs/cgroup") / subsystem / self.cgroups_root / container_id

    async def stop(self) -> None:
        for scheduler in self.schedulers:
            await scheduler.close()
        for process in (*self.others, self.agent, self.master):
            if process.process is not None:
                if process.process.returncode is None:
                    process.send_signal(signal.SIGCONT)
                await process.kill()
        kill_processes_of(self.tmp_path)
        await asyncio.to_thread(self._remove_cgroups)

    def _remove_cgroups(self) -> None:
        for subsystem in Path("/sys/fs/cgroup").glob("*"):
            top = subsystem / self.cgroups_root
            deadline = time.monotonic() + TIMEOUT
            for path, _, _ in os.walk(top, topdown=False):
                while time.monotonic() < deadline:
                    try:
                        os.rmdir(path)
                    except FileNotFoundError:
                        break
                    except OSError:
                        time.sleep(0.005)  # its last process is still ending
                    else:
                        break


def kill_processes_of(tmp_path: Path) -> None:
    """Executors that a test left behind, by the sandbox in their environment."""
    needle = f"MESOS_SANDBOX={tmp_path}/".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture
def executor_command() -> str:
    """The scripted executor's command line."""
    return EXECUTOR


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    return until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Not started; `await cluster.start()`."""
    async with aiohttp.ClientSession() as session:
        result = Cluster(tmp_path, session)
        try:
            yield result
        finally:
            await result.stop()


@pytest.fixture
def needs_cgroups() -> None:
    """Skip without root and cgroup v1."""
    if os.geteuid() != 0 or not os.access("/sys/fs/cgroup/freezer/cgroup.procs", os.W_OK):
        pytest.skip("needs root and cgroup v1")
    probe = Path("/sys/fs/cgroup/freezer") / f"gantry-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make cgroups: {error}")
    shutil.rmtree(probe, ignore_errors=True)
    with contextlib.suppress(OSError):
        probe.rmdir()
