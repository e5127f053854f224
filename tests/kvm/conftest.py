"""Fixtures of flavor kvm's tests: an image of two layers, and one pod in one machine for each module of tests.

A machine is emulated where KVM does not run guests, and then takes seconds to start: so the tests of a module share
one, each with an app of its own.
"""

import asyncio
import json
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from executor.kvm import kernel, probe
from executor.kvm.machines import Machines
from executor.kvm.template import LIMIT
from executor.pods.launcher import AppExit, Launcher, LaunchError, Sandbox
from tests.ground import put_busybox, skip_root_tests, why_no_pods
from tests.kvm.hierarchy import cgroups

SECONDS = 150.0
# Beside whatever else runs: without it a machine has the weight of a quarter of a process.
WEIGHT = {"name": "resource/cpu", "value": {"request": "4"}}


def _why_not() -> str:
    try:
        probe.tools()
        kernel.find()
    except (probe.ProbeError, kernel.KernelError) as error:
        return str(error)
    return why_no_pods()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_root_tests(items, "kvm", _why_not())


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The executor's: its transports differ."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Uppermost first: it removes a file and replaces a directory of the one below, which has busybox."""
    lower, upper = tmp_path_factory.mktemp("lower"), tmp_path_factory.mktemp("upper")
    for name in ("bin", "etc", "tmp", "replaced"):
        (lower / name).mkdir()
    put_busybox(lower)
    (lower / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1234:2345::/:/bin/sh\n")
    (lower / "tmp").chmod(0o1777)
    (lower / "removed").write_text("not to be seen\n")
    (lower / "replaced" / "old").write_text("not to be seen\n")
    (upper / "replaced").mkdir()
    (upper / "replaced" / "new").write_text("new\n")
    (upper / "leads-out").symlink_to("/../../../led-out")
    if os.geteuid() == 0:
        os.mknod(upper / "removed", 0o20000, os.makedev(0, 0))
        os.setxattr(upper / "replaced", "trusted.overlay.opaque", b"y")
    return upper, lower


def _all(fd: int) -> str:
    with open(fd, encoding="utf-8", errors="replace") as file:
        return file.read()


@dataclass
class Machine:
    """A pod in a machine, what it has reported, and how to run something in it."""

    sandbox: Sandbox
    directory: Path
    host: Launcher
    exits: dict[str, "asyncio.Queue[AppExit]"]
    gone: "asyncio.Future[str]"
    layers: tuple[Path, ...]

    async def run(self, app: str, *, stdin: int | None = None) -> tuple[AppExit, str]:
        """Start an app, and wait for its end and output."""
        reader, writer = os.pipe()
        try:
            await self.sandbox.start_app(app, stdin=stdin, stdout=writer, stderr=writer)
        finally:
            os.close(writer)
        text = asyncio.create_task(
            asyncio.to_thread(_all, reader)
        )  # at once: it may be more than a pipe holds
        return await self.ended(app), await text

    async def ended(self, app: str) -> AppExit:
        """How an app ends; AssertionError, with all there is to know, if its machine does or it takes too long."""
        waiting = asyncio.ensure_future(self.exits[app].get())
        await asyncio.wait([waiting, self.gone], timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        assert not self.gone.done(), f"{app} was to end, and not its machine: {self.gone.result()}"
        raise AssertionError(f"{app} does not end; {await self._state(app)}")

    async def _state(self, app: str) -> str:
        """What hangs, as far as the machine still says."""
        look = "cd /proc; for p in [0-9]*; do echo $p $(cat $p/comm $p/wchan $p/syscall); cat $p/stack; done"
        reader, writer = os.pipe()
        try:
            made = await asyncio.wait_for(
                self.sandbox.exec(app, ["sh", "-c", look], streams=(writer, writer)), 30
            )
            await asyncio.wait_for(made.ended, 30)
        except (LaunchError, TimeoutError) as error:
            return f"what is in it cannot be seen: {error!r}"
        finally:
            os.close(writer)
        return await asyncio.to_thread(_all, reader)

    async def exec(self, app: str, *argv: str, **more: Any) -> tuple[int | None, int | None, str]:
        """Run a program in a running app; exit code, signal and output."""
        reader, writer = os.pipe()
        try:
            made = await self.sandbox.exec(app, argv, streams=(writer, writer), **more)
        finally:
            os.close(writer)
        code, signum = await asyncio.wait_for(made.ended, SECONDS)
        return code, signum, await asyncio.to_thread(_all, reader)


@dataclass
class Starter:
    """Starts machines."""

    base: Path
    state: Path
    layers: tuple[Path, ...]
    started: list[Machine] = field(default_factory=list)
    launchers: list[Launcher] = field(default_factory=list)

    async def __call__(
        self,
        apps: dict[str, dict[str, Any]],
        network: Callable[[int], None] = lambda pid: None,
        *,
        templates: bool = True,
        **pod: Any,
    ) -> Machine:
        """apps: {name: {"exec": […], and what else goes into appc's app; "mounts"; "notes"}}; pod: of the PodManifest.

        network: puts interfaces into the network namespace of a process.
        """
        directory = self.base / str(uuid.uuid4())  # the name of its cgroups, which others run beside
        directory.mkdir()
        entries = []
        for name, app in apps.items():
            info = directory / "appsinfo" / name
            info.mkdir(parents=True)
            (info / "lower").write_text("".join(f"{layer}\n" for layer in self.layers))
            more = {"mounts": app.pop("mounts", []), "annotations": app.pop("notes", [])}
            own = app.get("isolators", [])
            app["isolators"] = own if any(one["name"] == WEIGHT["name"] for one in own) else [*own, WEIGHT]
            entries.append({"name": name, "app": {"user": "0", "group": "0", **app}, **more})
        notes = {"gantry.io/flavor": "kvm", "gantry.io/hostname": "web", **pod.pop("notes", {})}
        manifest = {
            "acVersion": "0.8.11",
            "acKind": "PodManifest",
            "apps": entries,
            "annotations": [{"name": name, "value": value} for name, value in notes.items()],
            **pod,
        }
        (directory / "pod").write_text(json.dumps(manifest))
        host = await Launcher.start(spares=0)
        self.launchers.append(host)
        exits: dict[str, asyncio.Queue[AppExit]] = defaultdict(asyncio.Queue)
        gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def run(*args: Any) -> Sandbox:
            made = await host.run_pod(*args)
            await asyncio.to_thread(network, made.pid)
            return made

        machines = Machines(run, self.state, templates=LIMIT if templates else 0, at_once=True)
        sandbox = await machines.run_pod(
            directory, lambda ended: exits[ended.app].put_nowait(ended), gone.set_result
        )
        made = Machine(sandbox, directory, host, exits, gone, self.layers)
        self.started.append(made)
        return made

    async def close(self) -> None:
        for launcher in self.launchers:
            try:
                await launcher.close()
            except (LaunchError, OSError):
                pass  # it was killed
        # The cgroups of one that was killed are the next one's to remove.
        await (await Launcher.start(spares=0)).close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def start(
    tmp_path_factory: pytest.TempPathFactory, layers: tuple[Path, ...], state: Path
) -> AsyncIterator[Starter]:
    """Machines of this module; they end with it, and with this process (PR_SET_PDEATHSIG)."""
    made = Starter(tmp_path_factory.mktemp("pods"), state, layers)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel, the first root, templates: made once, also for the tests of other rooms that start machines."""
    made = tmp_path_factory.getbasetemp() / "machines"
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture(scope="session")
def leftovers() -> Callable[[Path], list[str]]:
    """Processes and cgroups of a machine that are still there."""

    def find(directory: Path) -> list[str]:
        found = [str(path) for path in cgroups(directory.name)]
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    text = (process / "mountinfo").read_text()
                except OSError:
                    continue
                if str(directory) in text and process.name != str(os.getpid()):
                    found.append(process.name)
        return found

    return find
