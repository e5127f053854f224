"""The door to Mesos: driver callbacks become events, effects become calls. Nothing is decided here.

Raw offers are kept until they are answered, because a launch names the very resources of its offers (role,
allocation, reservations). `prepare` makes the ExecutorInfo of new instances before they are saved; `perform` speaks.
"""

# ruff: noqa: N802  (the callbacks have pymesos' names)

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scheduler.framework import disks
from scheduler.framework.core import effects as fx
from scheduler.framework.core.events import (
    AgentLost,
    Disconnected,
    Event,
    ExecutorLost,
    InverseOffer,
    InverseOffersReceived,
    MasterError,
    OfferRescinded,
    OffersReceived,
    PodEvent,
    Subscribed,
    TaskReported,
)
from scheduler.framework.core.lifecycle import MESOS, TaskState
from scheduler.framework.core.state import AgentInfo, Executor, Offer
from scheduler.framework.core.vectors import ZERO, Vector
from scheduler.framework.pools import Pool
from scheduler.framework.supplies import NOTHING, Supplies
from shared.mesos.scheduler_driver import NotConnected, Scheduler, SchedulerDriver
from shared.mesos.values import value_from_json
from shared.wire import Launch, Report, WireError

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
            "shutdown_grace_period": {"nanoseconds": int(self.grace * 1e9)},
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
        self.anomalies: Counter[str] = Counter()
        self._offers: dict[str, Json] = {}
        self._known = OfferReader()

    # ---- callbacks

    def registered(self, driver: SchedulerDriver, framework_id: Json, master_info: Json) -> None:
        self._offers.clear()
        self.put(Subscribed(framework_id["value"]))

    def reregistered(self, driver: SchedulerDriver, master_info: Json) -> None:
        self._offers.clear()
        assert driver.framework_id is not None
        self.put(Subscribed(driver.framework_id))

    def disconnected(self, driver: SchedulerDriver) -> None:
        self._offers.clear()
        self.put(Disconnected())

    def resourceOffers(self, driver: SchedulerDriver, offers: Sequence[Json]) -> None:
        for one in offers:
            self._offers[one["id"]["value"]] = one
        self.put(OffersReceived(tuple(self._known.read(one) for one in offers)))

    def offerRescinded(self, driver: SchedulerDriver, offer_id: Json) -> None:
        self._offers.pop(offer_id["value"], None)
        self.put(OfferRescinded(offer_id["value"]))

    def inverseOffers(self, driver: SchedulerDriver, offers: Sequence[Json]) -> None:
        self.put(InverseOffersReceived(tuple(inverse_from_json(one) for one in offers if "agent_id" in one)))

    def statusUpdate(self, driver: SchedulerDriver, status: Json) -> None:
        self.put(report_from_json(status))

    def frameworkMessage(
        self, driver: SchedulerDriver, executor_id: Json, agent_id: Json, message: str
    ) -> None:
        log.warning("a message from executor %s is ignored: Gantry uses none", executor_id.get("value"))

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
                self.anomalies["launches that did not fit their offers"] += 1
                driver.declineOffer(list(effect.offer_ids), {"refuse_seconds": 0.0})
                return _unsent(effect, payloads, "OFFERS_MISCOUNTED", str(error))
            log.info("launching %d pods on %s: %s", len(launches), launches[0].task.node, _names(launches))
        driver.acceptOffers(list(effect.offer_ids), operations, filters)
        return []

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
    return Launch(payload.pod, node, payload.node_token, runtime_handler=payload.supplies.runtime_handler)


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
    return {"grace_period": {"nanoseconds": int(grace * 1e9)}}


def _runs(offer: Json, executor_id: str) -> bool:
    return any(one["value"] == executor_id for one in offer.get("executor_ids") or ())


# ---- JSON to the core's words


def attributes_from_json(attributes: Iterable[Json]) -> tuple[tuple[str, str], ...]:
    """Attributes as (name, text), sorted; ranges as "1-5,7-7"."""
    found = []
    for one in attributes:
        value = value_from_json(one["type"], one)
        if isinstance(value, int):
            text = f"{value / 1000:g}"
        elif isinstance(value, tuple):
            text = ",".join(f"{begin}-{end}" for begin, end in value)
        else:
            text = value if isinstance(value, str) else ",".join(sorted(value))
        found.append((one["name"], text))
    return tuple(sorted(found))


def _domain(obj: Json) -> tuple[str, str]:
    fault = (obj.get("domain") or {}).get("fault_domain") or {}
    return (fault.get("region") or {}).get("name", ""), (fault.get("zone") or {}).get("name", "")


def offer_from_json(offer: Json) -> Offer:
    role = (offer.get("allocation_info") or {}).get("role", "")
    pool = Pool(offer.get("resources") or (), role)
    address = (offer.get("url") or {}).get("address") or {}
    region, zone = _domain(offer)
    start, lasts = _unavailability(offer)
    return Offer(
        id=offer["id"]["value"],
        agent_id=offer["agent_id"]["value"],
        hostname=offer["hostname"],
        port=int(address.get("port") or 5051),
        amounts=pool.vector(),
        ports=pool.ports(),
        attributes=attributes_from_json(offer.get("attributes") or ()),
        executors=tuple(one["value"] for one in offer.get("executor_ids") or ()),
        unavailable_at=start,
        unavailable_for=lasts,
        ip=address.get("ip") or "",
        region=region,
        zone=zone,
        role=role,
        spare=Pool(offer.get("resources") or (), role, revocable=True).vector(),
        held=disks.held(offer, role),
        raw_disk=disks.raw_disk(offer),
    )


class OfferReader:
    """`offer_from_json`, remembering each agent's last offer: mostly the same comes again, under another id."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, tuple[Json, Offer]]] = {}  # by agent, then role

    def read(self, offer: Json) -> Offer:
        role = (offer.get("allocation_info") or {}).get("role", "")
        known = self._last.setdefault(offer["agent_id"]["value"], {})
        content = {name: value for name, value in offer.items() if name != "id"}
        if role in known and known[role][0] == content:
            return replace(known[role][1], id=offer["id"]["value"])
        made = offer_from_json(offer)
        known[role] = (content, made)
        return made

    def forget(self, agent_id: str) -> None:
        """The agent is gone."""
        self._last.pop(agent_id, None)


def _unavailability(obj: Json) -> tuple[float | None, float | None]:
    """Start and duration in seconds, None for what is not given."""
    found = obj.get("unavailability") or {}
    start, lasts = ((found.get(name) or {}).get("nanoseconds") for name in ("start", "duration"))
    return (None if start is None else start / 1e9, None if lasts is None else lasts / 1e9)


def inverse_from_json(offer: Json) -> InverseOffer:
    start, lasts = _unavailability(offer)
    return InverseOffer(offer["id"]["value"], offer["agent_id"]["value"], start or 0.0, lasts)


def windows_from_json(schedule: Json) -> dict[tuple[str, str], tuple[float, float | None]]:
    """A maintenance.Schedule: when and for how long, by hostname in lower case and IP address."""
    found = {}
    for window in schedule.get("windows") or ():
        start, lasts = _unavailability(window)
        for machine in window.get("machine_ids") or ():
            found[machine.get("hostname", "").lower(), machine.get("ip", "")] = (start or 0.0, lasts)
    return found


def agent_from_json(agent: Json, roles: Sequence[str]) -> AgentInfo:
    """An agent of GET_AGENTS; its total is what pods of any of our roles may use."""
    info = agent["agent_info"]
    region, zone = _domain(info)
    host, _, port = agent.get("pid", "").rpartition("@")[2].rpartition(":")
    return AgentInfo(
        id=info["id"]["value"],
        hostname=info["hostname"],
        port=int(info.get("port") or port or 5051),
        attributes=attributes_from_json(info.get("attributes") or ()),
        total=Pool(agent.get("total_resources") or (), *roles).vector(),
        version=agent.get("version", ""),
        active=bool(agent.get("active", True)),
        draining=bool(agent.get("deactivated") or agent.get("drain_info")),
        ip=host.strip("[]"),
        region=region,
        zone=zone,
    )


def report_from_json(status: Json) -> TaskReported:
    """A TaskStatus; data that cannot be read is told in the log and left out."""
    report, task_id = None, status["task_id"]["value"]
    if status.get("data") and status.get("source") == "SOURCE_EXECUTOR":
        try:
            report = Report.decode(status["data"])
        except WireError as error:
            log.error("task %s: %s", task_id, error)
    state = MESOS.get(status["state"])
    if state is None:
        log.error("task %s: state %s is unknown and changes nothing", task_id, status["state"])
    return TaskReported(
        task_id=task_id,
        state=state or TaskState.ABSENT,
        agent_id=(status.get("agent_id") or {}).get("value", ""),
        executor_id=(status.get("executor_id") or {}).get("value", ""),
        uuid=status.get("uuid", ""),
        source=status.get("source", "").removeprefix("SOURCE_").replace("SLAVE", "AGENT"),
        reason=status.get("reason", "").removeprefix("REASON_").replace("SLAVE", "AGENT"),
        message=status.get("message", ""),
        pod_status=report.status if report else None,
        server=report.server if report else "",
        events=tuple(PodEvent(one.type, one.reason, one.message, one.container) for one in report.events)
        if report
        else (),
    )
