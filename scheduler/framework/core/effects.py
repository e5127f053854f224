"""Everything the engine can be told to do, and the one order in which it is done.

Save before you speak: a launch that was sent and not saved would be launched again after a crash; an update that
was acknowledged and not saved would be lost. A frame's effects are sorted by `ORDER`; a failed save ends the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.framework.core.claims import Held, Use, Volume
from scheduler.framework.core.entities import Executor, Node, Pod, Task
from scheduler.framework.core.vectors import Vector

# ---- what can be written about a pod (see `status.apply`)


@dataclass(frozen=True, slots=True)
class Bound:
    """A node was chosen: spec.nodeName and PodScheduled. `moves`: the pod still runs where it was."""

    task_id: str
    node: str
    moves: bool = False


@dataclass(frozen=True, slots=True)
class Reported:
    """The executor's PodStatus; phase is what the task's state says when the executor does not."""

    status: Mapping[str, Any] | None
    phase: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    message: str


@dataclass(frozen=True, slots=True)
class Away:
    """The node cannot be reached; the pod may well run on."""

    message: str


@dataclass(frozen=True, slots=True)
class Back:
    """The node is back, and the pod with it."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """The pod waits for another launch; `node` is the spec.nodeName the user asked for, or ""."""

    node: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The pod is over without a word from its executor."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """The pod is deleted on behalf of its node; `grace` in seconds."""

    grace: float
    message: str


PodChange = Bound | Reported | Unschedulable | Away | Back | Requeued | Ended | Evicted

# ---- effects


@dataclass(frozen=True, slots=True)
class SaveFramework:
    framework_id: str


@dataclass(frozen=True, slots=True)
class SaveExecutor:
    executor: Executor


@dataclass(frozen=True, slots=True)
class DropExecutor:
    executor_id: str


@dataclass(frozen=True, slots=True)
class SaveTask:
    """`binds`: a launch; it counts only if its pod can still be bound when this is saved."""

    task: Task
    binds: bool = False


@dataclass(frozen=True, slots=True)
class DropTask:
    task_id: str


@dataclass(frozen=True, slots=True)
class SavePod:
    pod: Pod
    change: PodChange


@dataclass(frozen=True, slots=True)
class RemovePod:
    pod: Pod


@dataclass(frozen=True, slots=True)
class SaveNode:
    node: Node


@dataclass(frozen=True, slots=True)
class SaveVolume:
    volume: Volume


@dataclass(frozen=True, slots=True)
class DropVolume:
    volume_id: str


@dataclass(frozen=True, slots=True)
class SaveClaim:
    """The claim with this uid has a volume; `phase`: Bound or Lost."""

    namespace: str
    name: str
    uid: str
    volume: Volume
    phase: str


@dataclass(frozen=True, slots=True)
class ReleaseClaim:
    """Nobody uses the deleted claim any more: it may leave the store."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The status update is in the store: the agent need not send it again."""

    agent_id: str
    task_id: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One task of an Accept; `amounts` do not include the executor."""

    task: Task
    executor: Executor
    amounts: Vector
    ports: tuple[int, ...]
    volumes: tuple[Use, ...] = ()
    waited: float = 0.0
    """Seconds from when it could have been launched."""


@dataclass(frozen=True, slots=True)
class Accept:
    """All offers of one agent to one role, all launches on them. `refuse` seconds hide what is left over.

    `doomed`: reserved disk of ours that is to be given back first, volumes and all.
    """

    agent_id: str
    offer_ids: tuple[str, ...]
    launches: tuple[Launch, ...]
    refuse: float
    role: str = ""
    doomed: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class Decline:
    offer_ids: tuple[str, ...]
    refuse: float


@dataclass(frozen=True, slots=True)
class AnswerInverse:
    """To inverse offers: whether we can leave the agent in time; not asked again for `refuse` seconds."""

    offer_ids: tuple[str, ...]
    accept: bool
    refuse: float


@dataclass(frozen=True, slots=True)
class KillTask:
    """`grace` None: as the task's own kill policy says."""

    task_id: str
    agent_id: str
    grace: float | None


@dataclass(frozen=True, slots=True)
class ShutdownExecutor:
    """One without tasks is to leave now rather than when it has been idle for long enough."""

    executor_id: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class Revive:
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suppress:
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reconcile:
    """(task id, agent id) of each task asked about; none: all that the master knows."""

    tasks: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """A v1 Event about a pod, or another `kind` of the core group. The shell aggregates equal ones."""

    uid: str
    namespace: str
    name: str
    type: str
    reason: str
    message: str
    container: str = ""
    component: str = "gantry-scheduler"
    host: str = ""
    kind: str = "Pod"


@dataclass(frozen=True, slots=True)
class Halt:
    """The framework cannot go on; the process ends with its own exit code and keeps its state."""

    message: str


Save = (
    SaveFramework
    | SaveNode
    | SaveExecutor
    | SaveVolume
    | SaveClaim
    | SavePod
    | SaveTask
    | DropTask
    | DropExecutor
    | RemovePod
    | ReleaseClaim
    | DropVolume
)
Effect = (
    Save
    | Acknowledge
    | Accept
    | Decline
    | AnswerInverse
    | KillTask
    | ShutdownExecutor
    | Revive
    | Suppress
    | Reconcile
    | Publish
    | Halt
)

SAVES: Final = (
    SaveFramework,
    SaveNode,
    SaveExecutor,
    SaveVolume,
    SaveClaim,
    SavePod,
    SaveTask,
    DropTask,
    DropExecutor,
    RemovePod,
    ReleaseClaim,
    DropVolume,
)
"""Committed as one; SavePod stands before SaveTask because a launch counts only if its pod was bound."""

ORDER: Final[tuple[type[Effect], ...]] = (
    *SAVES,
    Acknowledge,
    Accept,
    Decline,
    AnswerInverse,
    KillTask,
    ShutdownExecutor,
    Suppress,
    Revive,
    Reconcile,
    Publish,
    Halt,
)

_RANK: Final = {kind: rank for rank, kind in enumerate(ORDER)}


def in_order(effects: Iterable[Effect]) -> list[Effect]:
    """The effects of a frame as they must be performed; of several records of one task only the last is kept."""
    newest: dict[str, int] = {}
    listed = list(effects)
    for index, effect in enumerate(listed):
        if isinstance(effect, SaveTask):
            newest[effect.task.id] = index
        elif isinstance(effect, DropTask):
            newest[effect.task_id] = index
    kept = [
        effect
        for index, effect in enumerate(listed)
        if not (isinstance(effect, SaveTask) and newest[effect.task.id] != index)
        and not (isinstance(effect, DropTask) and newest[effect.task_id] != index)
    ]
    return sorted(kept, key=lambda effect: _RANK[type(effect)])
