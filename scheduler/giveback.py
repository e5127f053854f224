"""Gives the disk back that Mesos agents keep for a framework's claims, so that the framework can end.

Nobody can give a volume back once its framework is gone, so this stands between the subscription and the TEARDOWN:
all tasks are killed, what is offered with our label is destroyed and unreserved, until nothing is left. The master's
list of agents says what there is; where it does not say, an offer that comes without a volume is the proof.
Every step may be repeated: what a killed run left is what the next one finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.framework import disks, records
from scheduler.framework.core.claims import Held, Volume
from scheduler.framework.core.lifecycle import TERMINAL, TaskState
from scheduler.framework.core.pods import ADDRESS_ANNOTATION, AGENT_ANNOTATION
from scheduler.framework.volumeobjects import VOLUMES, volume_from_object
from scheduler.store import Store
from shared.mesos import operator
from shared.mesos.scheduler_driver import NotConnected, SchedulerDriver
from shared.mesos.settings import Access

log = logging.getLogger(__name__)

Json = dict[str, Any]

ROUND = 1.0
"""Seconds between looks at the master's list."""
AGAIN = 5.0
"""Seconds after which a kill is repeated and everything is asked for once more: any message may be lost."""
HIDE = 3600.0
"""Seconds for which an offer without anything of ours is refused; what is freed there comes all the same."""

_OVER = frozenset(f"TASK_{state.name}" for state in TERMINAL)


AWAY = (
    "the agent is not there, or out of service, and only there it can be given back; wait for it, or leave the data "
    "there for good with --abandon-volumes"
)


class Remains(Exception):
    """One line: what could not be given back, and where it is."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent of the master's list: what it keeps for us, and whether it can be offered."""

    id: str
    name: str
    address: str
    usable: bool
    held: frozenset[Held]


@dataclass(slots=True)
class Wanted:
    """What the store says: volumes, the agents of their nodes (agent id and address), tasks with their agents."""

    volumes: dict[str, Volume] = field(default_factory=dict)
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)

    @property
    def roles(self) -> set[str]:
        return {one.role for one in self.volumes.values()}


def wanted(store: Store) -> Wanted:
    """Raises StoreError for a volume's record that cannot be read."""
    found = Wanted()
    for entry in store.list(VOLUMES)[0]:
        volume = volume_from_object(entry.obj)
        found.volumes[volume.id] = volume
    for entry in store.list("nodes")[0]:
        notes = entry.obj["metadata"].get("annotations") or {}
        place = notes.get(AGENT_ANNOTATION, ""), notes.get(ADDRESS_ANNOTATION, "")
        found.places[entry.obj["metadata"]["name"]] = place
    for entry in store.list(records.TASKS)[0]:
        if TaskState[entry.obj["state"]] not in TERMINAL:
            found.tasks[entry.obj["metadata"]["name"]] = entry.obj["agentId"]
    return found


class GiveBack:
    """`owner`: the framework id in the labels. Callbacks of the driver in, calls out; `run` is the whole of it."""

    def __init__(self, owner: str, what: Wanted) -> None:
        self.owner = owner
        self.what = what
        self.live = dict(what.tasks)
        self.active = False
        self._seen: set[tuple[str, Held]] = set()  # by agent id, in any list
        self._proved: set[str] = set()  # volumes that are no more, or never were
        self._left: dict[str, str] = {}  # volume or reservation: where it is
        self._progress = 0.0

    # ---- what the driver hears

    def connected(self, driver: SchedulerDriver) -> None:
        if not self.active:
            return
        with contextlib.suppress(NotConnected):  # the next connection will do
            driver.reviveOffers()
            self._ask(driver)

    def _ask(self, driver: SchedulerDriver) -> None:
        for task_id, agent_id in self.live.items():
            driver.killTask(task_id, agent_id or None)
        if self.live:
            driver.reconcileTasks([{"task_id": task, "agent_id": agent} for task, agent in self.live.items()])
        driver.reconcileTasks([])

    def status(self, driver: SchedulerDriver, status: Json) -> None:
        """Every task is killed, ones that the store does not know too."""
        task_id, agent_id = status["task_id"]["value"], (status.get("agent_id") or {}).get("value", "")
        with contextlib.suppress(NotConnected):
            driver.acknowledgeStatusUpdate(status)
            if not self.active:
                return
            if status["state"] in _OVER or status["state"] == "TASK_UNKNOWN":
                if self.live.pop(task_id, None) is not None:
                    self._moved()
            elif task_id not in self.live:
                self.live[task_id] = agent_id
                driver.killTask(task_id, agent_id or None)

    def offers(self, driver: SchedulerDriver, offers: Sequence[Json]) -> None:
        with contextlib.suppress(NotConnected):
            for offer in offers:
                operations = (
                    disks.destroy_all(offer.get("resources") or (), self.owner) if self.active else []
                )
                if operations:
                    driver.acceptOffers(offer["id"], operations, {"refuse_seconds": 0.0})
                else:
                    driver.declineOffer(offer["id"], {"refuse_seconds": HIDE})
                if self.active:
                    self._prove(offer)

    def _prove(self, offer: Json) -> None:
        """What an agent offers without any task of ours there is all that it has for the role."""
        agent_id, role = offer["agent_id"]["value"], offer["allocation_info"]["role"]
        if agent_id in self.live.values():
            return
        address = (offer.get("url") or {}).get("address") or {}
        there = Agent(
            agent_id, offer["hostname"], f"{offer['hostname']}:{address.get('port')}", True, frozenset()
        )
        shown = {one.id for one in disks.owned(offer.get("resources") or (), self.owner)}
        for volume in self.what.volumes.values():
            if volume.role == role and volume.id not in shown and self._is_at(volume, there):
                self._proved.add(volume.id)

    def _is_at(self, volume: Volume, agent: Agent) -> bool:
        agent_id, address = self.what.places.get(volume.node, ("", ""))
        if agent_id or address:
            return agent.id == agent_id or agent.address == address
        return agent.name.lower() == volume.node

    # ---- what there is

    def _moved(self) -> None:
        self._progress = asyncio.get_running_loop().time()

    def _look(self, agents: Sequence[Agent] | None) -> None:
        """What is left, after a look at the master's list; None: it may not be read."""
        left: dict[str, str] = {}
        for agent in agents or ():
            for held in agent.held:
                self._seen.add((agent.id, held))
                left[held.id or f"a reservation for {held.claim}"] = f"agent {agent.name} ({agent.id})"
        for volume in self.what.volumes.values():
            if volume.id in left or volume.id in self._proved:
                continue
            ids = {one.id for one in agents or () if self._is_at(volume, one)}
            if any(held.id == volume.id and agent_id in ids for agent_id, held in self._seen):
                self._proved.add(volume.id)
                continue
            agent_id, _ = self.what.places.get(volume.node, ("", ""))
            left[volume.id] = f"node {volume.node}" + (f" (agent {agent_id})" if agent_id else "")
        if left.keys() != self._left.keys():
            self._moved()
        self._left = left

    def _away(self, agents: Sequence[Agent] | None) -> dict[str, str]:
        """Of that, what no offer can come of: its agent is not there, or taken out of service."""
        if agents is None:
            return {}
        usable = [one for one in agents if one.usable]
        here = {held.id or f"a reservation for {held.claim}" for one in usable for held in one.held}
        for volume in self.what.volumes.values():
            if any(self._is_at(volume, one) for one in usable):
                here.add(volume.id)
        return {name: where for name, where in self._left.items() if name not in here}

    async def _agents(self, master: str, access: Access) -> list[Agent] | None:
        try:
            listed = await operator.get_agents(master, credentials=access.credentials, tls=access.tls)
        except (operator.OperatorError, OSError) as error:
            log.warning("cannot list the agents of %s, so only offers tell what is left: %s", master, error)
            return None
        return [agent_from_json(one, self.owner) for one in listed]

    # ---- all of it

    async def run(self, driver: SchedulerDriver, access: Access, *, patience: float, abandon: bool) -> None:
        """Returns when nothing is left but, with `abandon`, what is on agents that are away. Raises Remains: before
        anything was touched when such is there and may not be abandoned; or after `patience` seconds
        in which nothing moved."""
        loop = asyncio.get_running_loop()
        asked = self._progress = loop.time()
        while True:
            agents = await self._agents(driver.master, access) if driver.master else None
            self._look(agents)
            away = self._away(agents)
            if self._left.keys() <= (away.keys() if abandon else set()):
                return
            if away and not abandon and not self.active:
                raise Remains(f"{_listed(away)}: {AWAY}")
            if loop.time() - self._progress > patience:
                raise Remains(self._why(away, patience))
            if not self.active or loop.time() - asked > AGAIN:
                self.active, asked = True, loop.time()
                self.connected(driver)
            await asyncio.sleep(ROUND)

    def _why(self, away: dict[str, str], patience: float) -> str:
        text = f"gave up after {patience:g} s without progress: {_listed(self._left)} remain"
        if self.live:
            text += f", {len(self.live)} tasks have not ended"
        return f"{text}; {_listed(away)}: {AWAY}" if away else text


def agent_from_json(agent: Json, owner: str) -> Agent:
    """One agent of GET_AGENTS."""
    info = agent["agent_info"]
    port = info.get("port") or agent.get("pid", "").rpartition(":")[2]
    usable = bool(agent.get("active", True)) and not agent.get("deactivated")
    held = frozenset(disks.owned(agent.get("total_resources") or (), owner))
    return Agent(info["id"]["value"], info["hostname"], f"{info['hostname']}:{port}", usable, held)


def _listed(what: dict[str, str]) -> str:
    """The first few by name."""
    names = [f"{name} on {where}" for name, where in sorted(what.items())]
    more: Iterable[str] = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join([*names[:3], *more])
