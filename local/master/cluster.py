"""The master's state in one place, with the few primitives every part of it uses.

One event loop changes it, so there are no locks. The parts (`subscriptions`, `agents`, `launches`, `calls`) hold the
rules; this module keeps tasks, executors, offers and the allocator's books in step.

Source: Mesos src/master/master.cpp (`addTask`, `updateTask`, `removeTask`, `removeExecutor`, `offer`).
"""

import asyncio
import logging
import random
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from local.master.allocator import Allocation, Allocator
from local.master.flags import Flags
from local.master.model import Agent, Framework, Offer
from local.master.quantities import Quota
from local.master.registry import Registry
from local.master.validation.resources import bag
from local.tasks import Task
from local.wire.proto import Json

log = logging.getLogger(__name__)

VERSION = "1.12.0"
_MASTER_CAPABILITIES = ("AGENT_UPDATE", "AGENT_DRAINING", "QUOTA_V2")


class Cluster:
    """Everything the master knows."""

    def __init__(self, flags: Flags, registry: Registry, *, clock: Callable[[], float] = time.time) -> None:
        self.flags = flags
        self.registry = registry
        self.clock = clock
        self.started = clock()
        self.master_id = str(uuid.uuid4())
        self.address = (flags.advertise_ip or flags.ip, flags.port)
        self.frameworks: dict[str, Framework] = {}
        self.completed: OrderedDict[str, Framework] = OrderedDict()
        self.agents: dict[str, Agent] = {}
        self.recovered: set[str] = set(registry.admitted)
        self.offers: dict[str, Offer] = {}
        self.quotas: dict[str, Quota] = {}
        self.counters: Counter[str] = Counter()
        self.allocator = Allocator(flags.allocation_interval, random.shuffle)
        self._ids: Counter[str] = Counter()
        self.unavailability: Callable[[Agent], Json | None] = lambda agent: None
        self.allocated: Callable[[], None] = lambda: None
        self.task_removed: Callable[[Agent], None] = lambda agent: None
        self._waiting: set[str] | None = set()  # agents to allocate; None: all of them
        self._scheduled = False

    # ---- who we are

    def master_info(self) -> Json:
        ip, port = self.address
        host = self.flags.hostname
        packed = 0
        if ":" not in ip:
            packed = int.from_bytes(bytes(int(part) for part in ip.split(".")), "little")
        info: Json = {
            "id": self.master_id,
            "ip": packed,
            "port": port,
            "pid": f"master@{ip}:{port}",
            "hostname": host,
            "version": VERSION,
            "address": {"hostname": host, "ip": ip, "port": port},
            "capabilities": [{"type": name} for name in _MASTER_CAPABILITIES],
        }
        if self.flags.domain is not None:
            info["domain"] = self.flags.domain
        return info

    def new_id(self, kind: str) -> str:
        """`kind`: "O" offers, "S" agents, "" frameworks."""
        number = self._ids[kind]
        self._ids[kind] += 1
        return f"{self.master_id}-{kind}{number}" if kind else f"{self.master_id}-{number:04}"

    def now(self) -> float:
        return self.clock()

    @staticmethod
    def later(delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    # ---- offers

    def allocate_soon(self, agent_ids: Iterable[str] | None = None) -> None:
        """Allocate after the current step, once for everything that asked (all agents when None)."""
        if agent_ids is None:
            self._waiting = None
        elif self._waiting is not None:
            self._waiting.update(agent_ids)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._allocate)

    def _allocate(self) -> None:
        waiting, self._waiting, self._scheduled = self._waiting, set(), False
        self.counters["allocator/mesos/allocation_runs"] += 1
        by_framework: dict[str, list[Offer]] = {}
        for allocation in self.allocator.allocate(self.now(), waiting):
            offer = self._offer(allocation)
            if offer is not None:
                by_framework.setdefault(offer.framework_id, []).append(offer)
        for framework_id, offers in by_framework.items():
            framework = self.frameworks[framework_id]
            framework.send("OFFERS", {"offers": [self.offer_json(offer) for offer in offers]})
            self.counters["master/offers_sent"] += len(offers)
        self.allocated()

    def _offer(self, allocation: Allocation) -> Offer | None:
        framework = self.frameworks.get(allocation.framework_id)
        agent = self.agents.get(allocation.agent_id)
        if framework is None or not framework.active or agent is None or not agent.connected:
            self.allocator.recover(allocation.framework_id, allocation.agent_id, allocation.resources)
            return None
        offer = Offer(
            self.new_id("O"), framework.framework_id, agent.agent_id, allocation.role, allocation.resources
        )
        self.offers[offer.offer_id] = framework.offers[offer.offer_id] = agent.offers[offer.offer_id] = offer
        agent.changes += 1
        return offer

    def offer_json(self, offer: Offer) -> Json:
        agent = self.agents[offer.agent_id]
        result: Json = {
            "id": {"value": offer.offer_id},
            "framework_id": {"value": offer.framework_id},
            "agent_id": {"value": offer.agent_id},
            "hostname": agent.info["hostname"],
            "url": self.url_of(agent),
            "resources": offer.resources.to_json(),
            "allocation_info": {"role": offer.role},
        }
        if agent.info.get("attributes"):
            result["attributes"] = agent.info["attributes"]
        if "domain" in agent.info:
            result["domain"] = agent.info["domain"]
        unavailability = self.unavailability(agent)
        if unavailability is not None:
            result["unavailability"] = unavailability
        executors = agent.executors.get(offer.framework_id)
        if executors:
            result["executor_ids"] = [{"value": executor_id} for executor_id in reversed(executors)]
        return result

    @staticmethod
    def url_of(agent: Agent) -> Json:
        address = {"hostname": agent.info["hostname"], "ip": agent.ip, "port": agent.info["port"]}
        return {"scheme": "http", "address": address, "path": "/slave(1)"}

    def forget_offer(self, offer: Offer) -> None:
        """The offer is no more; its resources stay taken."""
        del self.offers[offer.offer_id]
        self.frameworks[offer.framework_id].offers.pop(offer.offer_id, None)
        agent = self.agents.get(offer.agent_id)
        if agent is not None:
            agent.offers.pop(offer.offer_id, None)
            agent.changes += 1

    def discard_offer(self, offer: Offer, refuse_seconds: float | None = None) -> None:
        """The offer is no more and its resources are free again, filtered when `refuse_seconds` is given."""
        self.forget_offer(offer)
        self.allocator.recover(
            offer.framework_id, offer.agent_id, offer.resources, refuse_seconds, self.now()
        )

    def rescind_offer(self, offer: Offer) -> None:
        """Take the offer back and say so."""
        self.discard_offer(offer)
        framework = self.frameworks[offer.framework_id]
        framework.send("RESCIND", {"offer_id": {"value": offer.offer_id}})
        self.counters["master/offers_rescinded"] += 1

    # ---- tasks and executors

    def add_task(self, task: Task) -> None:
        agent = self.agents[task.agent_id]
        agent.tasks[task.framework_id, task.task_id] = task
        agent.changes += 1
        self.frameworks[task.framework_id].tasks[task.task_id] = task

    def update_task(self, task: Task, status: Json, latest_state: str | None = None) -> None:
        """Take a status in; a task that ends frees its resources at once, acknowledged or not."""
        was_terminal = task.terminal
        if not was_terminal:
            task.state = latest_state or status["state"]
        task.take(status)
        if task.terminal and not was_terminal:
            self.allocator.recover(task.framework_id, task.agent_id, task.resources)
            if task.agent_id in self.agents:
                self.agents[task.agent_id].changes += 1
            self.counters[f"master/{task.state.lower().replace('task_', 'tasks_')}"] += 1

    def remove_task(self, task: Task) -> None:
        """The task is acknowledged or lost: it becomes history."""
        if not task.terminal:
            self.allocator.recover(task.framework_id, task.agent_id, task.resources)
        agent = self.agents.get(task.agent_id)
        if agent is not None:
            agent.tasks.pop((task.framework_id, task.task_id), None)
            agent.changes += 1
            agent.killed.discard((task.framework_id, task.task_id))
        framework = self.frameworks.get(task.framework_id)
        if framework is not None:
            framework.tasks.pop(task.task_id, None)
            framework.completed.append(task)
        if agent is not None:
            self.task_removed(agent)

    def add_executor(self, agent: Agent, framework: Framework, executor: Json) -> None:
        executor_id = executor["executor_id"]["value"]
        agent.executors.setdefault(framework.framework_id, {})[executor_id] = executor
        agent.changes += 1
        framework.executors.setdefault(agent.agent_id, {})[executor_id] = executor

    def remove_executor(self, agent: Agent, framework_id: str, executor_id: str) -> None:
        executor = agent.executors.get(framework_id, {}).pop(executor_id, None)
        if executor is None:
            return
        agent.changes += 1
        if not agent.executors[framework_id]:
            del agent.executors[framework_id]
        resources = bag(executor.get("resources", []))
        self.allocator.recover(framework_id, agent.agent_id, resources)
        framework = self.frameworks.get(framework_id)
        if framework is not None:
            framework.executors.get(agent.agent_id, {}).pop(executor_id, None)

    def complete_framework(self, framework: Framework) -> None:
        """Move a framework to the removed ones, of which only the latest are remembered."""
        del self.frameworks[framework.framework_id]
        self.completed[framework.framework_id] = framework
        while len(self.completed) > self.flags.max_completed_frameworks:
            self.completed.popitem(last=False)
