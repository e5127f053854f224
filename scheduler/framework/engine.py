"""The shell around the core: one queue, one writer, effects in their order.

Everything that happens is put into the queue; the engine takes all there is, lets the core decide in one frame,
commits the frame's saves, and only then speaks to Mesos. Timers are the core's: the shell only wakes it in time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from scheduler.framework import records
from scheduler.framework.core import effects as fx
from scheduler.framework.core.claims import load as storage
from scheduler.framework.core.entities import Task
from scheduler.framework.core.events import Event, LaunchAborted, Loaded, TaskReported
from scheduler.framework.core.lifecycle import AWAY, TERMINAL, TaskState
from scheduler.framework.core.pods import node_from_object
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.state import State
from scheduler.framework.core.step import step
from scheduler.framework.core.verdict import describe
from scheduler.framework.mesos import Mesos, Payload
from scheduler.framework.publishing import Publisher
from scheduler.framework.saving import Saver
from scheduler.framework.supplies import objects_of, supplies_of
from scheduler.framework.volumeobjects import CLAIMS, VOLUMES, claim_from_object, volume_from_object
from scheduler.framework.warm import Warm
from scheduler.store import Entry, Key, Store, StoreError

log = logging.getLogger(__name__)

Json = dict[str, Any]

TICK = 0.001
"""Seconds that a timer is late: the loop rounds to milliseconds, and frame after frame would find it not yet due."""

TURN = 2000
"""Objects that are taken up before others have their turn."""

BACKLOG = 10_000
"""Events that may wait for a frame; then Mesos' are left where they are until the engine has caught up."""


class Halted(Exception):
    """Mesos refused or removed the framework, or took it over; the message says which."""


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the lists the state was loaded from: watches go on from there."""

    pods: int
    nodes: int
    claims: int


async def load(
    store: Store, policy: Policy, warm: Warm | None = None
) -> tuple[State, Versions, str, dict[str, Json]]:
    """The state as the store has it, the secret of node tokens, the ExecutorInfos. `warm`: what was read ahead.

    Raises StoreError for records that cannot be read, and when there are tasks but no framework id.
    """
    state, warm = State(policy), warm or Warm()
    async for entry in _gently(store.list(records.TASKS)[0]):
        state.put_task(warm.tasks.take(entry))
    infos = {}
    for entry in store.list(records.EXECUTORS)[0]:
        executor, infos_of = records.executor_from_object(entry.obj)
        state.put_executor(executor)
        infos[executor.id] = infos_of
    framework = store.get(records.FRAMEWORK)
    state.framework_id = framework.obj.get("frameworkId", "") if framework else ""
    if not state.framework_id and any(not task.over for task in state.tasks.values()):
        raise StoreError(
            "the store has tasks but no framework id: a new framework would lose them; restore the store's backup"
        )
    secret = await _secret(store, framework)
    pods, pods_version = store.list("pods")
    nodes, nodes_version = store.list("nodes")
    async for entry in _gently(pods):
        pod = warm.pods.take(entry)
        state.pods[pod.uid] = pod
    state.unreadable = frozenset(key[1:] for key in store.quarantined if key.resource == "pods")
    for entry in nodes:
        state.put_node(node_from_object(entry.obj))
    claims, claims_version = store.list(CLAIMS)
    volumes = [volume_from_object(entry.obj) for entry in store.list(VOLUMES)[0]]
    state.storage = storage((claim_from_object(entry.obj) for entry in claims), volumes)
    return state, Versions(pods_version, nodes_version, claims_version), secret, infos


async def _gently(entries: list[Entry]) -> AsyncIterator[Entry]:
    """All of them, and now and then somebody else's turn: reads are served meanwhile, and the parent hears of us."""
    for number, entry in enumerate(entries):
        yield entry
        if number % TURN == TURN - 1:
            await asyncio.sleep(0)


async def _secret(store: Store, framework: Entry | None) -> str:
    """What node tokens are derived from; made once."""
    if framework is not None and framework.obj.get("nodeTokenSecret"):
        return str(framework.obj["nodeTokenSecret"])
    secret = secrets.token_hex(32)

    def add(old: Entry | None) -> Json:
        obj = dict(old.obj) if old else {"metadata": {"name": records.FRAMEWORK.name}}
        return {**obj, "nodeTokenSecret": secret}

    await store.commit((records.FRAMEWORK, add), patient=True)
    return secret


def node_token(secret: str, executor_id: str) -> str:
    """The bearer token of one executor's node server; no other executor's is known to it."""
    return hmac.new(secret.encode(), executor_id.encode(), hashlib.sha256).hexdigest()


def delay_until(at: float, now: float) -> float:
    """How long the loop's timer must be for `at` to have come when it fires: never too short, unless `at` is past."""
    return at - now + TICK if at > now else 0.0


def _log_report(event: TaskReported) -> None:
    """What is not a pod's ordinary way."""
    quiet = event.state is TaskState.FINISHED or event.reason == "RECONCILIATION"
    level = logging.DEBUG if quiet else logging.INFO
    log.log(level, "task %s: %s", event.task_id, describe(event))


def _missing_secrets(task: Task, names: tuple[str, ...]) -> fx.Publish:
    """As the kubelet says it: the image may be had without."""
    message = (
        f"Unable to retrieve some image pull secrets ({', '.join(names)}); "
        "attempting to pull the image may not succeed."
    )
    return fx.Publish(
        *(task.uid, task.namespace, task.name), "Warning", "FailedToRetrieveImagePullSecret", message
    )


class Engine:
    """Owns the state. `put` from anywhere on the loop; `run` until it is stopped, or Halted or StoreFailed."""

    def __init__(
        self,
        store: Store,
        state: State,
        mesos: Mesos,
        saver: Saver,
        publisher: Publisher,
        *,
        secret: str,
        clock: Callable[[], float] = time.time,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self.state = state
        self._store = store
        self._mesos = mesos
        self._saver = saver
        self._publisher = publisher
        self._secret = secret
        self._clock = clock
        self._token = token
        self._queue: list[Event] = [Loaded()]
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._illegal = 0
        self._stopping = False
        self._held = False
        self._mute = False
        self._may_act = asyncio.Event()
        self._may_act.set()
        mesos.objects_of = self._objects_of

    def _objects_of(self, task_id: str, executor_id: str) -> Json | None:
        """For an executor whose pod waits for some; None for a task that is not its own."""
        task = self.state.tasks.get(task_id)
        if task is None or task.over or task.executor_id != executor_id:
            return None
        entry = self._store.get(Key("pods", task.namespace, task.name))
        if entry is None or entry.obj["metadata"].get("uid") != task.uid:
            return None
        return objects_of(entry.obj, self._store)

    @property
    def mesos(self) -> Mesos:
        """The door, which counts what goes through it."""
        return self._mesos

    def stop(self) -> None:
        """Ends `run` after the frame at hand; of which nothing is said if it is uncertain whether we lead."""
        self._stopping, self._mute = True, not self._may_act.is_set()
        self._may_act.set()
        self._wake.set()

    def pause(self, on: bool) -> None:
        """Decides nothing and tells Mesos nothing, for as long as it is uncertain whether this scheduler leads."""
        if on and self._may_act.is_set():
            log.warning("no more decisions until it is certain again that this scheduler leads")
            self._may_act.clear()
        elif not on and not self._may_act.is_set():
            log.info("deciding again")
            self._may_act.set()

    def put(self, event: Event) -> None:
        """Something happened."""
        self._queue.append(event)
        self._wake.set()
        if len(self._queue) >= BACKLOG and not self._held:
            log.warning("%d events wait for the engine: taking no more from Mesos meanwhile", BACKLOG)
            self._held = True
            self._mesos.hold(True)

    async def run(self) -> None:
        """Frames, until stopped."""
        try:
            while not self._stopping:
                await self._may_act.wait()
                if self._stopping:
                    return
                events, self._queue = self._queue, []
                self._wake.clear()
                await self._frame(events)
                if self._held and len(self._queue) < BACKLOG:
                    self._held = False
                    self._mesos.hold(False)
                self._set_timer()
                await self._wake.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.state.next_timer()
        if at is not None:
            delay = delay_until(at, self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)

    async def _frame(self, events: list[Event]) -> None:
        now = self._clock()
        for event in events:
            if isinstance(event, TaskReported) and (event.state in TERMINAL | AWAY or event.reason):
                _log_report(event)
        began = perf_counter()
        effects = step(self.state, events, now, self._token())
        self._mesos.prepare(effects)
        refused, pods = await self._save(effects, now)
        await self._may_act.wait()
        if self._mute:
            return
        payloads = self._payloads(effects, refused, pods)
        for effect in effects:
            if isinstance(effect, fx.SAVES):
                continue
            if isinstance(effect, fx.Publish):
                self._publisher.put(effect)
            elif isinstance(effect, fx.Halt):
                raise Halted(effect.message)
            else:
                for event in self._mesos.perform(effect, payloads):
                    self.put(event)
        for task_id in refused:
            self.put(LaunchAborted(task_id))
        self._tidy(effects)
        self._mesos.meter.frames.observe(perf_counter() - began)

    async def _save(self, effects: list[fx.Effect], now: float) -> tuple[set[str], dict[str, Entry]]:
        if not effects or not isinstance(effects[0], fx.SAVES):  # saves stand first
            return set(), {}
        with self._mesos.meter.saves.timed():
            return await self._saver.save(effects, now)

    def _payloads(
        self, effects: list[fx.Effect], refused: set[str], pods: dict[str, Entry]
    ) -> dict[str, Payload]:
        """What each launch that was saved carries."""
        return {
            one.task.id: self._payload(one, pods[one.task.uid].obj)
            for effect in effects
            if isinstance(effect, fx.Accept)
            for one in effect.launches
            if one.task.id not in refused
        }

    def _payload(self, launch: fx.Launch, pod: Json) -> Payload:
        token = node_token(self._secret, launch.executor.id)
        supplies = supplies_of(pod, self._store)
        if supplies.missing:
            self._publisher.put(_missing_secrets(launch.task, supplies.missing))
        return Payload(pod, token, supplies)

    def _tidy(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.DropExecutor):
                self._mesos.executor_infos.pop(effect.executor_id, None)
        illegal = self.state.counters["illegal task transitions"]
        if illegal != self._illegal:
            log.warning("%d reports of impossible task transitions ignored so far", illegal)
            self._illegal = illegal

    def where_is(self, uid: str) -> tuple[str, str] | None:
        """Node server and bearer token of a pod's newest task, None while it has none."""
        task = self.state.task_of(uid)
        if task is None or not task.server:
            return None
        return task.server, node_token(self._secret, task.executor_id)
