"""What the agent knows of frameworks and executors, as plain state."""

from asyncio import TimerHandle
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from local.agent.containers.containerizer import Termination
from local.reservations import is_volume
from local.tasks import TERMINAL, Task
from local.wire.proto import Json
from local.wire.stream import EventStream
from shared.mesos.resources import Resources

MAX_COMPLETED_TASKS = 200  # an executor, src/slave/constants.hpp


class State(Enum):
    """Of an executor."""

    REGISTERING = "registering"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


class TaskStateError(Exception):
    """An update that a task in its state cannot have."""


@dataclass(eq=False)
class Executor:
    """One run of an executor. Tasks go queued → launched → terminated (not all acknowledged) → completed."""

    framework_id: str
    executor_id: str
    info: Json
    container_id: str
    sandbox: Path
    meta: Path  # of this run
    checkpoint: bool
    state: State = State.REGISTERING
    queued: dict[str, Json] = field(default_factory=dict)  # TaskInfos
    groups: list[list[str]] = field(default_factory=list)  # ids of queued task groups
    launched: dict[str, Task] = field(default_factory=dict)
    terminated: dict[str, Task] = field(default_factory=dict)
    completed: deque[Task] = field(default_factory=lambda: deque(maxlen=MAX_COMPLETED_TASKS))
    stream: EventStream | None = None
    heartbeat: TimerHandle | None = None
    timer: TimerHandle | None = None  # registration, then shutdown
    heard: bool = False  # it has sent an update, so a task has reached it
    pending: Termination | None = None  # why the agent itself ends it
    cpus: int = 0  # thousandths, of the executor and the tasks that have not ended
    mem: int = 0
    volumes: Resources = field(default_factory=Resources)  # persistent ones, of the same
    links: dict[str, Path] = field(default_factory=dict)  # names in the sandbox that lead to them

    def __post_init__(self) -> None:
        self.count(Resources.from_json(self.info.get("resources", [])), 1)

    def count(self, resources: Resources, sign: int) -> None:
        """Keep the sums that limit the container; adding up all tasks each time would cost too much."""
        self.cpus += sign * resources.scalar("cpus")
        self.mem += sign * resources.scalar("mem")
        for part in resources.split():
            if is_volume(part):
                self.volumes = self.volumes + part if sign > 0 else self.volumes - part

    def enqueue(self, task: Json) -> None:
        self.queued[task["task_id"]["value"]] = task
        self.count(Resources.from_json(task["resources"]), 1)

    def send(self, kind: str, body: Json | None = None) -> bool:
        """One event; False when the executor is not connected."""
        if self.stream is None:
            return False
        self.stream.send({"type": kind} if body is None else {"type": kind, kind.lower(): body})
        return True

    def has(self, task_id: str) -> bool:
        return task_id in self.queued or task_id in self.launched or task_id in self.terminated

    def incomplete(self) -> bool:
        return bool(self.queued or self.launched or self.terminated)

    def ever_sent_task(self) -> bool:
        """Whether any task reached the executor (`Executor::everSentTask`)."""
        return bool(self.launched) or self.heard

    def take(self, status: Json) -> None:
        """Move the task to the state in `status` (`Executor::updateTaskState`). Raises TaskStateError."""
        task_id, state = status["task_id"]["value"], status["state"]
        terminal = state in TERMINAL
        if task_id in self.queued:
            if not terminal:
                raise TaskStateError("Cannot send non-terminal update for queued task")
            info = self.queued.pop(task_id)
            task = Task.launched(info, self.framework_id, Resources.from_json(info["resources"]))
        elif task_id in self.launched:
            task = self.launched[task_id]
            if terminal:
                del self.launched[task_id]
        elif task_id in self.terminated:
            raise TaskStateError(f"Task is already terminated with state {self.terminated[task_id].state}")
        else:
            raise TaskStateError("Task is unknown")
        task.take(status)
        task.state = state
        if terminal:
            self.terminated[task_id] = task
            self.count(task.resources, -1)

    def tasks(self) -> list[Task]:
        """All that is not completed, queued ones as TASK_STAGING."""
        queued = [
            Task.launched(info, self.framework_id, Resources.from_json(info["resources"]))
            for info in self.queued.values()
        ]
        return [*queued, *self.launched.values(), *self.terminated.values()]


@dataclass(eq=False)
class Framework:
    framework_id: str
    info: Json
    executors: dict[str, Executor] = field(default_factory=dict)
    completed: deque[Executor] = field(default_factory=lambda: deque(maxlen=50))
    terminating: bool = False

    @property
    def checkpoint(self) -> bool:
        return bool(self.info.get("checkpoint"))

    def state_or_lost(self, state: str) -> str:
        """`state`, or TASK_LOST for a framework that does not know partitions."""
        aware = any(c.get("type") == "PARTITION_AWARE" for c in self.info.get("capabilities", []))
        return state if aware else "TASK_LOST"

    def executor_of(self, task_id: str) -> Executor | None:
        return next((e for e in self.executors.values() if e.has(task_id)), None)
