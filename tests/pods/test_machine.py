"""The runner, the pods and the node server on a machine that is made up: what the launcher's timing can do to us."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from executor.pods.core.effects import Report
from executor.pods.env import Node
from executor.pods.gpus import Gpus, Host
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.objects import Objects
from executor.pods.poddir import PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine
from executor.pods.supplies import Supplies
from executor.server.app import Tokens, make_app
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageNotFound

SECONDS = 60.0


@dataclass(frozen=True)
class FakeImage:
    id: str = "sha256:1"
    digest: str = "sha256:2"
    config: ImageConfig = field(default_factory=lambda: ImageConfig(entrypoint=("/app",)))
    layers: tuple[Path, ...] = ()


class FakeImages:
    """Has every image but those called missing."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    async def pull(
        self,
        ref: str,
        policy: str,
        *,
        progress: Callable[[str], None] | None = None,
        credentials: Any = None,
    ) -> FakeImage:
        self.shown.append(credentials)
        if "missing" in ref:
            raise ImageNotFound(f"{ref}: no such image")
        return FakeImage()

    def hold(self, _: FakeImage) -> Any:
        return SimpleNamespace(close=lambda: None)

    def hold_again(self, _: FakeImage) -> None:
        return None


class FakeSandbox:
    """Apps are names with their standard output; tests say when they end. `slow` starts wait for `go`."""

    def __init__(self, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]) -> None:
        self.on_exit, self.on_gone = on_exit, on_gone
        self.pid = os.getpid()
        self.out: dict[str, int] = {}
        self.signals: list[tuple[str, int]] = []
        self.stopped = self.stop_failures = 0
        self.go, self.asked = asyncio.Event(), asyncio.Event()
        self.go.set()
        self.obedient = True

    async def start_app(self, app: str, *, stdin: int | None, stdout: int, stderr: int) -> int:
        if app.startswith("broken"):
            raise LaunchError("exec /app: No such file or directory")
        self.out[app] = os.dup(stdout)
        self.asked.set()
        await self.go.wait()
        return 4711

    def write(self, app: str, text: bytes) -> None:
        os.write(self.out[app], text)

    def end(self, app: str, code: int | None = 0, signal: int | None = None) -> None:
        os.close(self.out.pop(app))
        self.on_exit(AppExit(app, code, signal, False, 1_000_000.0))

    async def signal_app(self, app: str, signum: int) -> None:
        self.signals.append((app, signum))
        if app not in self.out:
            raise LaunchError(f"signal {app}: it does not run")
        if self.obedient or signum == 9:
            self.end(app, None, signum)

    async def remove_app(self, app: str) -> None:
        assert app not in self.out

    async def stop(self) -> None:
        self.stopped += 1
        if self.stop_failures:
            self.stop_failures -= 1
            raise LaunchError("its cgroup is still in use")


class Fake:
    """The machine, its pods, and what they reported."""

    def __init__(self, root: Path) -> None:
        self.reports: list[tuple[str, Report]] = []
        self.sandboxes: list[FakeSandbox] = []
        self.directories: list[Path] = []
        self.news, self.asked = asyncio.Event(), asyncio.Event()
        self.before_run: Callable[[FakeSandbox], None] = lambda _: None
        self.refusals: list[str] = []
        dirs = PodDirs(root / "pods")
        dirs.open()
        node = Node("n", "10.0.0.1", Fraction(1), 1 << 30)
        (root / "dev").mkdir()
        gpus = Gpus(Host(root / "dev"), root / "locks")
        self.images = FakeImages()
        self.wanted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        machine = Machine(
            *(lambda: node, self.images, dirs, self.run_pod, "linux", gpus),
            want=lambda *asked: self.wanted.put_nowait(asked),
            ask_seconds=0.01,
        )
        self.pods = Pods(machine, self.report)

    async def run_pod(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> FakeSandbox:
        assert (pod_dir / "pod").is_file()
        self.directories.append(pod_dir)
        if self.refusals:
            raise LaunchError(self.refusals.pop())
        made = FakeSandbox(on_exit, on_gone)
        made.asked = self.asked
        self.before_run(made)
        self.sandboxes.append(made)
        return made

    def report(self, task_id: str, report: Report) -> None:
        self.reports.append((task_id, report))
        self.news.set()

    async def until(self, test: Callable[[Report], Any]) -> Report:
        async with asyncio.timeout(SECONDS):
            while True:
                self.news.clear()
                for _, report in self.reports:
                    if test(report):
                        return report
                await self.news.wait()

    async def end(self) -> Report:
        return await self.until(lambda r: r.terminal)

    async def running(self) -> FakeSandbox:
        await self.until(lambda r: r.state == "TASK_RUNNING")
        return self.sandboxes[-1]

    @property
    def states(self) -> list[str]:
        return [r.state for _, r in self.reports if r.state != "TASK_STARTING"]


def pod(*names: str, name: str = "web", uid: str = "u", policy: str = "Never", **spec: Any) -> dict[str, Any]:
    containers = [{"name": n, "image": "missing:1" if n == "missing" else "image:1"} for n in names]
    meta = {"name": name, "namespace": "default", "uid": uid}
    return {"metadata": meta, "spec": {"containers": containers, "restartPolicy": policy, **spec}}


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Fake]:
    made = Fake(tmp_path)
    yield made
    await made.pods.shutdown(0.0, "the test is over")
    await made.pods.close()


async def test_the_handler_of_its_class_chooses_the_flavor(fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a", runtimeClassName="quick"), Supplies("fly"))
    await fake.running()
    manifest = json.loads((fake.directories[-1] / "pod").read_text())
    assert {"name": "gantry.io/flavor", "value": "fly"} in manifest["annotations"]
    with pytest.raises(ValueError, match="its handler 'gvisor' is no stage1 flavor of this executor"):
        fake.pods.launch("u.2", pod("a", uid="v", runtimeClassName="safe"), Supplies("gvisor"))
    assert len(fake.sandboxes) == 1


async def test_the_credentials_of_a_pod_go_to_the_image_store(fake: Fake) -> None:
    mine = {"registry.example": ("me", "secret")}
    fake.pods.launch("u.1", pod("a"), Supplies(credentials=mine))
    await fake.running()
    fake.pods.launch("u.2", pod("b", uid="v", name="other"))
    await fake.until(lambda r: r.state == "TASK_RUNNING" and r.status["containerStatuses"][0]["name"] == "b")
    assert fake.images.shown == [mine, None]


async def test_objects_are_asked_for_until_they_are_there(fake: Fake) -> None:
    waiting = pod("a")
    reference = {"configMapKeyRef": {"name": "c", "key": "k"}}
    waiting["spec"]["containers"][0]["env"] = [{"name": "V", "valueFrom": reference}]
    fake.pods.launch("u.1", waiting)
    await fake.until(lambda r: "CreateContainerConfigError" in json.dumps(r.status))
    async with asyncio.timeout(SECONDS):
        assert [await fake.wanted.get() for _ in range(3)] == [("u.1", "")] * 3
    fake.pods.provide("u.1", Objects(), "")  # nothing new
    fake.pods.provide("u.9", Objects(), "1")
    assert fake.sandboxes == []
    fake.pods.provide("u.1", Objects.from_json({"configMaps": {"c": {"data": {"other": "x"}}}}), "2")
    await fake.until(lambda r: "find key k in ConfigMap default/c" in json.dumps(r.status))
    fake.pods.provide("u.1", Objects.from_json({"configMaps": {"c": {"data": {"k": "there"}}}}), "3")
    await fake.running()
    [app] = json.loads((fake.directories[-1] / "pod").read_text())["apps"]
    assert {"name": "V", "value": "there"} in app["app"]["environment"]


async def test_an_app_that_ends_before_its_start_is_answered(fake: Fake) -> None:
    fake.before_run = lambda sandbox: sandbox.go.clear()
    fake.pods.launch("u.1", pod("a"))
    await fake.asked.wait()
    fake.sandboxes[0].write("a", b"hello\n")
    fake.sandboxes[0].end("a", 3)
    fake.sandboxes[0].go.set()
    report = await fake.end()
    assert fake.states == ["TASK_RUNNING", "TASK_FAILED"]
    assert report.status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    path, _ = fake.pods.log_of("default", "web", "a", previous=False)
    assert path.read_bytes().endswith(b" stdout F hello\n")


async def test_a_sandbox_that_is_lost_before_its_start_is_handled(fake: Fake) -> None:
    fake.before_run = lambda sandbox: sandbox.on_gone("the launcher has ended")
    fake.pods.launch("u.1", pod("a"))
    report = await fake.until(lambda r: any(e.reason == "FailedCreatePodSandBox" for e in r.events))
    assert report.state == "TASK_STARTING"
    fake.before_run = lambda _: None
    await fake.running()


async def test_a_launcher_that_refuses_is_asked_again(fake: Fake) -> None:
    fake.refusals = ["mount overlay on /x: No space left on device"]
    fake.pods.launch("u.1", pod("a"))
    report = await fake.until(lambda r: r.events)
    assert "No space left on device" in str(report.events)
    await fake.running()


async def test_a_stop_that_fails_is_tried_again(fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a"))
    sandbox = await fake.running()
    sandbox.stop_failures = 1
    sandbox.end("a")
    await fake.end()
    assert sandbox.stopped == 2


async def test_a_task_id_is_used_once(fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a"))
    with pytest.raises(ValueError, match=r"u\.1 was launched before"):
        fake.pods.launch("u.1", pod("a"))


@pytest.mark.parametrize(
    "broken", [{}, {"metadata": {}, "spec": {}}, {"metadata": {"name": "x"}, "spec": None}]
)
async def test_what_is_no_pod_is_refused(fake: Fake, broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a v1 Pod"):
        fake.pods.launch("u.1", broken)


@pytest.mark.parametrize(("task_id", "app"), [("../u.1", "a"), ("u.1", "../a"), ("u.1", ".."), ("", "a")])
async def test_names_cannot_lead_out_of_the_directory(fake: Fake, task_id: str, app: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a directory"):
        fake.pods.launch(task_id, pod(app))


async def test_a_kill_of_what_does_not_run_is_told(fake: Fake) -> None:
    assert fake.pods.kill("nobody", None, "x") is False


async def test_a_shutdown_gives_everybody_the_grace_there_is(fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a", terminationGracePeriodSeconds=600))
    sandbox = await fake.running()
    sandbox.obedient = False
    async with asyncio.timeout(SECONDS):
        await fake.pods.shutdown(0.05, "the executor shuts down")
    assert sandbox.signals == [("a", 15), ("a", 9)]
    report = await fake.end()
    assert (report.state, report.message) == ("TASK_KILLED", "the executor shuts down")


async def test_a_pod_that_was_gone_over_is_found_by_name_the_newest_first(fake: Fake) -> None:
    for number in (1, 2):
        fake.reports.clear()
        fake.pods.launch(f"u{number}.1", pod("a", uid=f"u{number}"))
        sandbox = await fake.running()
        sandbox.write("a", b"%d\n" % number)
        sandbox.end("a")
        await fake.end()
    path, writer = fake.pods.log_of("default", "web", "a", previous=False)
    assert path.read_bytes().endswith(b"F 2\n")
    assert writer is not None
    assert writer.closed


# --- the node server -----------------------------------------------------------------------------------------------

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    tokens = Tokens()
    tokens.add("old")
    tokens.add("secret")
    async with TestClient(TestServer(make_app(fake.pods, tokens))) as made:
        yield made


Client = TestClient[web.Request, web.Application]


async def test_health_needs_no_token_the_rest_does(client: Client) -> None:
    assert (await client.get("/healthz")).status == 200
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic secret"},
    ):
        reply = await client.get("/pods", headers=headers)
        assert reply.status == 401
    for token in ("old", "secret"):
        assert (await client.get("/pods", headers={"Authorization": f"Bearer {token}"})).status == 200


async def test_the_pods_that_live(client: Client, fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a"))
    await fake.running()
    listed = await (await client.get("/pods", headers=TOKEN)).json()
    assert listed["kind"] == "PodList"
    assert [(p["metadata"]["name"], p["status"]["phase"]) for p in listed["items"]] == [("web", "Running")]


async def test_a_log_over_http(client: Client, fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a", policy="Always"))
    sandbox = await fake.running()
    sandbox.write("a", b"first\n")
    sandbox.end("a", 1)
    await fake.until(lambda r: r.status["containerStatuses"][0]["restartCount"] == 1)
    sandbox.write("a", b"one\ntwo\nthree\n")
    url = "/containerLogs/default/web/a"
    async with client.get(f"{url}?follow=true&tailLines=2", headers=TOKEN) as reply:
        assert reply.status == 200
        async with asyncio.timeout(SECONDS):
            # The pipe may not have been read yet: what is followed comes when it comes.
            text = b""
            while b"three\n" not in text:
                text += await reply.content.readany()
            assert text.endswith(b"two\nthree\n")
            sandbox.write("a", b"four\n")
            assert await reply.content.readany() == b"four\n"
            fake.pods.kill("u.1", None, "deleted")
            assert await reply.content.read() == b""
    await fake.end()
    assert await (await client.get(f"{url}?tailLines=1", headers=TOKEN)).text() == "four\n"
    assert await (await client.get(f"{url}?previous=true", headers=TOKEN)).text() == "first\n"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/containerLogs/default/nope/a", 404, 'pod "nope" in namespace "default" is not on this node'),
        ("/containerLogs/default/web/nope", 400, "container nope is not valid for pod web"),
        (
            "/containerLogs/default/web/missing",
            400,
            'container "missing" in pod "web" is waiting to start: ErrImagePull',
        ),
        ("/containerLogs/default/web/missing?previous=true", 400, "previous terminated container"),
        ("/containerLogs/default/web/missing?tailLines=x", 400, "tailLines: 'x' is not a number"),
        ("/containerLogs/default/web/missing?tailLines=-1", 400, "tailLines"),
        ("/containerLogs/default/web/missing?follow=maybe", 400, "follow: 'maybe' is not true or false"),
        ("/containerLogs/default/web/missing?sinceTime=yesterday", 400, "is not an RFC 3339 time"),
        (
            "/containerLogs/default/web/missing?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            400,
            "at most one",
        ),
        ("/containerLogs/default/web/missing?limitBytes=0", 400, "limitBytes"),
        ("/containerLogs/default/web/missing?nope=1", 400, "unknown parameter 'nope'"),
        ("/nope", 404, ""),
    ],
)
async def test_requests_that_cannot_be_answered(
    client: Client, fake: Fake, path: str, status: int, says: str
) -> None:
    fake.pods.launch("u.1", pod("missing"))
    await fake.until(lambda r: "ErrImagePull" in str(r.status))
    reply = await client.get(path, headers=TOKEN)
    text = await reply.text()
    assert (reply.status, says in text) == (status, True), text
    assert text.count("\n") <= 1


async def test_a_reader_who_leaves_is_let_go(client: Client, fake: Fake) -> None:
    fake.pods.launch("u.1", pod("a"))
    sandbox = await fake.running()
    sandbox.write("a", b"line\n")
    reply = await client.get("/containerLogs/default/web/a?follow=true", headers=TOKEN)
    async with asyncio.timeout(SECONDS):
        assert await reply.content.readany() == b"line\n"
        reply.close()
        _, writer = fake.pods.log_of("default", "web", "a", previous=False)
        assert writer is not None
        while writer.followers:
            sandbox.write("a", b"more\n")
            await asyncio.sleep(0.01)
