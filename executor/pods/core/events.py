"""What happens to a pod: facts that the runner tells the core."""

from dataclasses import dataclass
from enum import StrEnum

from executor.pods.core.spec import ProbeKind


class TimerKind(StrEnum):
    """What a timer is for. A pod has at most one running timer of a kind and app."""

    SAY_STARTING = "say-starting"  # preparing takes long enough to be worth a report
    DEADLINE = "deadline"  # activeDeadlineSeconds
    GRACE = "grace"  # of an app: the time to end by itself is over
    SANDBOX = "sandbox"  # try the sandbox again
    RETRY = "retry"  # of an app: try again what is HELD or in BACKOFF
    SHOW_BACKOFF = "show-backoff"  # of an app: ErrImagePull becomes ImagePullBackOff
    STARTUP = "startup"  # of an app: the next check of this probe
    LIVENESS = "liveness"
    READINESS = "readiness"


class Hook(StrEnum):
    """A lifecycle hook of a container; the value is its name in v1 Lifecycle."""

    POST_START = "postStart"
    PRE_STOP = "preStop"


class Answer(StrEnum):
    """What a probe says. UNKNOWN: it could not be asked, which counts for nothing."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Timer:
    kind: TimerKind
    app: str = ""


@dataclass(frozen=True, slots=True)
class SandboxStarted:
    pass


@dataclass(frozen=True, slots=True)
class SandboxFailed:
    """The sandbox or a volume could not be made. reason: FailedMount or FailedCreatePodSandBox."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SandboxLost:
    """The sandbox ended without having been told to; everything in it is dead."""

    message: str


@dataclass(frozen=True, slots=True)
class SandboxStopped:
    """Nothing of the sandbox is left."""


@dataclass(frozen=True, slots=True)
class Pulling:
    """The image is not here and is being fetched."""

    app: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The image is there. image: its name in the status; image_id: by digest; took: seconds, None if it was here."""

    app: str
    image: str
    image_id: str
    took: float | None = None


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """reason: a waiting reason of Kubernetes (ErrImagePull, InvalidImageName, CreateContainerConfigError, …)."""

    app: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    app: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The app's program could not be executed."""

    app: str
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The app's main process ended: with exit_code, or by signal. message: its termination message."""

    app: str
    attempt: int
    exit_code: int | None
    signal: int | None = None
    oom_killed: bool = False
    finished_at: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class HookEnded:
    """error: why the hook failed, "" if it did not."""

    app: str
    attempt: int
    hook: Hook
    error: str = ""


@dataclass(frozen=True, slots=True)
class Probed:
    """message: what there is to say of it; a success with a message is one with a warning."""

    app: str
    attempt: int
    probe: ProbeKind
    answer: Answer
    message: str = ""


@dataclass(frozen=True, slots=True)
class KillRequested:
    """End the pod. grace: seconds from SIGTERM to SIGKILL, None for the pod's own. message: why, one line."""

    grace: float | None = None
    message: str = "killed on request"


@dataclass(frozen=True, slots=True)
class Evicted:
    """It uses more of the node than it may. message: the kubelet's words."""

    message: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    timer: Timer


@dataclass(frozen=True, slots=True)
class NotEnforced:
    """Isolators that the node does not enforce for the pod, one line each; it runs without them."""

    remarks: tuple[str, ...]


SandboxEvent = SandboxStarted | SandboxFailed | SandboxLost | SandboxStopped | NotEnforced

Event = (
    SandboxEvent
    | Pulling
    | Prepared
    | PrepareFailed
    | Started
    | StartFailed
    | Exited
    | HookEnded
    | Probed
    | KillRequested
    | Evicted
    | TimerFired
)
