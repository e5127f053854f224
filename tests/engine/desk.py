"""A store and a shell in memory, for tests of the core.

`Desk` performs a frame's effects in order and can crash between any two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core import status
from scheduler.framework.core.claims import Claim, Volume, load
from scheduler.framework.core.entities import Executor, Node, Offer, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.state import State
from scheduler.framework.core.step import step
from scheduler.framework.core.vectors import Vector

MakeOffer = Callable[..., Offer]
"""`make_offer`, which the fixture `offer` gives."""
START = 1_800_000_000.0


class Crash(RuntimeError):
    """The scheduler dies here."""


def pod_object(uid: str, name: str = "", **spec: Any) -> dict[str, Any]:
    body = {"containers": [{"name": "main", "image": "x", "resources": {"requests": {"cpu": "100m"}}}]}
    meta = {"uid": uid, "namespace": "default", "name": name or uid, "creationTimestamp": f"2026-01-01T{uid}"}
    return {"metadata": meta, "spec": {**body, **spec}, "status": {"phase": "Pending"}}


@dataclass
class Desk:
    """The store's objects, the engine's state, and everything that was said to Mesos."""

    policy: Policy = field(default_factory=Policy)
    now: float = START
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    executors: dict[str, Executor] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    """By namespace/name."""
    volumes: dict[str, Volume] = field(default_factory=dict)
    framework_id: str = ""
    echoes: deque[ev.Event] = field(default_factory=deque)
    said: list[fx.Effect] = field(default_factory=list)
    hear: Callable[[fx.Effect], None] = lambda effect: None
    runs: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> list[fx.Effect]:
        """The process starts: nothing but the store's objects is left."""
        self.runs += 1
        self.echoes.clear()
        self.state = State(self.policy, framework_id=self.framework_id)
        self.state.storage = load(self.claims.values(), self.volumes.values())
        self.state.pods = {uid: pod_from_object(obj) for uid, obj in self.pods.items()}
        for node in self.nodes.values():
            self.state.put_node(node)
        for task in self.tasks.values():
            self.state.put_task(task)
        for executor in self.executors.values():
            self.state.put_executor(executor)
        return self.frame(ev.Loaded())

    def frame(self, *events: ev.Event, crash_after: int | None = None) -> list[fx.Effect]:
        """One frame, performed; Crash after so many effects."""
        todo = step(self.state, events, self.now, f"r{self.runs}x")
        saves = [one for one in todo if isinstance(one, fx.SAVES)]
        if crash_after is not None and crash_after == 0 and saves:
            raise Crash  # before the commit: nothing of it happened
        refused = self._commit(saves)
        spoken = [one for one in todo if not isinstance(one, fx.SAVES)]
        for index, effect in enumerate(spoken):
            if crash_after is not None and index >= crash_after - 1:
                raise Crash
            if isinstance(effect, fx.Accept) and refused:
                kept = tuple(one for one in effect.launches if one.task.id not in refused)
                effect = replace(effect, launches=kept)
            self.said.append(effect)
            self.hear(effect)
        for task_id in refused:
            todo += self.frame(ev.LaunchAborted(task_id))
        return todo

    def _commit(self, saves: Iterable[fx.Effect]) -> set[str]:  # noqa: C901 - one line for each effect
        refused: set[str] = set()
        for effect in saves:
            match effect:
                case fx.SaveFramework(framework_id):
                    self.framework_id = framework_id
                case fx.SaveExecutor(executor):
                    self.executors[executor.id] = executor
                case fx.DropExecutor(executor_id):
                    self.executors.pop(executor_id, None)
                case fx.SaveNode(node):
                    self.nodes[node.name] = replace(node, info=None)
                case fx.SaveVolume(volume):
                    self.volumes[volume.id] = volume
                case fx.DropVolume(volume_id):
                    del self.volumes[volume_id]
                case fx.SaveClaim() | fx.ReleaseClaim():
                    self._save_claim(effect)
                case fx.SavePod(pod, change):
                    self._save_pod(pod.uid, change, refused)
                case fx.SaveTask(task):
                    if task.id not in refused:
                        self.tasks[task.id] = task
                case fx.DropTask(task_id):
                    self.tasks.pop(task_id, None)
                case fx.RemovePod(pod):
                    if self.pods.pop(pod.uid, None):
                        self.echoes.append(ev.PodGone(pod.uid))
        return refused

    def _save_pod(self, uid: str, change: fx.PodChange, refused: set[str]) -> None:
        obj = self.pods.get(uid)
        if isinstance(change, fx.Bound) and not status.can_bind(obj, uid):
            refused.add(change.task_id)
            return
        if obj is not None:
            self.put(status.apply(obj, change, self.now))

    def _save_claim(self, effect: fx.SaveClaim | fx.ReleaseClaim) -> None:
        claim = self.claims.get(f"{effect.namespace}/{effect.name}")
        if claim is None or claim.uid != effect.uid:
            return
        if isinstance(effect, fx.SaveClaim):
            self.put_claim(replace(claim, phase=effect.phase))
        elif claim.deleted:
            self.remove_claim(claim)

    # ---- what users do

    def put_claim(self, claim: Claim) -> None:
        self.claims[claim.key] = claim
        self.echoes.append(ev.ClaimChanged(claim))

    def create_claim(self, name: str, uid: str = "", size: int = 64_000) -> None:
        self.put_claim(Claim(uid or f"u-{name}", "default", name, size))

    def delete_claim(self, name: str) -> None:
        """As the API does it: the claim stays until the engine takes its finalizer."""
        self.put_claim(replace(self.claims[f"default/{name}"], deleted=True))

    def remove_claim(self, claim: Claim) -> None:
        del self.claims[claim.key]
        self.echoes.append(ev.ClaimGone(claim.uid))

    def put(self, obj: dict[str, Any]) -> None:
        self.pods[obj["metadata"]["uid"]] = obj
        self.echoes.append(ev.PodChanged(pod_from_object(obj)))

    def create(self, uid: str, **spec: Any) -> None:
        self.put(pod_object(uid, **spec))

    def delete(self, uid: str, grace: int = 30) -> None:
        """As the API does it: at once when nothing can run, else by deletionTimestamp."""
        obj = self.pods[uid]
        over = obj["status"]["phase"] in status.FINAL_PHASES
        if over or grace == 0 or not obj["spec"].get("nodeName"):
            del self.pods[uid]
            self.echoes.append(ev.PodGone(uid))
        else:
            marks = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
            self.put({**obj, "metadata": {**obj["metadata"], **marks}})

    def watch(self) -> list[fx.Effect]:
        """Delivers what the watch has to tell."""
        events = list(self.echoes)
        self.echoes.clear()
        return self.frame(*events)

    def later(self, seconds: float) -> list[fx.Effect]:
        self.now += seconds
        return self.frame(ev.Tick())

    # ---- shorthands for tests of single rules

    def subscribe(self) -> list[fx.Effect]:
        return self.frame(ev.Subscribed("F1"))

    def offer(self, *offers: Offer) -> list[fx.Effect]:
        return self.frame(ev.OffersReceived(offers))

    def tell(self, task_id: str, state: str, **more: Any) -> list[fx.Effect]:
        """A status update from the executor, unless `more` says otherwise."""
        task = self.tasks.get(task_id)
        facts = {"agent_id": task.agent_id if task else "A1", "uuid": "u", "source": "EXECUTOR", **more}
        return self.frame(ev.TaskReported(task_id, TaskState[state], **facts))

    def phase(self, uid: str) -> str:
        return str(self.pods[uid]["status"]["phase"])


def make_offer(
    offer_id: str, agent_id: str = "A1", cpus: int = 4000, mem: int = 8_192_000, **more: Any
) -> Offer:
    facts = {"ports": ((31000, 32000),), "hostname": f"host-{agent_id.lower()}", "port": 5051}
    facts |= {"raw_disk": 20_000_000, **more}
    return Offer(id=offer_id, agent_id=agent_id, amounts=Vector(cpus, mem, 20_000_000), **facts)


def only(effects: Iterable[fx.Effect], kind: type[Any]) -> list[Any]:
    """The effects of one kind."""
    return [one for one in effects if isinstance(one, kind)]
