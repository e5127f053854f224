"""Stage1 images of our own making, in shell, and pods that they run.

`single`: one app, chroot, as rkt's fly (interface 5, immutable); `several`: all apps below one supervisor (interface 1,
ppid); `mutable`: apps come and go. Each test may replace an entrypoint by something hostile.
"""

import asyncio
import os
import shutil
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from executor.contract.sandbox import Patience
from executor.contract.stages import Stages
from executor.pods.launcher import AppExit
from executor.pods.poddir import Phase, PodDir, PodDirs
from executor.pods.ports import Sandbox
from executor.stage0.build import Options, build_aci
from executor.stage0.manifest import host_platform
from executor.stage0.settings import parse
from tests.ground import put_busybox, skip_root_tests, why_no_pods

SECONDS = 60.0
QUICK = Patience(start=5.0, stop=2.0, force=1.0, gc=3.0, poll=0.02, look=0.05, between_gc=0.05)
SCRIPTS = Path(__file__).parent / "stage1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_root_tests(items, "contract", why_no_pods())


@pytest.fixture(scope="session")
def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The apps' image, as one tree: static busybox under all its names."""
    root = tmp_path_factory.mktemp("image")
    for name in ("bin", "etc", "tmp", "proc", "dev", "sys"):
        (root / name).mkdir()
    put_busybox(root)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "data").write_text("from the image")
    return root


def build_stage1(target: Path, kind: str, version: int | None, **replaced: str | None) -> str:
    """An ACI of one of the directories beside this file; returns its id. replaced: entrypoints (`app_add` for app/add)
    with another script, or None for none."""
    rootfs = target.with_suffix(".rootfs")
    shutil.copytree(SCRIPTS / kind, rootfs)
    for name, script in replaced.items():
        path = rootfs / name.replace("app_", "app-")
        path.unlink(missing_ok=True)
        if script is not None:
            path.write_text(f"#!/bin/sh\n{script}\n")
    return _pack(rootfs, target, kind, version)


def _pack(rootfs: Path, target: Path, kind: str, version: int | None) -> str:
    notes = []
    for path in sorted(rootfs.iterdir()):
        path.chmod(0o755)
        name = path.name.replace("app-", "app/")
        if name != "lib":
            notes.append({"name": f"coreos.com/rkt/stage1/{name}", "value": f"/{path.name}"})
    if version is not None:
        notes.append({"name": "coreos.com/rkt/stage1/interface-version", "value": str(version)})
    arch = {"arm64": "aarch64"}.get(host_platform()[1], host_platform()[1])
    manifest = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": f"example.com/stage1-{kind}",
        "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": arch}],
        "annotations": notes,
    }
    return build_aci(rootfs, target, manifest, Options(), "none").id


@dataclass
class World:
    """A node with some stage1 images, and its pods."""

    root: Path
    image: Path
    tables: dict[str, Any] = field(default_factory=dict)
    trust: dict[str, Any] = field(default_factory=dict)
    exits: list[AppExit] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    sandboxes: list[Sandbox] = field(default_factory=list)
    made: list[PodDir] = field(default_factory=list)
    patience: Patience = QUICK
    _stages: Stages | None = None

    def __post_init__(self) -> None:
        self.dirs = PodDirs(self.root / "pods", lambda path: self.stages.dispose(path))
        self.dirs.open()

    @property
    def stages(self) -> Stages:
        if self._stages is None:
            settings = parse({"stage1": self.tables, "trust": self.trust})
            self._stages = Stages(self.root / "state", settings, self.dirs.lock, patience=self.patience)
        return self._stages

    def stage1(self, kind: str = "single", version: int | None = 5, **replaced: str | None) -> str:
        """A stage1 image of this name, allowed by its digest."""
        name = f"{kind}-{len(self.tables)}"
        path = self.root / f"{name}.aci"
        digest = build_stage1(path, kind, version, **replaced)
        self.tables[name] = {"image": f"file://{path}", "digest": digest}
        return name

    def rebuild(self, name: str) -> str:
        """After its rootfs was changed."""
        path = self.root / f"{name}.aci"
        return _pack(path.with_suffix(".rootfs"), path, name.partition("-")[0], 5)

    def pod(self, flavor: str, *scripts: str, name: str = "", **more: Any) -> Path:
        """A pod directory, ready to run, whose apps a0, a1, … are shell scripts (without `"` and backslashes)."""
        directory = self.dirs.create(name or str(uuid.uuid4()))
        self.made.append(directory)
        apps = [f"a{n}" for n in range(len(scripts))]
        directory.prepare(apps)
        entries = []
        for app, script in zip(apps, scripts, strict=True):
            directory.write_app(app, "localhost/busybox", "sha256:" + "0" * 64, [self.image])
            body = {"exec": ["/bin/sh", "-c", script], "user": "0", "group": "0"}
            body |= {key: more[key] for key in ("environment", "isolators") if key in more}
            mounts = more.get("mounts", [])
            entries.append(
                {"name": app, "image": {"id": "sha256:" + "0" * 64}, "app": body, "mounts": mounts}
            )
        notes = {"gantry.io/flavor": flavor, "gantry.io/hostname": "pod-host"}
        directory.write_manifest(
            {
                "acVersion": "0.8.11",
                "acKind": "PodManifest",
                "apps": entries,
                "volumes": more.get("volumes", []),
                "annotations": [{"name": key, "value": value} for key, value in notes.items()],
            }
        )
        directory.move(Phase.PREPARED)
        directory.move(Phase.RUN)
        return directory.path

    async def run(self, pod: Path) -> Any:
        """Run a pod; its exits go to `exits`."""

        def exited(ended: AppExit) -> None:
            self.exits.append(ended)
            self.news.set()

        def gone(reason: str) -> None:
            self.gone.append(reason)
            self.news.set()

        sandbox = await self.stages.run_pod(pod, exited, gone)
        self.sandboxes.append(sandbox)
        return sandbox

    async def until(self, test: Callable[[], Any]) -> None:
        """Wait for news that pass the test."""
        async with asyncio.timeout(SECONDS):
            while not test():
                self.news.clear()
                if not test():
                    await self.news.wait()

    async def exit_of(self, app: str = "a0") -> AppExit:
        await self.until(lambda: [e for e in self.exits if e.app == app] or self.gone)
        assert not self.gone, self.gone
        return next(e for e in self.exits if e.app == app)

    async def close(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.stop()
        for directory in self.made:
            await asyncio.to_thread(directory.remove)


@dataclass
class Output:
    """A file to write into, and what was written."""

    path: Path

    def __post_init__(self) -> None:
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Callable[[str], Output]]:
    """Files for streams, by name."""
    made: list[Output] = []

    def make(name: str = "out") -> Output:
        made.append(Output(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        os.close(one.fd)


def leftovers(name: str) -> list[str]:
    """What there is of a pod: processes with its directory in their mounts or as theirs, cgroups, mounts of ours."""
    found = [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(f"/gantry.{name}")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name in os.readlink(process / "cwd") or name in (process / "mountinfo").read_text():
                found.append(f"{process.name}: {(process / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


@pytest.fixture
async def world(tmp_path: Path, busybox_image: Path) -> AsyncIterator[World]:
    """Nothing of its pods may be left."""
    made = World(tmp_path, busybox_image)
    try:
        yield made
    finally:
        await made.close()
        for directory in made.made:
            assert leftovers(directory.name) == []


@pytest.fixture
def left() -> Callable[[str], list[str]]:
    """What there is left of a pod."""
    return leftovers


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    """Wait for something that nobody tells."""

    async def wait(test: Callable[[], Any]) -> None:
        async with asyncio.timeout(SECONDS):
            while not test():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def kill() -> Callable[[int], None]:
    return lambda pid: os.kill(pid, signal.SIGKILL)
