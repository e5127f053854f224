"""The door to Mesos: driver callbacks become events, effects become calls. Nothing is decided here.

Raw offers are kept until they are answered, because a launch names the very resources of its offers (role,
allocation, reservations). `prepare` makes the ExecutorInfo of new instances before they are saved; `perform` speaks.
"""

# ruff: noqa: N802  (the callbacks have pymesos' names)

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.framework import disks
from scheduler.framework.core import effects as fx
from scheduler.framework.core.entities import Executor
from scheduler.framework.core.events import (
    AgentLost,
    Disconnected,
    Event,
    ExecutorLost,
    InverseOffersReceived,
    MasterError,
    OfferRescinded,
    OffersReceived,
    Subscribed,
    TaskReported,
)
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.vectors import ZERO, Vector
from scheduler.framework.meter import UNFIT, Meter
from scheduler.framework.pools import Pool
from scheduler.framework.reading import OfferReader, inverse_from_json, report_from_json
from scheduler.framework.supplies import NOTHING, Supplies
from shared.mesos.durations import duration_to_json
from shared.mesos.scheduler_driver import NotConnected, Scheduler, SchedulerDriver
from shared.wire import Launch, Supply, Wanted, WireError, digest_of

log = logging.getLogger(__name__)

Json = dict[str, Any]

NAME_LIMIT = 255


@dataclass(frozen=True, slots=True)
class ExecutorTemplate:
    """What all executors of this version have in common. `grace`: seconds the agent gives one to shut down."""

    command: Json
    grace: float = 3600.0

    def info(self, executor_id: str, resources: list[Json]) -> Json:
        return {
            "type": "CUSTOM",
            "executor_id": {"value": executor_id},
            "name": "gantry executor",
            "command": self.command,
            "resources": resources,
            "shutdown_grace_period": duration_to_json(self.grace),
        }


@dataclass(frozen=True, slots=True)
class Payload:
    """What a launch carries to the executor, known once the launch is saved."""

    pod: Mapping[str, Any]
    node_token: str
    supplies: Supplies = NOTHING


class Mesos(Scheduler):
    """The driver's scheduler. `put` takes events into the engine's queue."""

    def __init__(
        self,
        template: ExecutorTemplate,
        overhead: Vector,
        put: Callable[[Event], None],
        *,
        principal: str = "",
    ) -> None:
        """`principal`: the framework's, which reservations have to name."""
        self.overhead = overhead
        self.principal = principal
        self.template = template
        self.put = put
        self.driver: SchedulerDriver | None = None
        self.executor_infos: dict[str, Json] = {}
        self.objects_of: Callable[[str, str], Json | None] = lambda task_id, executor_id: None
        """(task, executor that asks) → the objects of its pod, None when it runs no such task. The engine sets it."""
        self.meter = Meter()
        self._offers: dict[str, Json] = {}
        self._known = OfferReader()

    # ---- callbacks

    def registered(self, driver: SchedulerDriver, framework_id: Json, master_info: Json) -> None:
        self._void()
        self.put(Subscribed(framework_id["value"]))

    def reregistered(self, driver: SchedulerDriver, master_info: Json) -> None:
        self._void()
        assert driver.framework_id is not None
        self.put(Subscribed(driver.framework_id))

    def disconnected(self, driver: SchedulerDriver) -> None:
        self._void()
        self.put(Disconnected())

    def _void(self) -> None:
        self.meter.offers["void"] += len(self._offers)
        self._offers.clear()

    def resourceOffers(self, driver: SchedulerDriver, offers: Sequence[Json]) -> None:
        self.meter.offers["received"] += len(offers)
        for one in offers:
            self._offers[one["id"]["value"]] = one
        self.put(OffersReceived(tuple(self._known.read(one) for one in offers)))

    def offerRescinded(self, driver: SchedulerDriver, offer_id: Json) -> None:
        if self._offers.pop(offer_id["value"], None) is not None:
            self.meter.offers["rescinded"] += 1
        self.put(OfferRescinded(offer_id["value"]))

    def inverseOffers(self, driver: SchedulerDriver, offers: Sequence[Json]) -> None:
        self.put(InverseOffersReceived(tuple(inverse_from_json(one) for one in offers if "agent_id" in one)))

    def statusUpdate(self, driver: SchedulerDriver, status: Json) -> None:
        self.put(report_from_json(status))

    def frameworkMessage(
        self, driver: SchedulerDriver, executor_id: Json, agent_id: Json, message: str
    ) -> None:
        """Whether the objects of a pod have changed: then they are sent. Whoever asks hears of its own pods only."""
        executor, agent = executor_id.get("value", ""), agent_id.get("value", "")
        try:
            wanted = Wanted.decode(message)
            objects = self.objects_of(wanted.task_id, executor)
            if objects is not None and digest_of(objects) != wanted.digest:
                driver.sendFrameworkMessage(executor, agent, Supply(wanted.task_id, objects).encode())
        except WireError as error:
            log.warning("a message from executor %s is ignored: %s", executor, error)
        except NotConnected:
            pass  # it asks again

    def slaveLost(self, driver: SchedulerDriver, agent_id: Json) -> None:
        log.warning("agent %s is lost", agent_id.get("value"))
        self._known.forget(agent_id.get("value", ""))
        self.put(AgentLost(agent_id.get("value", "")))

    def executorLost(
        self, driver: SchedulerDriver, executor_id: Json, agent_id: Json, status: int | None
    ) -> None:
        log.warning(
            "executor %s on agent %s ended (status %s)", executor_id["value"], agent_id["value"], status
        )
        self.put(ExecutorLost(agent_id["value"], executor_id["value"]))

    def error(self, driver: SchedulerDriver, message: str) -> None:
        self.put(MasterError(message))

    def hold(self, on: bool) -> None:
        """Holds Mesos' events back, for a while."""
        assert self.driver is not None
        (self.driver.pauseEvents if on else self.driver.resumeEvents)()

    # ---- effects

    def prepare(self, todo: Iterable[fx.Effect]) -> None:
        """Makes the ExecutorInfo of each new instance of this frame, out of the offers it will be launched with."""
        for effect in todo:
            if isinstance(effect, fx.Accept):
                self._new_infos(effect)

    def _new_infos(self, effect: fx.Accept) -> None:
        """Each new instance after the other, from what those leave that the master will start with them."""
        executors = _executors(effect.launches)
        new = [one for one in executors if one.id not in self.executor_infos]
        if not new:
            return
        offers = [self._offers[one] for one in effect.offer_ids if one in self._offers]
        pools = _pools(offers, effect.role)
        self._set_aside(pools, offers, [one for one in executors if one not in new])
        for executor in new:
            try:
                resources = pools[executor.revocable].take(self.overhead)
            except ValueError:  # rescinded meanwhile, or a bug: either way `_accept` sends nothing of it
                resources = []
            self.executor_infos[executor.id] = self.template.info(executor.id, resources)

    def _set_aside(
        self, pools: Mapping[bool, Pool], offers: Iterable[Json], executors: Iterable[Executor]
    ) -> None:
        """What the master takes of the offers for instances that do not run yet."""
        for executor in executors:
            if not any(_runs(offer, executor.id) for offer in offers):
                pools[executor.revocable].remove(self.executor_infos[executor.id]["resources"])

    def perform(self, effect: fx.Effect, payloads: Mapping[str, Payload]) -> list[Event]:
        """Makes the call. Returns what must be known of launches that did not leave."""
        assert self.driver is not None
        try:
            return self._call(self.driver, effect, payloads)
        except NotConnected as error:
            if isinstance(effect, fx.Accept):
                return _unsent(effect, payloads, "NOT_SENT", str(error))
            return []  # asked again on the next connection: acknowledgements by the agent, the rest by the core

    def _call(
        self, driver: SchedulerDriver, effect: fx.Effect, payloads: Mapping[str, Payload]
    ) -> list[Event]:
        match effect:
            case fx.Acknowledge(agent_id, task_id, uuid):
                ids = {"agent_id": {"value": agent_id}, "task_id": {"value": task_id}}
                driver.acknowledgeStatusUpdate({**ids, "uuid": uuid})
            case fx.Accept():
                return self._accept(driver, effect, payloads)
            case fx.Decline(offer_ids, refuse):
                for offer_id in offer_ids:
                    self._offers.pop(offer_id, None)
                driver.declineOffer(list(offer_ids), {"refuse_seconds": refuse})
                self.meter.offers["declined"] += len(offer_ids)
            case fx.AnswerInverse(offer_ids, accept, refuse):
                log.info("%s inverse offers %s", "accepting" if accept else "declining", ", ".join(offer_ids))
                answer = driver.acceptInverseOffers if accept else driver.declineInverseOffer
                answer(list(offer_ids), {"refuse_seconds": refuse})
            case fx.KillTask(task_id, agent_id, grace):
                log.info("killing task %s on agent %s", task_id, agent_id)
                policy = None if grace is None else _kill_policy(grace)
                driver.killTask(task_id, agent_id or None, policy)
            case fx.ShutdownExecutor(executor_id, agent_id):
                log.info("shutting down executor %s on agent %s", executor_id, agent_id)
                driver.shutdownExecutor(executor_id, agent_id)
            case fx.Revive(roles):
                driver.reviveOffers(list(roles))
            case fx.Suppress(roles):
                driver.suppressOffers(list(roles))
            case fx.Reconcile(tasks):
                driver.reconcileTasks([{"task_id": task, "agent_id": agent} for task, agent in tasks])
            case _:
                raise TypeError(f"not a call: {effect}")
        return []

    def _accept(
        self, driver: SchedulerDriver, effect: fx.Accept, payloads: Mapping[str, Payload]
    ) -> list[Event]:
        launches = [one for one in effect.launches if one.task.id in payloads]
        offers = [self._offers[one] for one in effect.offer_ids if one in self._offers]
        filters = {"refuse_seconds": effect.refuse}
        if len(offers) < len(effect.offer_ids):  # rescinded meanwhile: one bad id would void the whole call
            if offers:
                self.meter.offers["declined"] += len(offers)
                driver.declineOffer([one["id"] for one in offers], {"refuse_seconds": 0.0})
            return _unsent(
                effect, payloads, "INVALID_OFFERS", "the offer was rescinded before the launch was sent"
            )
        operations = disks.destroy(offers, effect.doomed, effect.role)
        for offer_id in effect.offer_ids:
            self._offers.pop(offer_id, None)
        if launches:
            try:
                operations += self._launch(effect, launches, offers, payloads)
            except (ValueError, LookupError) as error:
                log.error("a bug: nothing is launched on %s with these offers: %s", effect.agent_id, error)
                self.meter.anomalies[UNFIT] += 1
                self.meter.offers["declined"] += len(offers)
                driver.declineOffer(list(effect.offer_ids), {"refuse_seconds": 0.0})
                return _unsent(effect, payloads, "OFFERS_MISCOUNTED", str(error))
            log.info("launching %d pods on %s: %s", len(launches), launches[0].task.node, _names(launches))
        driver.acceptOffers(list(effect.offer_ids), operations, filters)
        self._sent(len(offers), launches)
        return []

    def _sent(self, offers: int, launches: Sequence[fx.Launch]) -> None:
        self.meter.offers["accepted"] += offers
        self.meter.launches += len(launches)
        for one in launches:
            self.meter.placement.observe(one.waited)

    def _launch(
        self,
        effect: fx.Accept,
        launches: Sequence[fx.Launch],
        offers: Sequence[Json],
        payloads: Mapping[str, Payload],
    ) -> list[Json]:
        """The operations of an ACCEPT. ValueError or LookupError when the offers do not hold what was reckoned with."""
        pools = _pools(offers, effect.role)
        executors = _executors(launches)
        for executor in executors:
            if self.overhead != ZERO and not self.executor_infos[executor.id]["resources"]:
                raise ValueError(f"executor {executor.id} has no resources")
        self._set_aside(pools, offers, executors)
        made, volumes = self._volumes(launches, offers, pools[False])
        tasks = [self._task_info(one, pools, payloads[one.task.id]) for one in launches]
        for task in tasks:
            task["resources"] += volumes.get(task["task_id"]["value"], [])
        return [*made, {"type": "LAUNCH", "launch": {"task_infos": tasks}}]

    def _volumes(
        self, launches: Iterable[fx.Launch], offers: Sequence[Json], pool: Pool
    ) -> tuple[list[Json], dict[str, list[Json]]]:
        """The operations that make volumes, and by task id those it uses. Before anything else takes disk."""
        operations: list[Json] = []
        resources: dict[str, list[Json]] = {}
        for launch in launches:
            for volume, create in ((one.volume, one.create) for one in launch.volumes):
                if create:
                    raw = pool.take_raw_disk(volume.size)
                    owner = offers[0]["framework_id"]["value"]
                    todo, resource = disks.make(raw, volume, owner, self.principal)
                    operations += todo
                else:
                    resource = disks.find(offers, volume.id)
                resources.setdefault(launch.task.id, []).append(resource)
        return operations, resources

    def _task_info(self, launch: fx.Launch, pools: Mapping[bool, Pool], payload: Payload) -> Json:
        task = launch.task
        grace = float(payload.pod["spec"].get("terminationGracePeriodSeconds", 30))
        labels = {"pod": task.name, "namespace": task.namespace}
        return {
            "name": f"{task.namespace}/{task.name}"[:NAME_LIMIT],
            "task_id": {"value": task.id},
            "agent_id": {"value": task.agent_id},
            "resources": pools[launch.executor.revocable].take(launch.amounts)
            + pools[False].take(ZERO, launch.ports),
            "executor": self.executor_infos[launch.executor.id],
            "data": _envelope(task.node, payload).encode(),
            "labels": {"labels": [{"key": key, "value": value} for key, value in labels.items()]},
            "kill_policy": _kill_policy(grace),
        }


def _envelope(node: str, payload: Payload) -> Launch:
    more = payload.supplies
    return Launch(
        *(payload.pod, node, payload.node_token), more.runtime_handler, more.pull_secrets, more.objects
    )


def _pools(offers: Iterable[Json], role: str) -> dict[bool, Pool]:
    """Of all offers of an ACCEPT: the revocable resources at True, the others at False."""
    resources = [resource for offer in offers for resource in offer.get("resources") or ()]
    return {kind: Pool(resources, role, revocable=kind) for kind in (False, True)}


def _unsent(effect: fx.Accept, payloads: Mapping[str, Payload], reason: str, message: str) -> list[Event]:
    return [
        TaskReported(
            one.task.id, TaskState.DROPPED, one.task.agent_id, source="MASTER", reason=reason, message=message
        )
        for one in effect.launches
        if one.task.id in payloads
    ]


def _executors(launches: Iterable[fx.Launch]) -> list[Executor]:
    """Their executors, each once, in order."""
    return list(dict.fromkeys(one.executor for one in launches))


def _names(launches: Sequence[fx.Launch]) -> str:
    """The first few, for the log."""
    names = [f"{one.task.namespace}/{one.task.name} as {one.task.id}" for one in launches[:5]]
    return ", ".join(names) + (", …" if len(launches) > len(names) else "")


def _kill_policy(grace: float) -> Json:
    return {"grace_period": duration_to_json(grace)}


def _runs(offer: Json, executor_id: str) -> bool:
    return any(one["value"] == executor_id for one in offer.get("executor_ids") or ())
