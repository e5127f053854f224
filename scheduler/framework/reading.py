"""What Mesos says, in the core's words: offers, agents, maintenance, task statuses. JSON in, frozen records out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from scheduler.framework import disks
from scheduler.framework.core.entities import AgentInfo, Offer
from scheduler.framework.core.events import InverseOffer, PodEvent, TaskReported
from scheduler.framework.core.lifecycle import MESOS, TaskState
from scheduler.framework.core.vectors import ZERO
from scheduler.framework.pools import Pool
from shared.mesos.values import value_from_json
from shared.wire import Report, WireError

log = logging.getLogger(__name__)

Json = dict[str, Any]

SAID = ("agent_info", "pid", "total_resources", "version", "active", "deactivated", "drain_info")
"""What `agent_from_json` reads."""


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
    """A v1 Offer, reduced to what its role may use. KeyError for what no Mesos sends."""
    role = (offer.get("allocation_info") or {}).get("role", "")
    resources = offer.get("resources") or ()
    pool = Pool(resources, role)
    spare = any("revocable" in one for one in resources)
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
        spare=Pool(resources, role, revocable=True).vector() if spare else ZERO,
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
        last = known.get(role)
        if last is not None and {**last[0], "id": offer["id"]} == offer:
            return last[1]._replace(id=offer["id"]["value"])
        made = offer_from_json(offer)
        known[role] = (offer, made)
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


class AgentReader:
    """`agent_from_json`, remembering each agent: the same object as long as what it says of itself is the same."""

    def __init__(self, roles: Sequence[str]) -> None:
        self._roles = roles
        self._last: dict[str, tuple[Json, AgentInfo]] = {}

    def read(self, agents: Iterable[Json]) -> tuple[AgentInfo, ...]:
        """All that the master lists; others are forgotten."""
        listed = {}
        for one in agents:
            said = {name: one.get(name) for name in SAID}
            last = self._last.get(one["agent_info"]["id"]["value"])
            info = last[1] if last is not None and last[0] == said else agent_from_json(one, self._roles)
            listed[info.id] = (said, info)
        self._last = listed
        return tuple(info for _, info in listed.values())


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
        agent_gone=status["state"] == "TASK_GONE_BY_OPERATOR",
        pod_status=report.status if report else None,
        server=report.server if report else "",
        events=tuple(PodEvent(one.type, one.reason, one.message, one.container) for one in report.events)
        if report
        else (),
    )
