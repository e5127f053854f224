"""The things the engine knows, reduced to what it decides by: pods, tasks, executors, offers, agents, nodes.

All are frozen: a change is a new one, which State holds in place of the old. What a crash must not lose is in Task and
Executor, whose records are in the store, and in the objects of the store that Pod and Node are read from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.framework.core.claims import Held
from scheduler.framework.core.lifecycle import TERMINAL, TaskState
from scheduler.framework.core.placement_rules import NO_RULES, Labels, Rules
from scheduler.framework.core.vectors import ZERO, Ranges, Vector


@dataclass(frozen=True, slots=True)
class Toleration:
    """v1 Toleration; an empty key with Exists tolerates everything, an empty effect all effects."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Taint:
    """v1 Taint."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What decides where a pod can run; pods with equal needs are interchangeable to placement.

    The hash is kept: placement groups tens of thousands of pods by it.
    """

    amounts: Vector = ZERO
    ports: tuple[int, ...] = ()
    node: str = ""
    """The one node the user asked for, "" for any."""
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    rules: Rules = NO_RULES
    role: str = ""
    """The Mesos role whose offers it takes, "" for the framework's first."""
    dedicated: bool = False
    """It wants an executor instance of its own."""
    claims: tuple[str, ...] = ()
    """The claims it mounts, as namespace/name."""
    volumes: tuple[str, ...] = ()
    """Volumes that its node must offer."""
    volume_node: str = ""
    """The node they are on."""
    new_disk: int = 0
    """Of `amounts.disk`, what volumes are made of: unreserved disk only."""
    revocable: bool = False
    """It may run on revocable resources."""
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        if not self._hash:
            facts = (
                self.amounts,
                self.ports,
                self.node,
                self.selector,
                self.tolerations,
                self.rules,
                self.role,
                self.dedicated,
                self.revocable,
                self.claims,
                self.new_disk,
                self.volumes,
            )
            object.__setattr__(self, "_hash", hash(facts))
        return self._hash


@dataclass(frozen=True, slots=True)
class Pod:
    """What the engine knows of a v1 Pod. `node` is spec.nodeName; `deletion` the grace once it is deleted."""

    uid: str
    namespace: str
    name: str
    needs: Needs = Needs()
    node: str = ""
    restart: str = "Always"
    created: str = ""
    deletion: float | None = None
    done: bool = False
    """Its phase is Succeeded or Failed."""
    labels: Labels = ()
    grace: float = 30.0
    """terminationGracePeriodSeconds."""
    stateful: bool = False
    """Has an identity that must never run twice: nothing replaces it before it is known to be dead."""
    keep_oldest: bool = False
    """Should a task that was replaced come back, it is kept and the replacement ended."""
    on_maintenance: str = "stop-first"
    """start-first, stop-first or stay."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill that is wanted until the task has ended. Seconds since the epoch, seconds of grace."""

    asked_at: float
    grace: float


@dataclass(frozen=True, slots=True)
class Task:
    """One launch of a pod; its record in the store. `asked_node` is the spec.nodeName that the user gave."""

    id: str
    uid: str
    namespace: str
    name: str
    attempt: int
    agent_id: str
    node: str
    executor_id: str
    state: TaskState = TaskState.STAGED
    asked_node: str = ""
    server: str = ""
    launched_at: float = 0.0
    started_at: float = 0.0
    """When it first ran, 0 for never."""
    away_since: float = 0.0
    ended_at: float = 0.0
    failures: int = 0
    """Failures in a row, counted over attempts."""
    kill: Kill | None = None
    volumes: tuple[str, ...] = ()
    """The volumes it holds."""
    superseded: bool = False
    """A newer attempt took its pod over."""
    moving: bool = False
    """Its agent goes into maintenance: its pod is to run elsewhere. Without a kill it runs on until it does."""
    newest: int = 0
    """The highest attempt of its pod, if the record of that one is gone: no task id is used twice."""

    @property
    def over(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Executor:
    """An executor instance. It takes pods of one role, because its own resources are allocated to that role;
    with `pod` (a uid) it is dedicated and takes that one only."""

    id: str
    agent_id: str
    version: str
    role: str = ""
    pod: str = ""
    revocable: bool = False
    """Its own resources are, so those of its pods must be, too."""


class Offer(NamedTuple):
    """One offer to one role, reduced to what we may use of it (unreserved, or reserved for that role)."""

    id: str
    agent_id: str
    hostname: str
    port: int
    amounts: Vector
    ports: Ranges = ()
    attributes: tuple[tuple[str, str], ...] = ()
    executors: tuple[str, ...] = ()
    unavailable_at: float | None = None
    unavailable_for: float | None = None
    """Seconds; None for ever."""
    ip: str = ""
    region: str = ""
    zone: str = ""
    role: str = ""
    spare: Vector = ZERO
    """The revocable part; `amounts` is the other."""
    held: tuple[Held, ...] = ()
    """Reserved disk of ours, volumes and all; not part of `amounts`."""
    raw_disk: int = 0
    """Of `amounts.disk`, what is not reserved at all."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An agent as the master's GET_AGENTS or an offer describes it. `total` None: an offer does not say."""

    id: str
    hostname: str
    port: int
    attributes: tuple[tuple[str, str], ...] = ()
    total: Vector | None = None
    version: str = ""
    active: bool = True
    draining: bool = False
    """Drained or deactivated by its operator: registered, but nothing is offered there."""
    ip: str = ""
    region: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent id we have met. `strikes`: its failures in a row."""

    id: str
    node: str
    strikes: int = 0
    struck_at: float = 0.0
    avoid_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """A v1 Node: what the user wants of it (labels, taints, cordon) and the agent behind it."""

    name: str
    agent_id: str = ""
    address: str = ""
    """hostname:port of the agent; survives a new agent id."""
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    own: tuple[Taint, ...] = ()
    """Taints of ours: the agent drains, or goes into maintenance."""
    window: tuple[float, float] | None = None
    """When maintenance begins and ends (infinity for never), seconds since the epoch."""
    unschedulable: bool = False
    ready: bool = True
    info: AgentInfo | None = None
    missing_since: float = 0.0
