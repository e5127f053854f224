"""What the engine knows, all of it. One writer owns one State.

The entities are frozen; State holds them in dictionaries and is changed by `step` alone, in place, because a copy of
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
from typing import NamedTuple

from scheduler.framework.core.claims import Storage
from scheduler.framework.core.entities import Agent, AgentInfo, Executor, Needs, Node, Offer, Pod, Task
from scheduler.framework.core.placement_topology import Kind, Residents
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.vectors import ZERO, Ranges, Vector


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
