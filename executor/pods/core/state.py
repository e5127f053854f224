"""The state of one pod on this machine: immutable, replaced at every step.

What of it is told to the world is decided in `status`, what follows from it in `step`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from executor.pods.core.spec import App, Pod, ProbeKind
from executor.pods.core.states import ContainerState, SandboxState
from shared.wire import PodEvent


@dataclass(frozen=True, slots=True)
class Termination:
    """How an instance of a container ended (v1 ContainerStateTerminated)."""

    attempt: int
    exit_code: int
    reason: str
    message: str
    started_at: float | None
    finished_at: float


@dataclass(frozen=True, slots=True)
class Check:
    """What a probe found of an instance. passed: what counts now; last: the last answer, `run` times in a row.

    flying: a check is being made; due: the next one should have begun meanwhile.
    """

    passed: bool
    last: bool | None = None
    run: int = 0
    flying: bool = False
    due: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """One app over all its instances.

    attempt: number of the newest instance, -1 before the first. last, previous: how the newest ended instance and the
    one before it ended. reason, message: why it waits (HELD). failures: prepare failures in a row. restarts: restarts
    in a row, for the back-off; restarted_at: when the last of them was decided.

    Of the newest instance: checks: its probes, once it runs; hooked: its preStop hook has ended, or there is none;
    grace_until: when SIGKILL is due, wall clock; forced: it was sent; again: a probe ended it, so that it is started
    again even if it ends well. begun: an instance of it, some time, has started in the sense of its startup probe.
    """

    app: App
    state: ContainerState = ContainerState.PREPARING
    attempt: int = -1
    image: str = ""
    image_id: str = ""
    reason: str = ""
    message: str = ""
    started_at: float | None = None
    last: Termination | None = None
    previous: Termination | None = None
    failures: int = 0
    restarts: int = 0
    restarted_at: float = 0.0
    checks: Mapping[ProbeKind, Check] = field(default_factory=dict)
    hooked: bool = False
    grace_until: float = 0.0
    forced: bool = False
    again: bool = False
    begun: bool = False

    @property
    def succeeded(self) -> bool:
        return self.state is ContainerState.ENDED and self.last is not None and self.last.exit_code == 0

    @property
    def started(self) -> bool:
        """v1 ContainerStatus.started: it runs, its postStart hook has ended and its startup probe succeeded."""
        if self.state not in {ContainerState.RUNNING, ContainerState.LEAVING, ContainerState.STOPPING}:
            return False
        return self.app.startup is None or self.passed(ProbeKind.STARTUP)

    @property
    def ready(self) -> bool:
        """v1 ContainerStatus.ready."""
        if self.app.init and not self.app.sidecar:
            return self.succeeded
        if self.state is not ContainerState.RUNNING or not self.started:
            return False
        return self.app.readiness is None or self.passed(ProbeKind.READINESS)

    def passed(self, kind: ProbeKind) -> bool:
        check = self.checks.get(kind)
        return check is not None and check.passed


class Outcome(StrEnum):
    """How a pod ends; the values are Mesos' terminal task states."""

    FINISHED = "TASK_FINISHED"
    FAILED = "TASK_FAILED"
    KILLED = "TASK_KILLED"


@dataclass(frozen=True, slots=True)
class Ending:
    """The pod is ending, and why. grace_until: when whoever still runs gets SIGKILL, wall clock.

    only_here: the pod itself is not over, its restart policy wants it elsewhere or again.
    """

    outcome: Outcome
    message: str
    reason: str = ""
    grace_until: float = 0.0
    only_here: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """A v1 PodCondition. since: when `status` last changed."""

    type: str
    status: bool
    since: float
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """One pod. spoken: a report went out; reported: the status in the last one; illegal: moves refused so far.
    unenforced: the isolators that it runs without, a line each."""

    pod: Pod
    started_at: float
    containers: tuple[Container, ...]
    sandbox: SandboxState = SandboxState.ABSENT
    sandbox_failures: int = 0
    ending: Ending | None = None
    conditions: tuple[Condition, ...] = ()
    unsaid: tuple[PodEvent, ...] = ()
    spoken: bool = False
    reported: dict[str, Any] | None = None
    illegal: int = 0
    unenforced: tuple[str, ...] = ()

    @property
    def inits(self) -> tuple[Container, ...]:
        return tuple(c for c in self.containers if c.app.init)

    @property
    def mains(self) -> tuple[Container, ...]:
        return tuple(c for c in self.containers if not c.app.init)

    @property
    def sidecars(self) -> tuple[Container, ...]:
        return tuple(c for c in self.containers if c.app.sidecar)

    @property
    def initialized(self) -> bool:
        return all(c.begun if c.app.sidecar else c.succeeded for c in self.inits)

    @property
    def over(self) -> bool:
        """The terminal report went out."""
        return self.sandbox is SandboxState.GONE

    def container(self, name: str) -> Container:
        """The container of this name. KeyError: an event about a container the pod does not have is a bug."""
        for container in self.containers:
            if container.app.name == name:
                return container
        raise KeyError(name)

    def with_container(self, new: Container) -> "State":
        return replace(
            self, containers=tuple(new if c.app.name == new.app.name else c for c in self.containers)
        )
