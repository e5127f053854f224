"""What the core wants done. The runner performs the effects of a step in their order and tells what became of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from executor.pods.core.events import Hook, Timer
from executor.pods.core.spec import ProbeKind
from shared.wire import PodEvent


@dataclass(frozen=True, slots=True)
class StartSandbox:
    """Make the pod directory, the volumes and the sandbox → SandboxStarted or SandboxFailed."""


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """End what still runs and collect everything but the logs → SandboxStopped."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have the image of the app (for an app that ran before: the same one) → Prepared or PrepareFailed."""

    app: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start instance number `attempt` (0, 1, …) of the app → Started or StartFailed, later Exited."""

    app: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell the app to end: its stop signal to its main process, or with force SIGKILL to all its processes."""

    app: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class RunHook:
    """Run a lifecycle hook of a running instance → HookEnded."""

    app: str
    attempt: int
    hook: Hook


@dataclass(frozen=True, slots=True)
class MakeCheck:
    """Ask a probe of a running instance → Probed."""

    app: str
    attempt: int
    probe: ProbeKind


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Say TimerFired after so many seconds. Replaces a running timer of the same name."""

    timer: Timer
    after: float


@dataclass(frozen=True, slots=True)
class Report:
    """Send a status update. state: a Mesos task state; status: v1 PodStatus; events: new ones."""

    state: str
    message: str
    status: Mapping[str, Any]
    events: tuple[PodEvent, ...]

    @property
    def terminal(self) -> bool:
        return self.state not in {"TASK_STARTING", "TASK_RUNNING"}


Effect = StartSandbox | StopSandbox | Prepare | Start | Stop | RunHook | MakeCheck | SetTimer | Report
