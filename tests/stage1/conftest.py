"""Fixtures of stage1's tests: a tiny image, pod directories made from it, and a launcher to run them.

Tests marked `root` start real pods; they are skipped where namespaces, overlay or cgroups cannot be had.
"""

import asyncio
import itertools
import json
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import AppExit, Launcher, Sandbox
from tests.ground import put_busybox, skip_root_tests, why_no_pods

SECONDS = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_root_tests(items, "stage1", why_no_pods())


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer: static busybox under all its names, two users, and places a hostile image would have."""
    root = tmp_path_factory.mktemp("image")
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "home/app"):
        (root / name).mkdir(parents=True)
    put_busybox(root)
    (root / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1234:2345::/home/app:/bin/sh\n"
    )
    (root / "etc" / "group").write_text("root:x:0:\nstaff:x:77:app,other\nwheel:x:78:other\nweb:x:2345:\n")
    (root / "tmp").chmod(0o1777)
    (root / "plain.txt").write_text("not a program\n")
    return root


@dataclass
class Pods:
    """Makes pod directories."""

    base: Path
    image: Path
    made: list[Path] = field(default_factory=list)

    def app(self, *command: str, name: str = "app", **more: Any) -> dict[str, Any]:
        """An entry of the manifest's `apps`; keys of the app proper (user, isolators, …) go where they belong."""
        inner = {"exec": list(command), "user": "0", "group": "0"}
        for key in (
            "user",
            "group",
            "supplementaryGIDs",
            "workingDirectory",
            "environment",
            "isolators",
            "mountPoints",
        ):
            if key in more:
                inner[key] = more.pop(key)
        return {"name": name, "image": {"id": "sha512-0"}, "app": inner, **more}

    def make(
        self,
        *apps: dict[str, Any],
        flavor: str = "linux",
        volumes: list[dict[str, Any]] | None = None,
        layers: tuple[Path, ...] = (),
        isolators: list[dict[str, Any]] | None = None,
        **notes: str,
    ) -> Path:
        """A prepared pod directory with a name of its own; `notes` become annotations gantry.io/…."""
        pod = self.base / str(uuid.uuid4())
        pod.mkdir(parents=True)
        self.made.append(pod)
        for app in apps:
            info = pod / "appsinfo" / app["name"]
            info.mkdir(parents=True)
            (info / "lower").write_text("".join(f"{layer}\n" for layer in (*layers, self.image)))
        notes = {
            "flavor": flavor,
            "hostname": "pod-host",
            **{k.replace("_", "-"): v for k, v in notes.items()},
        }
        manifest = {
            "acVersion": "0.8.11",
            "acKind": "PodManifest",
            "apps": list(apps),
            "volumes": volumes or [],
            "isolators": isolators or [],
            "annotations": [{"name": f"gantry.io/{name}", "value": value} for name, value in notes.items()],
        }
        (pod / "pod").write_text(json.dumps(manifest))
        return pod


@pytest.fixture
def pods(tmp_path: Path, image: Path) -> Pods:
    """Pod directories of this test."""
    return Pods(tmp_path / "pods", image)


@pytest.fixture
async def launcher(image: Path) -> AsyncIterator[Launcher]:
    """A launcher of this test's own; whatever it runs ends with the test."""
    launcher = await Launcher.start(points=image.with_name("points"))
    try:
        yield launcher
    finally:
        await launcher.close()


class Output:
    """A pipe whose other end an app writes; read in the background."""

    def __init__(self) -> None:
        read_end, self.write_end = os.pipe()
        self._file = os.fdopen(read_end, "rb")
        self._task = asyncio.create_task(asyncio.to_thread(self._file.read))

    def close_ours(self) -> None:
        """After this only the app holds the pipe."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    async def text(self) -> str:
        """All of it, when everybody has closed it."""
        self.close_ours()
        data = await asyncio.wait_for(asyncio.shield(self._task), SECONDS)
        self._file.close()
        return data.decode(errors="replace")


@dataclass
class Running:
    """A pod that runs, with what was heard of it."""

    sandbox: Sandbox
    directory: Path
    exits: asyncio.Queue[AppExit]
    gone: asyncio.Future[str]
    outputs: list[Output] = field(default_factory=list)

    async def start(self, app: str = "app", stdin: int | None = None) -> tuple[int, Output]:
        """Start an app; its host pid and its output."""
        output = Output()
        self.outputs.append(output)
        try:
            pid = await self.sandbox.start_app(
                app, stdin=stdin, stdout=output.write_end, stderr=output.write_end
            )
        finally:
            output.close_ours()
        return pid, output

    async def stop(self) -> None:
        """Stop it, and let go of what it has said."""
        await self.sandbox.stop()
        for output in self.outputs:
            await output.text()

    async def ended(self) -> AppExit:
        """The next exit of an app."""
        return await asyncio.wait_for(self.exits.get(), SECONDS)


@dataclass
class Result:
    """What became of an app that ran to its end."""

    exit: AppExit
    output: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


@dataclass
class Runner:
    """Runs pods and remembers to stop them."""

    launcher: Launcher
    pods: Pods
    running: list[Running] = field(default_factory=list)

    async def pod(self, directory: Path) -> Running:
        """Start a sandbox."""
        exits: asyncio.Queue[AppExit] = asyncio.Queue()
        gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        sandbox = await self.launcher.run_pod(directory, exits.put_nowait, gone.set_result)
        self.running.append(Running(sandbox, directory, exits, gone))
        return self.running[-1]

    async def app(
        self, *command: str, flavor: str = "linux", pod: dict[str, Any] | None = None, **more: Any
    ) -> Result:
        """Run one app in a pod of its own to its end, and stop the pod."""
        running = await self.pod(
            self.pods.make(self.pods.app(*command, **more), flavor=flavor, **(pod or {}))
        )
        _, output = await running.start()
        result = Result(await running.ended(), await output.text())
        await running.stop()
        return result

    async def sh(self, script: str, **more: Any) -> Result:
        """Run a shell script likewise."""
        return await self.app("/bin/sh", "-c", script, **more)


@pytest.fixture
async def runner(launcher: Launcher, pods: Pods) -> AsyncIterator[Runner]:
    """What most tests use."""
    runner = Runner(launcher, pods)
    yield runner
    for running in runner.running:
        await running.stop()


async def ready_for_the_next(launcher: Launcher) -> None:
    """Until the launcher knows who may have the init of a pod that has ended: children like itself tell it."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")

    def is_told() -> bool:
        for pid in children.read_text().split():
            try:
                if Path(f"/proc/{pid}/comm").read_text() == "gantry-launcher\n":
                    return False
            except (FileNotFoundError, ProcessLookupError):
                continue
        return True

    async with asyncio.timeout(SECONDS):
        while not is_told():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def _cgroups(directory: Path) -> list[Path]:
    """Cgroup directories of a pod, in every hierarchy."""
    bases = {
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup" in line
    }
    own = {line.split(":", 2)[2].strip() for line in Path("/proc/self/cgroup").read_text().splitlines()} | {
        "/gantry"
    }
    places = itertools.product(sorted(bases), sorted(own))
    return [
        found
        for base, cgroup in places
        for name in (f"gantry.{directory.name}", f"gantry.{directory.name}~*")
        for found in sorted(Path(base + cgroup.rstrip("/")).glob(name))
    ]


@pytest.fixture
def cgroups_of() -> Callable[[Path], list[Path]]:
    """Cgroup directories that exist of a pod directory's pod, and apart from those of its apps."""
    return _cgroups


@pytest.fixture
def app_cgroups_of() -> Callable[[Path, str], list[Path]]:
    """Cgroup directories that exist of an app."""

    def find(directory: Path, app: str) -> list[Path]:
        places = _cgroups(directory)
        below = [path / app for path in places if (path / app).exists()]
        return below + [path for path in places if path.name == f"gantry.{directory.name}~{app}"]

    return find


def _traces(directory: Path) -> list[str]:
    traces = [str(path) for path in _cgroups(directory)]
    traces += [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if directory.name in line
    ]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts, cgroup = (process / "mountinfo").read_text(), (process / "cgroup").read_text()
        except OSError:
            continue
        if directory.name in mounts or directory.name in cgroup:
            traces.append(f"process {process.name}: {(process / 'comm').read_text()}")
    return traces


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits until a condition of the kernel's making holds, which nobody tells us of."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def nothing_left() -> Callable[[Path], Awaitable[None]]:
    """Waits until no process, mount or cgroup of a pod is left; fails with what still is."""

    async def check(directory: Path) -> None:
        deadline = asyncio.get_running_loop().time() + SECONDS
        while traces := _traces(directory):
            assert asyncio.get_running_loop().time() < deadline, traces
            await asyncio.sleep(0.01)

    return check


@pytest.fixture
def host_file(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that no pod may reach."""
    path = tmp_path / "secret"
    path.write_text("of the host\n")
    yield path
    assert path.read_text() == "of the host\n"
