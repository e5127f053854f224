"""The life of agents: register, come back, fall silent, be given up.

Messages between master and agent are described in `local.link`.

Source: Mesos src/master/master.cpp (`registerSlave`, `reregisterSlave`, `reconcileKnownSlave`, `_markUnreachable`,
`statusUpdate`, `exitedExecutor`, class SlaveObserver).
"""

import logging
from collections.abc import Callable
from typing import Any

from local.flags import region
from local.master import statuses
from local.master.cluster import Cluster
from local.master.model import Agent, Framework, Link
from local.master.operations import checkpoint_message
from local.master.validation.resources import bag
from local.reservations import restored
from local.tasks import Task
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)


class Agents:
    """Acts on the cluster's agents."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.admitted: Callable[[Agent], None] = lambda agent: None
        self._at: dict[tuple[str, int], Agent] = {}  # the last of each address
        self.is_down: Callable[[tuple[str, str]], bool] = lambda machine: False

    def start(self) -> None:
        """Give the agents of the registry their time to come back."""
        if self._cluster.recovered:
            self._cluster.later(self._cluster.flags.agent_reregister_timeout, self._recovered_timeout)

    def _recovered_timeout(self) -> None:
        for agent_id in sorted(self._cluster.recovered):
            log.warning("agent %s did not re-register after the master's restart", agent_id)
            self._cluster.recovered.discard(agent_id)
            self._cluster.registry.mark_unreachable(agent_id, self._cluster.now())
            self._lost(agent_id)

    # ---- messages of agents

    def _refused(self, message: Json, ip: str, link: Link) -> bool:
        """A machine that is under maintenance has no agents; one whose domain cannot be is not even answered."""
        error = self._domain_error(message["info"])
        if error is not None:
            log.warning("ignoring the agent at %s:%s: %s", ip, message["info"]["port"], error)
            link.close()
            return True
        down = self.is_down((message["info"]["hostname"].lower(), ip))
        if down:
            link.send({"type": "SHUTDOWN", "message": "Machine is `DOWN`"})
        return down

    def _domain_error(self, info: Json) -> str | None:
        flags = self._cluster.flags
        if "domain" in info and flags.domain is None:
            return "it has a domain, but this master has none (--domain)"
        if "domain" not in info and flags.require_agent_domain:
            return "it has no domain, which this master requires (--require_agent_domain)"
        return None

    def register(self, message: Json, ip: str, link: Link) -> Agent | None:
        """A new agent; one that vanished from the same address is given up for it. None: it was told to shut down."""
        cluster = self._cluster
        info = message["info"]
        if self._refused(message, ip, link):
            return None
        old = self._at.get((ip, info["port"]))
        if old is not None and not old.connected and cluster.agents.get(old.agent_id) is old:
            self.remove(old, "a new agent registered at the same address")
        agent_id = cluster.new_id("S")
        agent = self._agent({**info, "id": {"value": agent_id}}, message, ip, link)
        agent.registered = agent.reregistered = cluster.now()
        self._admit(agent, {})
        agent.send({"type": "REGISTERED", "agent_id": agent_id})
        self.admitted(agent)
        log.info("registered agent %s at %s:%d with %s", agent_id, ip, info["port"], agent.total)
        return agent

    def reregister(self, message: Json, ip: str, link: Link) -> Agent | None:
        """An agent that has an id. None: it was told to shut down."""
        cluster = self._cluster
        agent_id = message["info"]["id"]["value"]
        if self._refused(message, ip, link):
            return None
        if agent_id in cluster.registry.gone:
            link.send({"type": "SHUTDOWN", "message": "Agent has been marked gone"})
            return None
        known = cluster.agents.get(agent_id)
        if known is None:
            return self._readmit(message, ip, link)
        if known.ip != ip or known.info["hostname"] != message["info"]["hostname"]:
            text = f"Agent {agent_id} re-registered with a different IP or hostname"
            link.send({"type": "SHUTDOWN", "message": text})
            return None
        return self._reconnect(known, message, link)

    @staticmethod
    def _agent(info: Json, message: Json, ip: str, link: Link) -> Agent:
        remembered = Resources.from_json(message.get("checkpointed", []))
        total = restored(Resources.from_json(info.get("resources", [])), remembered)
        return Agent(info["id"]["value"], info, ip, message["version"], total, link)

    def _admit(self, agent: Agent, used: dict[str, Resources]) -> None:
        cluster = self._cluster
        cluster.agents[agent.agent_id] = self._at[agent.ip, agent.info["port"]] = agent
        cluster.recovered.discard(agent.agent_id)
        cluster.registry.admit(agent.agent_id, agent.info)
        remote = "domain" in agent.info and region(agent.info) != region({"domain": cluster.flags.domain})
        cluster.allocator.add_agent(agent.agent_id, agent.total, used, remote=remote)
        cluster.allocate_soon([agent.agent_id])
        self._schedule_ping(agent)

    def _reconnect(self, agent: Agent, message: Json, link: Link) -> Agent:
        """The master remembers its tasks: what the agent does not is reconciled through it."""
        cluster = self._cluster
        if agent.link is not None:
            agent.link.close()
            self._take_back_offers(agent)
        agent.link, agent.info, agent.missed_pings = link, message["info"], 0
        agent.reregistered = cluster.now()
        tasks = {(t["framework_id"]["value"], t["task_id"]["value"]): t for t in message["tasks"]}
        unknown: dict[str, list[str]] = {}
        for framework_id, task_id in agent.tasks:
            if (framework_id, task_id) not in tasks:
                unknown.setdefault(framework_id, []).append(task_id)
        agent.send(
            {
                "type": "REREGISTERED",
                "agent_id": agent.agent_id,
                "reconciliations": [
                    {"framework": cluster.frameworks[framework_id].info, "task_ids": task_ids}
                    for framework_id, task_ids in unknown.items()
                    if framework_id in cluster.frameworks
                ],
            }
        )
        agent.send(checkpoint_message(agent))  # it may have missed one
        present = {(e["framework_id"]["value"], e["executor_id"]["value"]) for e in message["executors"]}
        for framework_id, executors in list(agent.executors.items()):
            for executor_id in [e for e in executors if (framework_id, e) not in present]:
                cluster.remove_executor(agent, framework_id, executor_id)
        for framework_id, task_id in sorted(agent.killed & set(tasks)):
            agent.send({"type": "KILL", "framework_id": framework_id, "task_id": task_id})
        self._frameworks_of(agent, message)
        cluster.allocator.set_agent_active(agent.agent_id, True)
        self.admitted(agent)
        cluster.allocate_soon([agent.agent_id])
        log.info("agent %s is back", agent.agent_id)
        return agent

    def _readmit(self, message: Json, ip: str, link: Link) -> Agent:
        """An agent that was given up, or that this master has not seen since its start: its tasks return."""
        cluster = self._cluster
        agent = self._agent(message["info"], message, ip, link)
        was_unreachable = agent.agent_id in cluster.registry.unreachable
        was_recovered = agent.agent_id in cluster.recovered
        self._frameworks_of(agent, message)
        used: dict[str, Resources] = {}
        for executor in message["executors"]:
            framework = cluster.frameworks.get(executor["framework_id"]["value"])
            if framework is not None:
                cluster.add_executor(agent, framework, executor)
                self._use(used, framework.framework_id, bag(executor.get("resources", [])))
        text = "Unreachable agent re-reregistered" if was_unreachable else "Unknown agent reregistered"
        tasks = [Task.from_json(obj) for obj in message["tasks"]]
        cluster.agents[agent.agent_id] = agent
        for task in tasks:
            framework = cluster.frameworks.get(task.framework_id)
            if framework is None:
                continue
            framework.unreachable.pop(task.task_id, None)
            for old in [t for t in framework.completed if t.task_id == task.task_id]:
                framework.completed.remove(old)
            cluster.add_task(task)
            if not task.terminal:
                self._use(used, task.framework_id, task.resources)
            if not was_recovered:
                reason = "REASON_AGENT_REREGISTERED"
                update = statuses.of_task(task, task.state, text, reason, cluster.now())
                statuses.send(framework, update)
        agent.registered = agent.reregistered = cluster.now()
        self._admit(agent, used)
        agent.send({"type": "REREGISTERED", "agent_id": agent.agent_id, "reconciliations": []})
        self.admitted(agent)
        log.info("re-registered agent %s with %d tasks", agent.agent_id, len(tasks))
        return agent

    @staticmethod
    def _use(used: dict[str, Resources], framework_id: str, resources: Resources) -> None:
        used[framework_id] = used.get(framework_id, Resources()) + resources

    def _frameworks_of(self, agent: Agent, message: Json) -> None:
        """Frameworks come back with agents; those that were removed are shut down there."""
        cluster = self._cluster
        for info in message["frameworks"]:
            framework_id = info["id"]["value"]
            if framework_id in cluster.completed:
                agent.send({"type": "SHUTDOWN_FRAMEWORK", "framework_id": framework_id})
            elif framework_id not in cluster.frameworks:
                framework = Framework(framework_id, info, recovered=True)
                framework.registered = framework.reregistered = cluster.now()
                cluster.frameworks[framework_id] = framework
                cluster.allocator.add_framework(
                    framework_id, framework.roles, framework.roles, framework.capabilities
                )
                cluster.allocator.set_framework_active(framework_id, False)
            elif cluster.frameworks[framework_id].info != info:
                agent.send({"type": "UPDATE_FRAMEWORK", "framework": cluster.frameworks[framework_id].info})

    def update(self, agent: Agent, message: Json) -> None:
        """A status update: to the scheduler if it listens, into our state in any case."""
        cluster = self._cluster
        status = message["status"]
        cluster.counters["master/messages_status_update"] += 1
        framework = cluster.frameworks.get(message["framework_id"])
        task = agent.tasks.get((message["framework_id"], status["task_id"]["value"]))
        if framework is not None and framework.connected:
            if task is not None:
                task.status_update_state, task.status_update_uuid = status["state"], status["uuid"]
            statuses.send(framework, status)
        if task is None:
            log.warning("no task for the update of %s from agent %s", status["task_id"], agent.agent_id)
            return
        cluster.update_task(task, status, message.get("latest_state"))

    def oversubscribed(self, agent: Agent, message: Json) -> None:
        """What an agent has now of revocable resources: offers with any are taken back (`Master::updateSlave`)."""
        revocable = Resources.from_json(message["resources"])
        agent.total = agent.total.filter(lambda shape: "revocable" not in shape) + revocable
        log.info("agent %s has revocable resources: %s", agent.agent_id, revocable)
        self._cluster.allocator.update_total(agent.agent_id, agent.total)
        for offer in list(agent.offers.values()):
            if offer.resources.filter(lambda shape: "revocable" in shape):
                self._cluster.rescind_offer(offer)
        self._cluster.allocate_soon([agent.agent_id])

    def exited_executor(self, agent: Agent, message: Json) -> None:
        """An executor's end: its resources are free, the scheduler hears the raw wait status."""
        framework_id, executor_id = message["framework_id"], message["executor_id"]
        if executor_id not in agent.executors.get(framework_id, {}):
            log.warning("unknown executor %s exited on agent %s", executor_id, agent.agent_id)
            return
        self._cluster.remove_executor(agent, framework_id, executor_id)
        framework = self._cluster.frameworks.get(framework_id)
        if framework is not None:
            body = {
                "agent_id": {"value": agent.agent_id},
                "executor_id": {"value": executor_id},
                "status": message["status"],
            }
            framework.send("FAILURE", body)

    def executor_message(self, agent: Agent, message: Json) -> None:
        """From an executor to its scheduler; lost when nobody listens."""
        framework = self._cluster.frameworks.get(message["framework_id"])
        if framework is not None:
            body = {
                "agent_id": {"value": agent.agent_id},
                "executor_id": {"value": message["executor_id"]},
                "data": message["data"],
            }
            framework.send("MESSAGE", body)

    def unregister(self, agent: Agent) -> None:
        """The agent said good-bye (SIGUSR1)."""
        self.remove(agent, "the agent unregistered")

    def remove(self, agent: Agent, cause: str) -> None:
        """An agent that will not be back under this id; its tasks are lost, as Mesos still says here."""
        self._cluster.registry.remove(agent.agent_id)
        text = f"Agent {agent.info['hostname']} removed: {cause}"
        self._remove(agent, "TASK_LOST", text, None)

    def pong(self, agent: Agent) -> None:
        agent.missed_pings = 0

    # ---- silence

    def disconnected(self, agent: Agent, link: Link) -> None:
        """The link broke: nothing is offered there until the agent is back or its pings time out."""
        if agent.link is not link or self._cluster.agents.get(agent.agent_id) is not agent:
            return
        log.info("agent %s disconnected", agent.agent_id)
        agent.link = None
        self._cluster.allocator.set_agent_active(agent.agent_id, False)
        self._take_back_offers(agent)

    def _take_back_offers(self, agent: Agent) -> None:
        for offer in list(agent.offers.values()):
            self._cluster.rescind_offer(offer)

    def _schedule_ping(self, agent: Agent) -> None:
        timeout = self._cluster.flags.agent_ping_timeout
        agent.send({"type": "PING"})
        agent.ping_timer = self._cluster.later(timeout, self._ping_timeout, agent)

    def _ping_timeout(self, agent: Agent) -> None:
        if agent.missed_pings >= self._cluster.flags.max_agent_ping_timeouts:
            self.mark_unreachable(agent, "health check timed out")
            return
        agent.missed_pings += 1  # until its PONG
        self._schedule_ping(agent)

    def mark_unreachable(self, agent: Agent, message: str) -> None:
        """Give an agent up; its tasks may come back with it."""
        now = self._cluster.now()
        self._cluster.registry.mark_unreachable(agent.agent_id, now)
        self._remove(agent, "TASK_UNREACHABLE", message, now)

    def mark_gone(self, agent: Agent) -> None:
        """The operator says it will never be back."""
        self._cluster.registry.mark_gone(agent.agent_id, self._cluster.now())
        agent.send({"type": "SHUTDOWN", "message": "Agent has been marked gone"})
        self._remove(agent, "TASK_GONE_BY_OPERATOR", "Agent has been marked gone", None)

    def _remove(self, agent: Agent, state: str, message: str, unreachable: float | None) -> None:
        cluster = self._cluster
        log.warning("removing agent %s: %s", agent.agent_id, message)
        if agent.ping_timer is not None:
            agent.ping_timer.cancel()
        gone = state == "TASK_GONE_BY_OPERATOR"
        reason = "REASON_AGENT_REMOVED_BY_OPERATOR" if gone else "REASON_AGENT_REMOVED"
        for task in list(agent.tasks.values()):
            self._lose_task(task, state, message, reason, unreachable)
        agent.tasks.clear()
        for framework_id, executors in list(agent.executors.items()):
            for executor_id in list(executors):
                cluster.remove_executor(agent, framework_id, executor_id)
        self._take_back_offers(agent)
        if self._at.get((agent.ip, agent.info["port"])) is agent:
            del self._at[agent.ip, agent.info["port"]]
        cluster.allocator.remove_agent(agent.agent_id)
        del cluster.agents[agent.agent_id]
        link, agent.link = agent.link, None
        if link is not None:
            link.close()
        self._lost(agent.agent_id)

    def _lose_task(
        self, task: Task, state: str, message: str, reason: str, unreachable: float | None
    ) -> None:
        cluster = self._cluster
        framework = cluster.frameworks.get(task.framework_id)
        if framework is None:
            return
        new_state = framework.state_or_lost(state)
        update: dict[str, Any] = statuses.status(
            task.task_id,
            new_state,
            message,
            reason,
            cluster.now(),
            agent_id=task.agent_id,
            executor_id=task.executor_id,
        )
        if unreachable is not None:
            update["unreachable_time"] = {"nanoseconds": int(unreachable * 1e9)}
        statuses.send(framework, update)
        if new_state == "TASK_UNREACHABLE":
            task.state = new_state
            framework.tasks.pop(task.task_id, None)
            framework.add_unreachable(task)
            return
        cluster.update_task(task, update)
        cluster.remove_task(task)

    def _lost(self, agent_id: str) -> None:
        for framework in self._cluster.frameworks.values():
            framework.send("FAILURE", {"agent_id": {"value": agent_id}})
