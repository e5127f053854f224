"""What the engine knows: pods, tasks, executors, agents, nodes, offers. One writer owns one State.

Records are frozen; State holds them in dictionaries and is changed by `step` alone, in place, because a copy of
50,000 pods for each event would cost more than all decisions. A frame whose save fails ends the process, so a
state that ran ahead of the store is never used. Everything needed after a crash is in Task, Executor and
the objects of the store; the rest (offers, timers, strikes) begins empty at each start.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import Final, NamedTuple

from scheduler.framework.core.claims import Held, Storage
from scheduler.framework.core.lifecycle import TERMINAL, TaskState
from scheduler.framework.core.placement_rules import NO_RULES, Labels, Rules
from scheduler.framework.core.placement_topology import Kind, Residents
from scheduler.framework.core.vectors import ZERO, Ranges, Vector

EXECUTOR: Final = Vector(cpus=100, mem=64_000)


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the core. All times in seconds."""

    executor_version: str = "0"
    """Hash over all that makes an ExecutorInfo; part of every executor id."""
    executor: Vector = EXECUTOR
    """Overhead of one executor instance."""
    roles: tuple[str, ...] = ("",)
    """The Mesos roles of the framework; the first is that of pods which ask for none."""
    idle: float = 900.0
    """Seconds without a pod after which an executor leaves; infinity for never."""
    max_pods: int = 110
    """Pods on one node, as the kubelet's default."""
    placement: str = "binpack"
    """Or spread; what pods get that do not say."""
    frame_pods: int = 200
    frame_work: int = 40_000
    """Pods launched and nodes looked at in one frame; the rest is for the next one, so that none takes long."""
    long_filter: float = 3600.0
    launch_overdue: float = 60.0
    kill_retry: float = 5.0
    kill_retry_max: float = 60.0
    away: float = 300.0
    """How long a pod without a toleration of its own waits for an unreachable task."""
    reconcile_first: float = 5.0
    reconcile_max: float = 300.0
    implicit_every: float = 600.0
    dismiss_again: float = 30.0
    """When an executor that is to leave is told once more."""
    revive_first: float = 15.0
    revive_max: float = 300.0
    report_after: float = 1.0
    report_again: float = 60.0
    maintenance_lead: float = 3600.0
    """So long before an agent's maintenance its node takes no more pods and its pods begin to move."""
    maintenance_stop: float = 120.0
    """So long before, beside their own grace, pods move whose turn has not come."""
    maintenance_moves: int = 5
    """Pods that move at once until then."""
    maintenance_again: float = 60.0
    """When a declined inverse offer may come again."""
    stray_grace: float = 60.0
    """How long reserved disk of ours that has no record is left alone."""
    nodes_gone: float = 40.0
    """An agent that the master no longer lists is NotReady after this long (a master that failed over
    learns of its agents one by one)."""


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


class Alarm(Enum):
    """Why a timer was set. A timer that is no longer needed finds nothing to do."""

    OVERDUE = auto()
    KILL = auto()
    AWAY = auto()
    QUEUE = auto()
    REPORT = auto()
    RECONCILE = auto()
    IMPLICIT = auto()
    REVIVE = auto()
    TURN = auto()
    EVICT = auto()
    MAINTENANCE = auto()


class Left(NamedTuple):
    """What an agent's last offers to a role left there."""

    free: Vector = ZERO
    ports: Ranges = ()


@dataclass(slots=True)
class Asking:
    """How one role stands with the allocator. `returned`: resources were given back since its last REVIVE, so
    filters may hide them. `revives` in a row without a new wish, the last one's time, the next one's."""

    suppressed: bool = False
    returned: bool = False
    revives: int = 0
    revived_at: float = 0.0
    next_revive: float = 0.0
    turn: tuple[str, ...] = ()
    """Waiting pods that the last frame did not get to, in their order; their offers are kept for the next one."""
    planner: object = None
    """What placement keeps for that frame, and of which offers it was made."""
    kept: frozenset[str] = frozenset()
    stamp: tuple[int, int] = (0, 0)
    short: bool = False
    """A pod of this turn fitted nowhere."""
    news: bool = False
    """Something new came up during the turn."""


@dataclass(slots=True)
class Waiting:
    """A pod in the queue: not before when, since when it waits, what was last said about it."""

    not_before: float
    since: float
    said: str = ""
    said_at: float = 0.0


@dataclass(slots=True)
class Question:
    """Something asked of Mesos until it answers (an explicit reconciliation, a kill): how often, when next."""

    tries: int
    next_at: float


@dataclass(slots=True)
class State:
    """See the module. Indexes: `current` is the newest task of a pod, `by_pod` all of them."""

    policy: Policy = field(default_factory=Policy)
    framework_id: str = ""
    connected: bool = False
    asking: dict[str, Asking] = field(default_factory=dict)
    """By role; every role of the policy has one."""
    limits: dict[str, str] = field(default_factory=dict)
    """What quota limits roles to, in words."""
    pods: dict[str, Pod] = field(default_factory=dict)
    unreadable: frozenset[tuple[str, str]] = frozenset()
    """Namespace and name of pods that were damaged in the store when it was loaded: what runs of them runs on."""
    tasks: dict[str, Task] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    by_pod: dict[str, set[str]] = field(default_factory=dict)
    by_agent: dict[str, set[str]] = field(default_factory=dict)
    hosted: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many tasks that are not over each executor has, by agent; none has 0."""
    attempts: dict[str, int] = field(default_factory=dict)
    pending: dict[str, Waiting] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    left: dict[str, dict[str, Left]] = field(default_factory=dict)
    """By agent id and role."""
    nodes: dict[str, Node] = field(default_factory=dict)
    sighted: dict[str, tuple[Node, Offer]] = field(default_factory=dict)
    described: dict[str, tuple[Node, AgentInfo]] = field(default_factory=dict)
    """By agent id: its Node as it was made of its last offer, and of its last description."""
    node_names: dict[str, str] = field(default_factory=dict)
    """Node by agent id and by address; may be out of date, the Node itself decides."""
    executors: dict[str, Executor] = field(default_factory=dict)
    executors_of: dict[str, set[str]] = field(default_factory=dict)
    empty_since: dict[str, float] = field(default_factory=dict)
    """By executor id: when its last task was over, or when it was made. Unknown after a restart of ours."""
    unlisted: set[str] = field(default_factory=set)
    """Executors that ran and that their agents' last offers do not name: dead, but for word of it."""
    dismissed: dict[str, float] = field(default_factory=dict)
    """By executor id: when it was last told to leave."""
    registered: frozenset[str] = frozenset()
    """The agents of the master's last list."""
    questions: dict[str, Question] = field(default_factory=dict)
    storage: Storage = field(default_factory=Storage)
    evictions: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Pods, by uid, whose nodes have NoExecute taints: since when, how many seconds they tolerate them."""
    kills: dict[str, Question] = field(default_factory=dict)
    """The wanted kills that were sent in this run."""
    to_move: dict[str, None] = field(default_factory=dict)
    """Tasks whose pods are to leave before a maintenance, in their order."""
    moving: set[str] = field(default_factory=set)
    """Pods, by uid, that leave and do not run elsewhere yet; may hold some that do."""
    window_timers: dict[str, float] = field(default_factory=dict)
    """By agent id: when its next timer for maintenance is due."""
    window_told: dict[str, float] = field(default_factory=dict)
    """By agent id: when an offer or an inverse offer last spoke of maintenance there."""
    removed: set[str] = field(default_factory=set)
    """Pods that we removed; what the watch still tells of them is old."""
    residents: Residents = field(default_factory=Residents)
    node_changes: int = 0
    touched: set[str] = field(default_factory=set)
    """Agents of which tasks or executors changed since offers were last answered."""
    timers: list[tuple[float, int, Alarm, str]] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    _sequence: int = 0

    def __post_init__(self) -> None:
        self.asking = {role: Asking() for role in self.policy.roles}

    def role_of(self, needs: Needs) -> str:
        return needs.role or self.policy.roles[0]

    def put_task(self, task: Task) -> None:
        self.residents.dirty.add(task.uid)
        self.touched.add(task.agent_id)
        before = self.tasks.get(task.id)
        if before is not None:
            self._count(before, -1)
        else:
            others = self.by_pod.setdefault(task.uid, set())
            if all(task.attempt > self.tasks[one].attempt for one in others):
                self.current[task.uid] = task.id
            others.add(task.id)
            self.by_agent.setdefault(task.agent_id, set()).add(task.id)
        self.attempts[task.uid] = max(task.attempt, task.newest, self.attempts.get(task.uid, 0))
        self._count(task, 1)
        self.tasks[task.id] = task

    def _count(self, task: Task, change: int) -> None:
        if task.over:
            return
        counts = self.hosted.setdefault(task.agent_id, {})
        counts[task.executor_id] = counts.get(task.executor_id, 0) + change
        if not counts[task.executor_id]:
            del counts[task.executor_id]
            if not counts:
                del self.hosted[task.agent_id]

    def drop_task(self, task_id: str) -> None:
        task = self.tasks.pop(task_id, None)
        if task is None:
            return
        self.residents.dirty.add(task.uid)
        self.touched.add(task.agent_id)
        self._count(task, -1)
        self.questions.pop(task_id, None)
        self.kills.pop(task_id, None)
        _discard(self.by_pod, task.uid, task_id)
        _discard(self.by_agent, task.agent_id, task_id)
        if self.current.get(task.uid) == task_id:
            del self.current[task.uid]
        if task.uid not in self.by_pod and task.uid not in self.pods:
            self.attempts.pop(task.uid, None)

    def task_of(self, uid: str) -> Task | None:
        """The newest task of a pod, whatever its state."""
        task_id = self.current.get(uid)
        return self.tasks[task_id] if task_id else None

    def tasks_of(self, uid: str) -> list[Task]:
        return [self.tasks[task_id] for task_id in sorted(self.by_pod.get(uid, ()))]

    def resident(self, uid: str) -> tuple[Kind, tuple[str, ...]] | None:
        """What rules about pods see of one: its kind, and the nodes its tasks are on."""
        pod = self.pods.get(uid)
        nodes = tuple(one.node for one in self.tasks_of(uid) if not one.over)
        if pod is None or not nodes:
            return None
        return Kind(pod.namespace, pod.labels, pod.needs.rules.away, pod.deletion is not None), nodes

    def put_node(self, node: Node) -> None:
        self.nodes[node.name] = node
        self.node_changes += 1
        for key in (node.agent_id, node.address):
            if key:
                self.node_names[key] = node.name

    def put_executor(self, executor: Executor) -> None:
        self.executors[executor.id] = executor
        self.touched.add(executor.agent_id)
        self.executors_of.setdefault(executor.agent_id, set()).add(executor.id)

    def drop_executor(self, executor_id: str) -> bool:
        executor = self.executors.pop(executor_id, None)
        if executor is None:
            return False
        self.touched.add(executor.agent_id)
        _discard(self.executors_of, executor.agent_id, executor_id)
        self.empty_since.pop(executor_id, None)
        self.unlisted.discard(executor_id)
        self.dismissed.pop(executor_id, None)
        return True

    def executor_on(
        self, agent_id: str, role: str, now: float, *, revocable: bool = False
    ) -> Executor | None:
        """The shared instance of our version that takes new pods of a role on an agent: none that may be about to
        leave. One without tasks is used for half of the time after which it leaves."""
        wanted = (self.policy.executor_version, role, "", revocable)
        busy = self.hosted.get(agent_id, {})
        for executor_id in sorted(self.executors_of.get(agent_id, ())):
            one = self.executors[executor_id]
            if (one.version, one.role, one.pod, one.revocable) != wanted:
                continue
            if executor_id in self.unlisted or executor_id in self.dismissed:
                continue
            since = self.empty_since.get(executor_id, -inf)
            if executor_id in busy or self.policy.idle == inf or now <= since + self.policy.idle / 2:
                return one
        return None

    def fresh(self) -> int:
        """A number not used before in this run."""
        self._sequence += 1
        return self._sequence

    def set_timer(self, at: float, alarm: Alarm, subject: str = "") -> None:
        heapq.heappush(self.timers, (at, self.fresh(), alarm, subject))

    def due(self, now: float) -> list[tuple[Alarm, str]]:
        """Takes all timers that are due."""
        found: list[tuple[Alarm, str]] = []
        while self.timers and self.timers[0][0] <= now:
            _, _, alarm, subject = heapq.heappop(self.timers)
            found.append((alarm, subject))
        return found

    def next_timer(self) -> float | None:
        return self.timers[0][0] if self.timers else None


def _discard(index: dict[str, set[str]], key: str, value: str) -> None:
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]
