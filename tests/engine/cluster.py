"""A Mesos cluster in memory, for tests of the core: what it does is the rule, not the wish.

`Cluster` is the master and its agents, with the rules of a real one about offers, launches, updates and
acknowledgements; it asserts what must never happen.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field, replace

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.claims import Held
from scheduler.framework.core.entities import AgentInfo, Offer, Task
from scheduler.framework.core.lifecycle import LIVE, TERMINAL, TaskState
from scheduler.framework.core.vectors import ZERO, Vector
from tests.engine.desk import Desk


@dataclass
class MesosTask:
    task: Task
    amounts: Vector
    state: TaskState = TaskState.STAGED
    updates: deque[ev.TaskReported] = field(default_factory=deque)
    """Not acknowledged yet; only the first is in flight."""


@dataclass
class MesosAgent:
    info: AgentInfo
    total: Vector
    reachable: bool = True
    deaf: bool = False
    """Kills do not reach it, and nobody is told."""
    executors: dict[str, Vector] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    tasks: dict[str, MesosTask] = field(default_factory=dict)
    disks: dict[Held, int] = field(default_factory=dict)
    """Reserved disk with our labels, volumes and all: how much."""

    def held(self) -> dict[str, str]:
        """Volumes in use: by which task."""
        found: dict[str, str] = {}
        for one in self.tasks.values():
            if one.state in LIVE:
                for volume in one.task.volumes:
                    assert volume not in found, f"{volume} is mounted twice"
                    found[volume] = one.task.id
        return found

    def free(self) -> Vector:
        left = self.total
        for one in [*self.executors.values(), *(t.amounts for t in self.tasks.values() if t.state in LIVE)]:
            left = left - one
        return left - Vector(disk=sum(self.disks.values()))


class Cluster:
    """The master, its agents, and the one stream of events to the scheduler."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        desk.hear = self.hear
        self.agents: dict[str, MesosAgent] = {}
        self.offers: dict[str, Offer] = {}
        self.used: set[str] = set()
        self.delivered: set[str] = set()
        self.stream: deque[ev.Event] = deque()
        self.launched: set[str] = set()
        self.acked: dict[str, int] = defaultdict(int)
        self.sent: dict[str, int] = defaultdict(int)
        self.connected = False
        self.heard = False
        """The scheduler has read SUBSCRIBED: from then on its calls count."""
        self.inverse: set[str] = set()
        """Inverse offers without an answer."""
        self.windows: dict[str, tuple[float, float]] = {}
        """Planned maintenance by agent: when, how long."""
        self.number = 0

    def next_id(self, letter: str) -> str:
        self.number += 1
        return f"{letter}{self.number}"

    def add_agent(self, cpus: int = 4000) -> None:
        name = self.next_id("S")
        info = AgentInfo(name, f"host-{name.lower()}", 5051)
        self.agents[name] = MesosAgent(info, Vector(cpus, 4_096_000, 1_000_000))

    # ---- the stream

    def subscribe(self) -> None:
        """A new stream: old offers are gone without a word, updates come again."""
        self.disconnect()
        self.connected = True
        self.stream.append(ev.Subscribed("F1"))
        for agent in self.agents.values():
            for one in agent.tasks.values():
                if one.updates and agent.reachable:
                    self._send(one.updates[0])

    def disconnect(self) -> None:
        self.stream.clear()
        self.offers.clear()
        self.inverse.clear()
        self.connected = self.heard = False

    def _send(self, event: ev.Event) -> None:
        if not self.connected:
            return
        if isinstance(event, ev.TaskReported) and event.uuid:
            self.sent[event.uuid] += 1
        self.stream.append(event)

    def deliver(self, count: int, crash_after: int | None = None) -> None:
        events = [self.stream.popleft() for _ in range(min(count, len(self.stream)))]
        offers: dict[str, None] = {}
        for one in events:
            if isinstance(one, ev.OffersReceived):
                offers |= dict.fromkeys(offer.id for offer in one.offers)
            elif isinstance(one, ev.OfferRescinded):
                offers.pop(one.offer_id, None)
            elif isinstance(one, ev.Subscribed):
                offers.clear()
                self.heard = True
        self.desk.frame(*events, crash_after=crash_after)
        if self.desk.state.connected and self.heard:
            unanswered = [one for one in offers if one not in self.used]
            assert not unanswered, f"offers neither accepted nor declined: {unanswered}"
        assert not self.desk.state.offers

    # ---- what agents and master do

    def allocate(self) -> None:
        if not self.connected:
            return
        for name, agent in self.agents.items():
            if not agent.reachable:
                continue
            out = [one.amounts for one in self.offers.values() if one.agent_id == name]
            left = agent.free()
            for amounts in out:
                left = left - amounts
            if left.cpus > 0 and left.mem > 0:
                window = self.windows.get(name, (None, None))
                offer = Offer(
                    *(self.next_id("O"), name, agent.info.hostname, 5051, left),
                    executors=tuple(agent.executors),
                    unavailable_at=window[0],
                    unavailable_for=window[1],
                    held=self._held(agent),
                    raw_disk=left.disk,
                )
                self.offers[offer.id] = offer
                self._send(ev.OffersReceived((offer,)))

    def _held(self, agent: MesosAgent) -> tuple[Held, ...]:
        """Reserved disk that nobody uses and that is in no other offer."""
        away = {
            one for offer in self.offers.values() if offer.agent_id == agent.info.id for one in offer.held
        }
        return tuple(one for one in agent.disks if one.id not in agent.held() and one not in away)

    def plan(self, agent: MesosAgent, start: float, duration: float) -> None:
        """Maintenance: its offers are rescinded, what we have there is asked back."""
        self.windows[agent.info.id] = (start, duration)
        self._renew(agent)
        if self.connected and agent.reachable and any(one.state in LIVE for one in agent.tasks.values()):
            name = self.next_id("I")
            self.inverse.add(name)
            offer = ev.InverseOffer(name, agent.info.id, start, duration)
            self._send(ev.InverseOffersReceived((offer,)))

    def cancel(self, agent: MesosAgent) -> None:
        self.windows.pop(agent.info.id, None)
        self._renew(agent)

    def _renew(self, agent: MesosAgent) -> None:
        for offer in [one for one in self.offers.values() if one.agent_id == agent.info.id]:
            self.rescind(offer.id)

    def rescind(self, offer_id: str) -> None:
        del self.offers[offer_id]
        self._send(ev.OfferRescinded(offer_id))

    def update(
        self, agent: MesosAgent, one: MesosTask, to: TaskState, source: str = "EXECUTOR", reason: str = ""
    ) -> None:
        one.state = to
        report = ev.TaskReported(
            one.task.id, to, agent.info.id, one.task.executor_id, self.next_id("u"), source, reason
        )
        one.updates.append(report)
        if len(one.updates) == 1 and agent.reachable:
            self._send(report)

    def kill_executor(self, agent: MesosAgent, executor_id: str) -> None:
        del agent.executors[executor_id]
        agent.dead.add(executor_id)
        self._send(ev.ExecutorLost(agent.info.id, executor_id))
        for one in agent.tasks.values():
            if one.task.executor_id == executor_id and one.state in LIVE:
                self.update(agent, one, TaskState.FAILED, "AGENT", "EXECUTOR_TERMINATED")

    def partition(self, agent: MesosAgent) -> None:
        agent.reachable = False
        for offer in [one for one in self.offers.values() if one.agent_id == agent.info.id]:
            self.rescind(offer.id)
        self._send(ev.AgentLost(agent.info.id))
        for one in agent.tasks.values():
            if one.state in LIVE:
                self._answer(agent, one.task.id, TaskState.UNREACHABLE, "AGENT_REMOVED")

    def heal(self, agent: MesosAgent) -> None:
        agent.reachable = True
        for one in agent.tasks.values():
            if one.state in LIVE:
                self._answer(agent, one.task.id, one.state, "AGENT_REREGISTERED")
            if one.updates:
                self._send(one.updates[0])

    def _answer(self, agent: MesosAgent | None, task_id: str, state: TaskState, reason: str) -> None:
        name = agent.info.id if agent else ""
        self._send(ev.TaskReported(task_id, state, name, source="MASTER", reason=reason))

    def rebirth(self, agent: MesosAgent) -> None:
        """The machine starts anew: its agent has another id, and Mesos forgets the old one."""
        if agent.reachable:
            self.partition(agent)
        del self.agents[agent.info.id]
        self.windows.pop(agent.info.id, None)
        name = self.next_id("S")
        disks = {one: size for one, size in agent.disks.items() if one.id}
        self.agents[name] = MesosAgent(replace(agent.info, id=name), agent.total, disks=disks)

    def list_agents(self) -> None:
        """What the master's operators see."""
        infos = [replace(one.info, total=one.total) for one in self.agents.values() if one.reachable]
        self.desk.frame(ev.AgentsListed(tuple(infos)))

    # ---- calls

    def hear(self, effect: fx.Effect) -> None:  # noqa: C901 - one line for each effect
        if not self.heard:
            if isinstance(effect, fx.Accept):
                for launch in effect.launches:
                    self._assert_saved(launch)
            return  # said into a connection that is gone
        match effect:
            case fx.Accept():
                self._accept(effect)
            case fx.Decline(ids):
                for offer_id in ids:
                    self._use(offer_id)
            case fx.KillTask(task_id, agent_id):
                self._kill(task_id, agent_id)
            case fx.ShutdownExecutor(executor_id, agent_id):
                self._shutdown(executor_id, agent_id)
            case fx.AnswerInverse(ids):
                for offer_id in ids:
                    self.inverse.discard(offer_id)
            case fx.Acknowledge(agent_id, task_id, uuid):
                self._acknowledged(agent_id, task_id, uuid)
            case fx.Reconcile(tasks):
                self._reconcile(tasks)

    def _use(self, offer_id: str) -> Offer | None:
        assert offer_id not in self.used, f"{offer_id} was answered twice"
        self.used.add(offer_id)
        return self.offers.pop(offer_id, None)

    def _accept(self, call: fx.Accept) -> None:
        offers = [self._use(one) for one in call.offer_ids]
        agent = self.agents.get(call.agent_id)
        offered = ZERO
        for offer in offers:
            if offer is not None:
                assert offer.agent_id == call.agent_id
                offered = offered + offer.amounts
        held = {one for offer in offers if offer is not None for one in offer.held}
        if None not in offers and self.connected:
            assert agent is not None
            for one in call.doomed:
                assert one in held, "what was not offered cannot be destroyed"
                del agent.disks[one]
        for launch in call.launches:
            self._assert_saved(launch)
            if agent is None or None in offers or not self.connected:
                self._answer(agent, launch.task.id, TaskState.DROPPED, "INVALID_OFFERS")
                continue
            self._make_volumes(agent, launch, held)
            offered = offered - Vector(disk=sum(one.volume.size for one in launch.volumes if one.create))
            if launch.executor.id in agent.dead:
                self._answer(agent, launch.task.id, TaskState.DROPPED, "EXECUTOR_TERMINATED")
                continue
            if launch.executor.id not in agent.executors:
                agent.executors[launch.executor.id] = self.desk.policy.executor
                offered = offered - self.desk.policy.executor
            offered = offered - launch.amounts
            assert offered.covers(ZERO), "more was launched than was offered"
            assert launch.executor.agent_id == call.agent_id
            agent.tasks[launch.task.id] = MesosTask(launch.task, launch.amounts)

    def _make_volumes(self, agent: MesosAgent, launch: fx.Launch, held: set[Held]) -> None:
        for use in launch.volumes:
            volume = use.volume
            assert volume.id in self.desk.volumes, "made before it was saved"
            name = Held(volume.role, volume.id, volume.claim_uid, volume.claim_key)
            if use.create:
                assert name not in agent.disks
                agent.disks[name] = volume.size
            else:
                assert name in held, f"{launch.task.id} uses a volume that was not offered"
                assert volume.id not in agent.held(), f"{volume.id} is mounted twice"

    def _assert_saved(self, launch: fx.Launch) -> None:
        task = launch.task
        saved = self.desk.tasks[task.id]
        assert saved.state is TaskState.STAGED, "accepted before it was saved"
        assert self.desk.pods[task.uid]["spec"]["nodeName"] == task.node
        assert launch.executor.id in self.desk.executors
        assert task.id not in self.launched, f"{task.id} was used twice"
        self.launched.add(task.id)
        alive = [one.task.id for one in self.alive(task.uid) if not self.desk.tasks[one.task.id].moving]
        assert not alive, f"{task.id} is launched while {alive} may run"

    def alive(self, uid: str) -> list[MesosTask]:
        """Tasks of a pod that run where Mesos can see them."""
        return [
            one
            for agent in self.agents.values()
            if agent.reachable
            for one in agent.tasks.values()
            if one.task.uid == uid and one.state in LIVE
        ]

    def _kill(self, task_id: str, agent_id: str) -> None:
        agent = self.agents.get(agent_id)
        one = agent.tasks.get(task_id) if agent else None
        if agent is None or one is None or not agent.reachable:
            self._reconcile(((task_id, agent_id),))
        elif one.state in LIVE and not agent.deaf:
            self.update(agent, one, TaskState.KILLED)

    def _shutdown(self, executor_id: str, agent_id: str) -> None:
        agent = self.agents.get(agent_id)
        if agent is None or not agent.reachable or executor_id not in agent.executors:
            return
        for one in agent.tasks.values():
            assert one.task.executor_id != executor_id or one.state not in LIVE, (
                "an executor with pods was ended"
            )
        del agent.executors[executor_id]
        agent.dead.add(executor_id)
        self._send(ev.ExecutorLost(agent_id, executor_id))

    def _acknowledged(self, agent_id: str, task_id: str, uuid: str) -> None:
        self.acked[uuid] += 1
        assert self.acked[uuid] <= self.sent[uuid], "an update was acknowledged more often than it came"
        agent = self.agents.get(agent_id)
        if agent is None:
            return
        one = agent.tasks[task_id]
        record = self.desk.tasks.get(task_id)
        if one.updates and one.updates[0].uuid == uuid:
            if one.updates[0].state in TERMINAL:
                assert record is None or record.state in TERMINAL, "an end was acknowledged and not saved"
            one.updates.popleft()
            if one.updates and agent.reachable:
                self._send(one.updates[0])

    def _reconcile(self, tasks: tuple[tuple[str, str], ...]) -> None:
        if not tasks:
            for agent in self.agents.values():
                for one in agent.tasks.values():
                    if one.state in LIVE and agent.reachable:
                        self._answer(agent, one.task.id, one.state, "RECONCILIATION")
        for task_id, agent_id in tasks:
            agent = self.agents.get(agent_id)
            if agent is None:
                self._answer(None, task_id, TaskState.UNKNOWN, "RECONCILIATION")
            elif not agent.reachable:
                self._answer(agent, task_id, TaskState.UNREACHABLE, "RECONCILIATION")
            elif task_id not in agent.tasks:
                self._answer(agent, task_id, TaskState.GONE, "RECONCILIATION")
            elif agent.tasks[task_id].state in LIVE:
                self._answer(agent, task_id, agent.tasks[task_id].state, "RECONCILIATION")
