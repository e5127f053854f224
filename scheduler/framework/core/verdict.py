"""What becomes of a pod when its task has ended: over, or launched again, and whose fault it was.

The executor restarts containers in place; a task ends only when its pod is over or when something below the pod
broke. What broke below is infrastructure: launched again without a penalty for the pod, whatever it did; only a pod
with restartPolicy Never that may have run is not run twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from scheduler.framework.core.entities import Task
from scheduler.framework.core.events import TaskReported
from scheduler.framework.core.lifecycle import TaskState

EXECUTOR_REASONS: Final = frozenset(
    {
        "EXECUTOR_TERMINATED",
        "EXECUTOR_UNREGISTERED",
        "EXECUTOR_PREEMPTED",
        "EXECUTOR_REGISTRATION_TIMEOUT",
        "EXECUTOR_REREGISTRATION_TIMEOUT",
        "CONTAINER_LAUNCH_FAILED",
        "CONTAINER_UPDATE_FAILED",
        "CONTAINER_PREEMPTED",
        "CONTAINER_LIMITATION",
        "CONTAINER_LIMITATION_DISK",
        "CONTAINER_LIMITATION_MEMORY",
        "IO_SWITCHBOARD_EXITED",
        "TASK_INVALID",
    }
)
"""After these the executor instance takes no more pods: it is dead, or its ExecutorInfo is refused."""

BLAMELESS_REASONS: Final = frozenset({"INVALID_OFFERS", "RECONCILIATION", "MASTER_DISCONNECTED", "NOT_SENT"})
"""Nothing was wrong with the agent: it may be used again at once."""


SLOW_REASONS: Final = frozenset({"EXECUTOR_REGISTRATION_TIMEOUT"})
"""It took the agent a minute to find out (it fetches within that time): another one may have what this one lacks."""
SLOW_STRIKES: Final = 6


class Fate(Enum):
    """What becomes of the pod."""

    SUCCEEDED = auto()
    FAILED = auto()
    RELAUNCH = auto()
    """Infrastructure: again, as soon as something offers."""
    RETRY = auto()
    """The pod's own failure: again, after a growing delay."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the end of a task means, for its pod, its agent and its executor."""

    fate: Fate
    reason: str
    """CamelCase, for pod.status.reason and events."""
    message: str
    agent_strikes: int = 0
    """How much it counts against the agent: the more, the longer that is left alone."""
    executor_dead: bool = False


def judge(task: Task, report: TaskReported, restart: str) -> Verdict:
    """For a task that nobody asked to end. `report.state` is terminal."""
    if report.state is TaskState.FINISHED:
        return Verdict(Fate.SUCCEEDED, "", "")
    reason, message = camel(report), describe(report)
    phase = (report.pod_status or {}).get("phase")
    if report.state is TaskState.FAILED and report.source == "EXECUTOR":
        final = phase == "Failed" or restart == "Never"
        return Verdict(Fate.FAILED if final else Fate.RETRY, reason, message)
    if task.moving and task.kill is not None:
        return Verdict(Fate.RELAUNCH, "NodeMaintenance", f"{message}: its node goes into maintenance")
    dead = report.reason in EXECUTOR_REASONS
    if report.state is TaskState.ERROR:
        return Verdict(Fate.RETRY, reason, message, executor_dead=dead)
    strikes = (
        0 if report.reason in BLAMELESS_REASONS else SLOW_STRIKES if report.reason in SLOW_REASONS else 1
    )
    ran = task.started_at > 0
    fate = Fate.FAILED if ran and restart == "Never" else Fate.RELAUNCH
    return Verdict(fate, reason, message, agent_strikes=strikes, executor_dead=dead)


def camel(report: TaskReported) -> str:
    """`EXECUTOR_TERMINATED` -> `ExecutorTerminated`; the state's name when Mesos gives no better reason."""
    if report.state in {TaskState.GONE, TaskState.LOST} and report.reason in {"", "RECONCILIATION"}:
        return "NodeLost"
    word = report.reason or f"TASK_{report.state.name}"
    return "".join(part.capitalize() for part in word.split("_"))


def describe(report: TaskReported) -> str:
    """One line: Mesos' message, or the state and reason."""
    said = " ".join(report.message.split())
    name = f"TASK_{report.state.name}" + (f", {report.reason}" if report.reason else "")
    return f"{said} ({name})" if said else name
