"""Shared by the tests of pods: pods in a few words, and a world that performs the core's effects at will."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from executor.pods.core import events as ev
from executor.pods.core.effects import (
    Effect,
    Prepare,
    Report,
    SetTimer,
    Start,
    StartSandbox,
    Stop,
    StopSandbox,
)
from executor.pods.core.events import Timer, TimerKind
from executor.pods.core.spec import App, Pod, RestartPolicy
from executor.pods.core.step import launch, step
from executor.stage0.build import Options, build_oci


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
    *apps: str, init: tuple[str, ...] = (), policy: str = "Always", now: float = 1_000_000.0, **more: Any
) -> World:
    everyone = [App(a, "busybox", init=True) for a in init] + [App(a, "busybox") for a in apps]
    return World(
        Pod("uid-1", "default", "web", RestartPolicy(policy), tuple(everyone), host_ip="10.0.0.1", **more),
        now,
    )


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    """`world("web", "side", init=("setup",), policy="Never", grace=5.0)`: a pod that was just launched."""
    return make_world


APPLETS = "cat cut dd df echo env grep head hostname httpd id ls od pwd readlink seq sh sleep tail touch tr true wget"


@pytest.fixture(scope="session")
def local_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of OCI layouts with localhost/busybox:1, and :usr1 whose stop signal is SIGUSR1."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    rootfs = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "tmp", "etc", "disk"):
        (rootfs / name).mkdir()
    shutil.copy(busybox, rootfs / "bin/busybox")
    for applet in APPLETS.split():
        (rootfs / "bin" / applet).symlink_to("busybox")
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
