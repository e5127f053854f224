"""Everything that can happen to the engine. Facts only; what to do about them is `step`'s business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.framework.core.claims import Claim
from scheduler.framework.core.entities import AgentInfo, Node, Offer, Pod
from scheduler.framework.core.lifecycle import TaskState


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state holds what the store had. Always the first event."""


@dataclass(frozen=True, slots=True)
class PodChanged:
    """A pod was created or changed, by a user or by ourselves."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class PodGone:
    """A pod's object left the store."""

    uid: str


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A Node object as it is in the store now."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeGone:
    name: str


@dataclass(frozen=True, slots=True)
class ClaimChanged:
    """A PersistentVolumeClaim as it is in the store now."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class ClaimGone:
    uid: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """(Re)registered: what was offered before is void, what was asked before may be lost."""

    framework_id: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    pass


@dataclass(frozen=True, slots=True)
class OffersReceived:
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class OfferRescinded:
    offer_id: str


@dataclass(frozen=True, slots=True)
class InverseOffer:
    """An agent's operator wants it back: from when (seconds since the epoch), for how long (None for ever)."""

    id: str
    agent_id: str
    start: float
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class InverseOffersReceived:
    offers: tuple[InverseOffer, ...]


@dataclass(frozen=True, slots=True)
class PodEvent:
    """What an executor has to tell about a pod, for the v1 Event."""

    type: str
    reason: str
    message: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class TaskReported:
    """A status update or a reply to a reconciliation.

    uuid: present when it wants an acknowledgement. reason: without REASON_, AGENT_ for SLAVE_. pod_status: the v1
    PodStatus of TaskStatus.data, None without. server: host:port of the executor's node server.
    """

    task_id: str
    state: TaskState
    agent_id: str = ""
    executor_id: str = ""
    uuid: str = ""
    source: str = ""
    reason: str = ""
    message: str = ""
    pod_status: Mapping[str, Any] | None = None
    server: str = ""
    events: tuple[PodEvent, ...] = ()
    agent_gone: bool = False
    """Mesos' operators marked its agent gone, or are about to."""


@dataclass(frozen=True, slots=True)
class LaunchAborted:
    """A launch that never left: its pod changed before it could be saved."""

    task_id: str


@dataclass(frozen=True, slots=True)
class ExecutorLost:
    agent_id: str
    executor_id: str


@dataclass(frozen=True, slots=True)
class AgentLost:
    agent_id: str


@dataclass(frozen=True, slots=True)
class AgentsListed:
    """The master's list of agents. recovering: ids it knows of that have not come back yet."""

    agents: tuple[AgentInfo, ...]
    recovering: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MaintenanceListed:
    """The master's whole maintenance schedule, asked for at `asked_at`: start and duration (None for ever), by hostname
    in lower case and IP address, which an agent's machine must both have."""

    windows: Mapping[tuple[str, str], tuple[float, float | None]]
    asked_at: float


@dataclass(frozen=True, slots=True)
class QuotaListed:
    """The limits of all Mesos roles that have any, in words, by role."""

    limits: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MasterError:
    """An ERROR event: the subscription is refused or taken over, and over."""

    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; the frame's `now` says how much."""


Event = (
    Loaded
    | PodChanged
    | PodGone
    | NodeChanged
    | NodeGone
    | ClaimChanged
    | ClaimGone
    | Subscribed
    | Disconnected
    | OffersReceived
    | OfferRescinded
    | InverseOffersReceived
    | TaskReported
    | LaunchAborted
    | ExecutorLost
    | AgentLost
    | AgentsListed
    | MaintenanceListed
    | QuotaListed
    | MasterError
    | Tick
)
