"""The executor's process on the embedded Mesos: real master and agent, a scheduler driver in place of the scheduler."""

# ruff: noqa: N803  (pymesos' names)

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.mesos.scheduler_driver import SchedulerDriver
from shared.mesos.vocabulary import Scheduler
from shared.wire import IDLE_TIMEOUT_VARIABLE, Launch, Report

pytestmark = [pytest.mark.root, pytest.mark.system]

SECONDS = 90.0
ROOT = Path(__file__).resolve().parents[2]
CGROUPS_ROOT = f"mesos-test-{os.getpid()}"
FRAMEWORK = {"user": "root", "name": "test", "roles": ["*"], "failover_timeout": 3600.0, "checkpoint": True,
             "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}]}  # fmt: skip


def until_written(path: Path, process: "subprocess.Popen[bytes]") -> str:
    """The text of a file that a process is about to write."""
    import time

    end = time.monotonic() + SECONDS
    while not (path.exists() and path.read_text().strip()):
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text().strip()


class Cluster:
    """One master, one agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: list[subprocess.Popen[bytes]] = []
        self.master_process = self.spawn("master", "--ip", "127.0.0.1", "--port", "0")
        self.master = until_written(root / "master/endpoint", self.master_process)
        self.start_agent()

    def start_agent(self) -> None:
        (self.root / "agent/endpoint").unlink(missing_ok=True)
        self.agent = self.spawn(
            "agent", "--master", self.master, "--port", "0", "--resources", "cpus:4;mem:4096;disk:4096",
            "--cgroups_root", CGROUPS_ROOT, "--executor_reregistration_timeout", "15secs",
        )  # fmt: skip
        until_written(self.root / "agent/endpoint", self.agent)

    def spawn(self, name: str, *args: str) -> "subprocess.Popen[bytes]":
        log = (self.root / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gantry", name, "--work_dir", str(self.root / name), *args],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def close(self) -> None:
        self.agent.send_signal(signal.SIGUSR1)  # ends its executors
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.agent.wait(SECONDS)
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for directory in Path("/sys/fs/cgroup").glob(f"*/{CGROUPS_ROOT}"):
            directory.rmdir()  # an agent leaves its own root; nothing else may be left in it

    def log(self) -> str:
        logs = [
            *self.root.glob("*.log"),
            *self.root.glob("agent/slaves/*/frameworks/*/executors/*/runs/*/stderr"),
        ]
        return "\n".join(
            f"--- {p}\n{p.read_text(errors='replace')[-4000:]}" for p in logs if not p.is_symlink()
        )


class TestScheduler(Scheduler):  # type: ignore[misc]
    """Takes the first offer for each pod; acknowledges and keeps all updates."""

    __test__ = False

    def __init__(self, executor: dict[str, Any]) -> None:
        self.executor = executor
        self.waiting: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    def registered(self, driver: Any, frameworkId: Any, masterInfo: Any) -> None:
        pass

    def resourceOffers(self, driver: Any, offers: list[Any]) -> None:
        for offer in offers:
            tasks, self.waiting = self.waiting, []
            for task in tasks:
                task["agent_id"] = offer["agent_id"]
                task["executor"] = self.executor
            if tasks:
                launch = {"type": "LAUNCH", "launch": {"task_infos": tasks}}
                driver.acceptOffers([offer["id"]], [launch], {"refuse_seconds": 0.0})
            else:
                driver.declineOffer([offer["id"]], {"refuse_seconds": 0.2})

    def statusUpdate(self, driver: Any, status: dict[str, Any]) -> None:
        if status.get("uuid"):
            driver.acknowledgeStatusUpdate(status)
        self.updates.append(status)
        self.news.set()

    def executorLost(self, driver: Any, executorId: Any, agentId: Any, status: Any) -> None:
        ended = {"task_id": {"value": executorId["value"]}, "state": "EXECUTOR_LOST", "status": status}
        self.updates.append(ended)
        self.news.set()

    async def until(self, task_id: str, test: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            while True:
                self.news.clear()
                for update in self.updates:
                    if update["task_id"]["value"] == task_id and test(update):
                        return update
                await self.news.wait()


def task(task_id: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "localhost/busybox:1", "imagePullPolicy": "IfNotPresent",
                 "command": ["/bin/sh", "-c", script]}  # fmt: skip
    name, _, _ = task_id.partition(".")
    pod = {"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": name, "namespace": "default", "uid": name},
           "spec": {"containers": [container], "restartPolicy": "Never", **spec}}  # fmt: skip
    resources = [
        {"name": n, "type": "SCALAR", "scalar": {"value": v}} for n, v in (("cpus", 0.1), ("mem", 64.0))
    ]
    data = Launch(pod, "node-1", "secret").encode()
    return {"name": f"default/{name}", "task_id": {"value": task_id}, "resources": resources, "data": data}


def report(update: dict[str, Any]) -> Report:
    return Report.decode(update["data"])


@pytest.fixture(scope="module")
def cluster(launcher_works: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def mesos(
    cluster: Cluster, local_images: Path, image_state: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[TestScheduler, SchedulerDriver]]:
    nonce = os.urandom(4).hex()
    program = f"exec env PYTHONPATH={ROOT} {sys.executable} -m executor"
    command = f"{program} --state-dir {image_state} --local-images {local_images}"
    resources = [
        {"name": n, "type": "SCALAR", "scalar": {"value": v}} for n, v in (("cpus", 0.1), ("mem", 64.0))
    ]
    executor = {"type": "CUSTOM", "executor_id": {"value": f"gantry.{nonce}"}, "command": {"value": command},
                "resources": resources, "shutdown_grace_period": {"nanoseconds": 5 * 10**9}}  # fmt: skip
    scheduler = TestScheduler(executor)
    driver = SchedulerDriver(scheduler, FRAMEWORK, cluster.master)
    await driver.start()
    try:
        yield scheduler, driver
    finally:
        if request.session.testsfailed:
            print(cluster.log())
        await driver.stop()


Mesos = tuple[TestScheduler, SchedulerDriver]


def name() -> str:
    return f"p{os.urandom(4).hex()}"


async def test_pods_run_end_and_are_killed(mesos: Mesos, cluster: Cluster) -> None:
    scheduler, driver = mesos
    job, service = f"{name()}.1", f"{name()}.1"
    scheduler.waiting += [
        task(job, "echo done; exit 3"),
        task(service, "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done", restartPolicy="Always"),
    ]
    failed = await scheduler.until(job, lambda u: u["state"] == "TASK_FAILED")
    assert failed["source"] == "SOURCE_EXECUTOR"
    status = report(failed).status["containerStatuses"][0]
    assert status["state"]["terminated"]["exitCode"] == 3
    running = await scheduler.until(service, lambda u: u["state"] == "TASK_RUNNING")
    assert report(running).status["phase"] == "Running"
    (layer,) = cluster.root.glob(
        f"agent/slaves/*/frameworks/*/executors/*/runs/latest/pods/run/{service}/overlay/c/upper"
    )
    assert not os.listdir(layer), "places to mount on are in a layer that all pods share"
    reasons = [
        e.reason for u in scheduler.updates if u["task_id"]["value"] == service for e in report(u).events
    ]
    assert reasons == ["Pulled", "Created", "Started"]

    url = f"http://{report(running).server}/containerLogs/default/{service.removesuffix('.1')}/c"
    headers = {"Authorization": "Bearer secret"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url, params={"follow": "true"}) as reply,
    ):
        async with asyncio.timeout(SECONDS):
            assert await reply.content.readline() == b"up\n"
            driver.killTask(service, running["agent_id"], {"grace_period": {"nanoseconds": 5 * 10**9}})
            assert await reply.content.read() == b""
    await scheduler.until(service, lambda u: u["state"] == "TASK_KILLED")


async def test_pods_may_ask_about_themselves(mesos: Mesos) -> None:
    scheduler, _ = mesos
    uid = str(uuid.uuid4())
    script = (
        "wget -q -O - --header 'Metadata-Flavor: AppContainer' $AC_METADATA_URL/acMetadata/v1/pod/uuid "
        "> /dev/termination-log; wget -q -O - --header 'Metadata-Flavor: AppContainer' "
        "$AC_METADATA_URL/acMetadata/v1/apps/$AC_APP_NAME/image/manifest | grep -q localhost/busybox"
    )
    scheduler.waiting.append(task(f"{uid}.1", script))
    ended = await scheduler.until(f"{uid}.1", lambda u: u["state"] in {"TASK_FINISHED", "TASK_FAILED"})
    assert ended["state"] == "TASK_FINISHED"
    (container,) = report(ended).status["containerStatuses"]
    assert container["state"]["terminated"]["message"] == uid


async def test_what_is_no_launch_fails_in_one_line(mesos: Mesos) -> None:
    scheduler, _ = mesos
    broken = f"{name()}.1"
    scheduler.waiting.append({**task(broken, "true"), "data": "e30="})
    failed = await scheduler.until(broken, lambda u: u["state"] == "TASK_FAILED")
    assert "version None is unknown" in failed["message"]


async def test_an_agent_that_restarts_finds_its_pods_running(mesos: Mesos, cluster: Cluster) -> None:
    scheduler, driver = mesos
    service = f"{name()}.1"
    script = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
    scheduler.waiting.append(task(service, script, restartPolicy="Always"))
    running = await scheduler.until(service, lambda u: u["state"] == "TASK_RUNNING")
    cluster.agent.kill()
    cluster.agent.wait()
    cluster.start_agent()
    health = f"http://{report(running).server}/healthz"
    async with aiohttp.ClientSession() as session, session.get(health) as reply:
        assert reply.status == 200
    async with asyncio.timeout(SECONDS):
        while not any(u["state"] == "TASK_KILLED" for u in scheduler.updates):
            scheduler.news.clear()
            driver.killTask(service, running["agent_id"])  # until the agent is back to hear it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(scheduler.news.wait(), 0.5)


async def test_a_killed_executor_leaves_nothing_running(mesos: Mesos, cluster: Cluster) -> None:
    scheduler, _ = mesos
    service, sleep = f"{name()}.1", f"sleep {int.from_bytes(os.urandom(3), 'big') + 1000}"
    sleeper = task(service, "")
    pod = Launch.decode(sleeper["data"]).pod
    pod["spec"]["containers"][0]["command"] = sleep.split()
    scheduler.waiting.append({**sleeper, "data": Launch(pod, "node-1", "secret").encode()})
    await scheduler.until(service, lambda u: u["state"] == "TASK_RUNNING")
    executor_id = scheduler.executor["executor_id"]["value"]
    [pid] = [
        p for p in pids() if f"MESOS_EXECUTOR_ID={executor_id}\0" in environ(p) and "executor" in cmdline(p)
    ]
    apps = [os.pidfd_open(p) for p in pids() if cmdline(p) == sleep]
    assert apps
    os.kill(pid, signal.SIGKILL)
    await scheduler.until(service, lambda u: u["state"] in {"TASK_FAILED", "TASK_GONE", "TASK_LOST"})
    for app in apps:
        async with asyncio.timeout(SECONDS):
            await asyncio.to_thread(until_gone, app)


async def test_an_executor_without_pods_leaves_when_its_time_has_come(mesos: Mesos) -> None:
    scheduler, _ = mesos
    job, executor_id = f"{name()}.1", scheduler.executor["executor_id"]["value"]
    variable = {"name": IDLE_TIMEOUT_VARIABLE, "type": "VALUE", "value": "0.3"}
    scheduler.executor["command"]["environment"] = {"variables": [variable]}
    scheduler.waiting.append(task(job, "sleep 0.6"))
    lost = await scheduler.until(executor_id, lambda u: u["state"] == "EXECUTOR_LOST")
    assert lost["status"] == 0, "it left by itself"
    assert [u["state"] for u in scheduler.updates if u["task_id"]["value"] == job][-1] == "TASK_FINISHED"


def pids() -> list[int]:
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def until_gone(pidfd: int) -> None:
    """Wait for the end of a process."""
    try:
        assert select.select([pidfd], [], [], SECONDS)[0]
    finally:
        os.close(pidfd)


def cmdline(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""


def environ(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace") + "\0"
    return ""
