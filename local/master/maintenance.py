"""Maintenance of machines: the schedule, inverse offers and their answers, machines taken down and up.

An inverse offer is a hint and binds nobody. What the schedule says goes into every offer as `unavailability`.

Source: Mesos src/master/maintenance.cpp, src/master/http.cpp (`_updateMaintenanceSchedule`, `_startMaintenance`,
`_stopMaintenance`), src/master/master.cpp (`updateUnavailability`, `inverseOffer`),
src/master/allocator/mesos/hierarchical.cpp (`__generateInverseOffers`).
"""

import logging
from dataclasses import dataclass
from typing import Any

from local.master.agents import Agents
from local.master.cluster import Cluster
from local.master.model import Agent, Framework
from local.wire.proto import Json

log = logging.getLogger(__name__)

Machine = tuple[str, str]
"""Hostname in lower case, IP address; agents match both."""


class MaintenanceError(Exception):
    """Why an operator's call is refused."""


@dataclass(frozen=True)
class InverseOffer:
    offer_id: str
    framework_id: str
    agent_id: str


def machine_of(obj: Json) -> Machine:
    return str(obj.get("hostname", "")).lower(), str(obj.get("ip", ""))


def _json(machine: Machine) -> Json:
    return {name: value for name, value in zip(("hostname", "ip"), machine, strict=True) if value}


class Maintenance:
    """Acts on the schedule, which outlives the master in the registry."""

    def __init__(self, cluster: Cluster, agents: Agents) -> None:
        self._cluster = cluster
        self._agents = agents
        self._open: dict[str, InverseOffer] = {}
        self._filters: dict[tuple[str, str], float] = {}  # by framework and agent: until when
        self._answers: dict[str, dict[str, Json]] = {}  # by agent, then framework
        cluster.unavailability = self.unavailability
        cluster.allocated = self.ask
        agents.is_down = lambda machine: machine in self._down()

    # ---- what is planned

    def _windows(self) -> list[Json]:
        return list(self._cluster.registry.maintenance.get("windows", []))

    def _down(self) -> set[Machine]:
        return {machine_of(one) for one in self._cluster.registry.maintenance.get("down", [])}

    def _save(self, windows: list[Json], down: set[Machine]) -> None:
        content = {"windows": windows, "down": [_json(one) for one in sorted(down)]}
        self._cluster.registry.keep_maintenance(content)

    def unavailability(self, agent: Agent) -> Json | None:
        """The window planned for an agent's machine."""
        for window in self._windows():
            if agent.machine in map(machine_of, window["machine_ids"]):
                found: Json = window["unavailability"]
                return found
        return None

    def schedule(self) -> Json:
        return {"schedule": {"windows": self._windows()}}

    def status(self) -> Json:
        """Machines that drain, with what frameworks answered, and those that are down."""
        down = self._down()
        planned = [machine_of(one) for window in self._windows() for one in window["machine_ids"]]
        draining = [self._draining(machine) for machine in planned if machine not in down]
        return {
            "status": {"draining_machines": draining, "down_machines": [_json(one) for one in sorted(down)]}
        }

    def _draining(self, machine: Machine) -> Json:
        here = [agent_id for agent_id, one in self._cluster.agents.items() if one.machine == machine]
        statuses = [status for agent_id in here for status in self._answers.get(agent_id, {}).values()]
        return {"id": _json(machine), **({"statuses": statuses} if statuses else {})}

    # ---- operators

    def update(self, windows: Any) -> None:
        """UPDATE_MAINTENANCE_SCHEDULE: offers of every machine concerned are rescinded. Raises MaintenanceError."""
        down = self._down()
        named = self._checked(windows)
        for machine in sorted(down - named):
            raise MaintenanceError(
                f"Machine '{_text(machine)}' is deactivated and cannot be removed from the schedule"
            )
        before = {machine_of(one) for window in self._windows() for one in window["machine_ids"]}
        self._save(windows, down)
        for agent in list(self._cluster.agents.values()):
            if agent.machine in named | before:
                self._renew(agent)

    @staticmethod
    def _checked(windows: Any) -> set[Machine]:
        named: set[Machine] = set()
        for window in windows if isinstance(windows, list) else []:
            machines = [machine_of(one) for one in window.get("machine_ids") or []]
            if not machines:
                raise MaintenanceError("List of machines in the maintenance window is empty")
            if "start" not in (window.get("unavailability") or {}):
                raise MaintenanceError("Expecting 'unavailability' with 'start' in every window")
            if (window["unavailability"].get("duration") or {}).get("nanoseconds", 0) < 0:
                raise MaintenanceError("Unavailability 'duration' is negative")
            for machine in machines:
                if machine == ("", ""):
                    raise MaintenanceError("Both 'hostname' and 'ip' for a machine are empty")
                if machine in named:
                    raise MaintenanceError(
                        f"Machine '{_text(machine)}' appears more than once in the schedule"
                    )
                named.add(machine)
        return named

    def start(self, machines: list[Json]) -> None:
        """START_MAINTENANCE: agents there are shut down and removed. Raises MaintenanceError."""
        planned = {machine_of(one) for window in self._windows() for one in window["machine_ids"]}
        down = self._down()
        for machine in map(machine_of, machines):
            if machine not in planned:
                raise MaintenanceError(f"Machine '{_text(machine)}' is not part of a maintenance schedule")
            if machine in down:
                text = "is not in DRAINING mode and cannot be brought down"
                raise MaintenanceError(f"Machine '{_text(machine)}' {text}")
        self._save(self._windows(), down | set(map(machine_of, machines)))
        for agent in [one for one in self._cluster.agents.values() if one.machine in self._down()]:
            agent.send({"type": "SHUTDOWN", "message": "Operator initiated 'Machine DOWN'"})
            self._agents.remove(agent, "Operator initiated 'Machine DOWN'")

    def stop(self, machines: list[Json]) -> None:
        """STOP_MAINTENANCE: the machines leave the schedule, their agents may come. Raises MaintenanceError."""
        down, chosen = self._down(), set(map(machine_of, machines))
        for machine in sorted(chosen - down):
            raise MaintenanceError(f"Machine '{_text(machine)}' is not in DOWN mode and cannot be brought up")
        windows = []
        for window in self._windows():
            left = [one for one in window["machine_ids"] if machine_of(one) not in chosen]
            if left:
                windows.append({**window, "machine_ids": left})
        self._save(windows, down - chosen)

    def _renew(self, agent: Agent) -> None:
        """Whatever is out for an agent is taken back and said anew."""
        for one in [one for one in self._open.values() if one.agent_id == agent.agent_id]:
            del self._open[one.offer_id]
            framework = self._cluster.frameworks.get(one.framework_id)
            if framework is not None:
                framework.send("RESCIND_INVERSE_OFFER", {"inverse_offer_id": {"value": one.offer_id}})
        for key in [key for key in self._filters if key[1] == agent.agent_id]:
            del self._filters[key]
        self._answers.pop(agent.agent_id, None)
        for offer in list(agent.offers.values()):
            self._cluster.rescind_offer(offer)
        self._cluster.allocate_soon([agent.agent_id])

    # ---- frameworks

    def ask(self) -> None:
        """After an allocation: frameworks that hold something of a machine to be maintained are asked for it."""
        cluster = self._cluster
        if not self._windows():
            return
        for agent in cluster.agents.values():
            unavailability = self.unavailability(agent)
            if unavailability is None or not agent.connected:
                continue
            for framework_id in cluster.allocator.holders(agent.agent_id):
                framework = cluster.frameworks.get(framework_id)
                if framework is not None and framework.active:
                    self._ask(framework, agent, unavailability)

    def _ask(self, framework: Framework, agent: Agent, unavailability: Json) -> None:
        cluster, key = self._cluster, (framework.framework_id, agent.agent_id)
        if any((one.framework_id, one.agent_id) == key for one in self._open.values()):
            return
        if self._filters.get(key, 0.0) > cluster.now():
            return
        offer = InverseOffer(cluster.new_id("O"), *key)
        self._open[offer.offer_id] = offer
        body = {
            "id": {"value": offer.offer_id},
            "url": cluster.url_of(agent),
            "framework_id": {"value": framework.framework_id},
            "agent_id": {"value": agent.agent_id},
            "unavailability": unavailability,
        }
        framework.send("INVERSE_OFFERS", {"inverse_offers": [body]})

    def answer(self, framework: Framework, call: Json, status: str) -> None:
        """ACCEPT_INVERSE_OFFERS or DECLINE_INVERSE_OFFERS; `status` ACCEPT or DECLINE."""
        now = self._cluster.now()
        refuse = call.get("filters", {}).get("refuse_seconds", 5.0)
        for item in call.get("inverse_offer_ids", []):
            one = self._open.get(item["value"])
            if one is None or one.framework_id != framework.framework_id:
                log.warning("ignoring %s of inverse offer %s: it is no longer valid", status, item["value"])
                continue
            del self._open[one.offer_id]
            known = {
                "status": status,
                "framework_id": {"value": one.framework_id},
                "timestamp": {"nanoseconds": int(now * 1e9)},
            }
            self._answers.setdefault(one.agent_id, {})[one.framework_id] = known
            if refuse > 0:
                lasts = max(refuse, self._cluster.flags.allocation_interval)
                self._filters[one.framework_id, one.agent_id] = now + lasts

    def revived(self, framework: Framework) -> None:
        """REVIVE also ends the filters of inverse offers."""
        for key in [key for key in self._filters if key[0] == framework.framework_id]:
            del self._filters[key]

    def forget(self, framework: Framework) -> None:
        """A framework that left or failed over has no inverse offers any more."""
        for one in [one for one in self._open.values() if one.framework_id == framework.framework_id]:
            del self._open[one.offer_id]


def _text(machine: Machine) -> str:
    return " ".join(part for part in machine if part)
