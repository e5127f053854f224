"""Shared by the tests of pods: pods in a few words, and a world that performs the core's effects at will."""

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from executor.pods import gpus as gpus_module
from executor.pods.core import events as ev
from executor.pods.core.effects import (
    Effect,
    MakeCheck,
    Prepare,
    Report,
    RunHook,
    SetTimer,
    Start,
    StartSandbox,
    Stop,
    StopSandbox,
)
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.spec import App, Pod, RestartPolicy
from executor.pods.core.step import launch, step
from executor.pods.enforcing import NO_FACTS, Facts
from executor.pods.env import Node
from executor.pods.gpus import Gpus
from executor.pods.keeper import LauncherKeeper
from executor.pods.poddir import Phase, PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine, Metadata, NoMetadata
from executor.pods.rules import NO_RULES, Rules
from executor.pods.supplies import NOTHING, Supplies
from executor.stage0.build import Options, build_oci
from executor.stage0.store import ImageStore
from executor.stage0.trust.gate import Gate
from executor.stage0.trust.policy import Policy
from tests.ground import need_launcher, put_busybox
from tests.pods.reported import Reported


@dataclass
class World:
    """A runner without a machine: it remembers what was asked, tests and Hypothesis say what becomes of it."""

    pod: Pod
    now: float = 1_000_000.0
    reports: list[Report] = field(default_factory=list)
    preparing: set[str] = field(default_factory=set)
    starting: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    timers: dict[Timer, float] = field(default_factory=dict)
    making_sandbox: bool = False
    stopping_sandbox: bool = False
    stops: list[Stop] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    exits: dict[str, list[int]] = field(default_factory=dict)
    hooks: list[RunHook] = field(default_factory=list)
    checks: list[MakeCheck] = field(default_factory=list)

    def __post_init__(self) -> None:
        begun = launch(self.pod, self.now)
        self.state = begun.state
        self._perform(begun.effects)

    def send(self, event: ev.Event) -> tuple[Effect, ...]:
        if isinstance(event, ev.Prepared | ev.PrepareFailed):
            self.preparing.discard(event.app)
        elif isinstance(event, ev.Started) and self.starting.get(event.app) == event.attempt:
            self.live[event.app] = self.starting.pop(event.app)
        elif isinstance(event, ev.StartFailed):
            self.starting.pop(event.app, None)
        elif isinstance(event, ev.Exited):
            self.live.pop(event.app, None)
        elif isinstance(event, ev.TimerFired):
            self.timers.pop(event.timer, None)
        elif isinstance(event, ev.SandboxStarted | ev.SandboxFailed):
            self.making_sandbox = False
        elif isinstance(event, ev.SandboxStopped):
            self.stopping_sandbox = False
        elif isinstance(event, ev.SandboxLost):
            self.live.clear()
            self.starting.clear()
        done = step(self.state, event, self.now)
        self.state = done.state
        self._perform(done.effects)
        return done.effects

    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Prepare(app):
                    assert app not in self.preparing
                    self.preparing.add(app)
                case Start(app, attempt):
                    assert app not in self.starting
                    assert app not in self.live
                    self.starting[app] = attempt
                    self.starts.append(effect)
                case Stop():
                    self.stops.append(effect)
                case RunHook():
                    self.hooks.append(effect)
                case MakeCheck():
                    assert effect not in self.checks  # never twice at a time
                    self.checks.append(effect)
                case SetTimer(timer, after):
                    self.timers[timer] = self.now + after
                case StartSandbox():
                    assert not self.making_sandbox
                    self.making_sandbox = True
                case StopSandbox():
                    assert not self.stopping_sandbox
                    self.stopping_sandbox = True
                case Report():
                    self.reports.append(effect)

    # What tests say in one word.

    def prepared(self, app: str) -> None:
        self.send(ev.Prepared(app, "busybox", "busybox@sha256:1", None))

    def started(self, app: str) -> None:
        self.send(ev.Started(app, self.starting[app]))

    def ready(self) -> None:
        """All images are there, the sandbox is up."""
        for app in sorted(self.preparing):
            self.prepared(app)
        if self.making_sandbox:
            self.send(ev.SandboxStarted())

    def run(self, *apps: str) -> None:
        self.ready()
        for app in apps:
            self.started(app)

    def exit(self, app: str, code: int | None = 0, **more: Any) -> None:
        self.send(ev.Exited(app, self.live[app], code, finished_at=self.now, **more))

    def fire(self, kind: TimerKind, app: str = "") -> None:
        timer = Timer(kind, app)
        self.now = max(self.now, self.timers[timer])
        self.send(ev.TimerFired(timer))

    def hooked(self, app: str, hook: str, error: str = "") -> None:
        effect = next(e for e in self.hooks if e.app == app and e.hook == hook)
        self.hooks.remove(effect)
        self.send(ev.HookEnded(app, effect.attempt, effect.hook, error))

    def probed(self, app: str, probe: str, answer: str = "success", message: str = "") -> None:
        effect = next(e for e in self.checks if e.app == app and e.probe == probe)
        self.checks.remove(effect)
        self.send(ev.Probed(app, effect.attempt, effect.probe, ev.Answer(answer), message))

    def asked(self, app: str, probe: str) -> bool:
        """Whether a check is being made."""
        return any(e.app == app and e.probe == probe for e in self.checks)

    def stopped(self, app: str) -> list[bool]:
        """The signals it got: False is its stop signal, True SIGKILL."""
        return [stop.force for stop in self.stops if stop.app == app]

    def wait(self, kind: TimerKind, app: str = "") -> float:
        return self.timers[Timer(kind, app)] - self.now

    @property
    def last(self) -> Report:
        return self.reports[-1]

    def shown(self, app: str) -> dict[str, Any]:
        status = self.last.status
        everyone = [*status["containerStatuses"], *status.get("initContainerStatuses", ())]
        found: dict[str, Any] = next(c for c in everyone if c["name"] == app)
        return found

    def events(self, reason: str) -> list[str]:
        return [e.message for r in self.reports for e in r.events if e.reason == reason]


def make_world(
    *apps: str,
    init: tuple[str, ...] = (),
    policy: str = "Always",
    now: float = 1_000_000.0,
    facts: dict[str, dict[str, Any]] | None = None,
    **more: Any,
) -> World:
    of = facts or {}
    everyone = [App(a, "busybox", init=True, **of.get(a, {})) for a in init]
    everyone += [App(a, "busybox", **of.get(a, {})) for a in apps]
    return World(
        Pod("uid-1", "default", "web", RestartPolicy(policy), tuple(everyone), host_ip="10.0.0.1", **more),
        now,
    )


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    """`world("web", "side", init=("setup",), policy="Never", grace=5.0)`: a pod that was just launched. facts: of apps,
    by name, beyond their images."""
    return make_world


APPLETS = (
    "cat cut dd df echo env grep head hostname httpd id kill ls nc od pwd readlink seq sh sleep stat stty tail touch "
    "tr true wget"
)


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox, and some directories."""
    rootfs = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "tmp", "etc", "disk"):
        (rootfs / name).mkdir()
    put_busybox(rootfs, APPLETS)
    return rootfs


@pytest.fixture(scope="session")
def local_images(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of OCI layouts with localhost/busybox:1, and :usr1 whose stop signal is SIGUSR1."""
    images = tmp_path_factory.mktemp("images")
    build_oci(rootfs, images / "busybox", "1", Options(env=("PATH=/bin",), compression="none"))
    build_oci(
        rootfs,
        images / "busybox",
        "usr1",
        Options(env=("PATH=/bin",), stop_signal="SIGUSR1", compression="none"),
    )
    return images


@pytest.fixture
def build_image(local_images: Path) -> Iterator[Callable[[str], None]]:
    """`build_image("late")` makes localhost/late:1, the same as busybox:1; gone after the test."""
    made = []

    def build(name: str) -> None:
        shutil.copytree(local_images / "busybox", local_images / name)
        made.append(local_images / name)

    yield build
    for path in made:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def image_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of the image store: shared, so that images are unpacked once."""
    return tmp_path_factory.mktemp("state")


IMAGE = "localhost/busybox:1"


@pytest.fixture(scope="session")
def launcher_works() -> None:
    """Skip where the launcher says that it cannot run."""
    need_launcher()


class Host(Reported):
    """One machine with pods on it, and everything they reported."""

    def __init__(
        self,
        root: Path,
        local_images: Path,
        state_dir: Path,
        *,
        keep_dead: int = 100,
        rules: Rules = NO_RULES,
        facts: Facts = NO_FACTS,
        metadata: Metadata | None = None,
    ) -> None:
        super().__init__()
        self.dirs = PodDirs(root / "pods")
        self.dirs.open()
        self.keeper = LauncherKeeper()
        node = Node("node-1", "127.0.0.1", Fraction(4), 8 << 30)
        anything = Gate(Policy.from_table({"default-aci": "none"}))
        images = ImageStore(state_dir, local_images=local_images, trust=anything)
        self.devices = root / "dev"
        self.devices.mkdir()
        gpus = Gpus(gpus_module.Host(self.devices), root / "locks")
        self.wanted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        machine = Machine(
            *(lambda: node, images, self.dirs, self.keeper.run_pod, "linux", gpus),
            want=lambda *asked: self.wanted.put_nowait(asked),
            refresh_seconds=0.05,
            count_seconds=0.05,
            rules=rules,
            facts=facts,
            metadata=metadata or NoMetadata(),
        )
        self.pods = Pods(machine, self.report, keep_dead=keep_dead)

    def run(
        self,
        *containers: dict[str, Any],
        name: str = "p",
        namespace: str = "default",
        supplies: Supplies = NOTHING,
        notes: dict[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """Launch a pod of containers that are shell scripts; returns its task id."""
        uid = f"{name}-{os.urandom(4).hex()}"  # cgroups carry it, and tests run beside one another
        task_id = f"{uid}.1"
        spec.setdefault("restartPolicy", "Never")
        made = [container(f"c{n}", **c) for n, c in enumerate(containers)]
        inits = [container(f"i{n}", **c) for n, c in enumerate(spec.pop("init", ()))]
        meta = {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "labels": {"app": "test"},
            "annotations": notes or {},
        }
        spec = {"containers": made, "initContainers": inits, **spec}
        self.pods.launch(task_id, {"metadata": meta, "spec": spec}, supplies)
        return task_id

    async def close(self) -> None:
        await self.pods.shutdown(0.0, "the test is over")
        await self.pods.close()
        await self.keeper.close()


def pins(image_state: Path) -> list[Path]:
    """The images that somebody who lives holds; those of executors that were killed lie around until a collection."""
    found = []
    for path in (image_state / "store/pins").glob("*"):  # there is none before the first pull
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path)
    return found


@pytest.fixture
def held(image_state: Path) -> Callable[[], list[Path]]:
    """The pins there are now."""
    return lambda: pins(image_state)


def container(name: str, run: str | None = None, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", **fields}
    if run is not None:
        made["command"] = ["/bin/sh", "-c", run]
    return made


@pytest.fixture
def make_host(
    launcher_works: None, tmp_path: Path, local_images: Path, image_state: Path
) -> Callable[..., Host]:
    """A `Host`; who makes it closes it."""
    return lambda **options: Host(tmp_path, local_images, image_state, **options)


@pytest.fixture
async def host(
    launcher_works: None, tmp_path: Path, local_images: Path, image_state: Path
) -> AsyncIterator[Host]:
    made = Host(tmp_path, local_images, image_state)
    made.keeper.start()
    try:
        yield made
    finally:
        await made.close()
        assert not [p for phase in Phase for p in (made.dirs.root / phase).iterdir()]
        assert not pins(image_state)
