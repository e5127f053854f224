"""Agents that their operators drain, deactivate and take back.

A drained agent stays registered: its tasks are killed with at most the given grace, nothing is offered there until
it is reactivated. Then the agent may still drop launches until its last executor has gone.

Source: Mesos src/master/http.cpp (`_drainAgent`, `_deactivateAgent`, `_reactivateAgent`), src/master/master.cpp
(`checkAndTransitionDrainingAgent`).
"""

import logging
from typing import Any

from local.master.agents import Agents
from local.master.cluster import Cluster
from local.master.model import Agent
from local.wire.proto import Json

log = logging.getLogger(__name__)


class DrainError(Exception):
    """Why an operator's call is refused."""


def _seconds(duration: Any) -> Json | None:
    """google.protobuf.Duration ({"seconds", "nanos"}, or "5s") as DurationInfo."""
    if isinstance(duration, str) and duration.endswith("s"):
        return {"nanoseconds": int(float(duration[:-1]) * 1e9)}
    if isinstance(duration, dict):
        rest = duration.get("nanos") or duration.get("nanoseconds") or 0
        return {"nanoseconds": int(duration.get("seconds") or 0) * 1_000_000_000 + int(rest)}
    return None


class Draining:
    """Acts on agents; what was asked outlives the master in the registry."""

    def __init__(self, cluster: Cluster, agents: Agents) -> None:
        self._cluster = cluster
        self._agents = agents
        cluster.task_removed = self.check
        agents.admitted = self.resume

    def drain(self, agent_id: str, call: Json) -> None:
        """DRAIN_AGENT. Raises DrainError."""
        agent = self._known(agent_id)
        config: Json = {"mark_gone": bool(call.get("mark_gone", False))}
        grace = _seconds(call.get("max_grace_period"))
        if grace is not None:
            config["max_grace_period"] = grace
        info = {"state": "DRAINING", "config": config}
        self._cluster.registry.keep_deactivated(agent_id, {"drain_info": info, "start": self._cluster.now()})
        self._deactivate(agent)
        agent.send({"type": "DRAIN", "config": config})
        self.check(agent)

    def deactivate(self, agent_id: str) -> None:
        """DEACTIVATE_AGENT: no offers, but nothing is killed. Raises DrainError."""
        agent = self._known(agent_id)
        self._cluster.registry.keep_deactivated(
            agent_id, self._cluster.registry.deactivated.get(agent_id, {})
        )
        self._deactivate(agent)

    def reactivate(self, agent_id: str) -> None:
        """REACTIVATE_AGENT. Raises DrainError."""
        registry = self._cluster.registry
        if agent_id not in registry.deactivated:
            raise DrainError(f"Agent {agent_id} is not deactivated")
        if registry.deactivated[agent_id].get("drain_info", {}).get("state") == "DRAINING":
            raise DrainError(f"Agent {agent_id} is still in the DRAINING state")
        registry.keep_deactivated(agent_id, None)
        agent = self._cluster.agents.get(agent_id)
        if agent is not None:
            agent.deactivated = None
            self._cluster.allocator.set_agent_active(agent_id, agent.connected)
            self._cluster.allocate_soon([agent_id])

    def _known(self, agent_id: str) -> Agent:
        agent = self._cluster.agents.get(agent_id)
        if agent is None:
            raise DrainError(f"Agent {agent_id} is not registered")
        return agent

    def _deactivate(self, agent: Agent) -> None:
        agent.deactivated = self._cluster.registry.deactivated[agent.agent_id]
        self._cluster.allocator.set_agent_active(agent.agent_id, False)
        for offer in list(agent.offers.values()):
            self._cluster.rescind_offer(offer)

    def resume(self, agent: Agent) -> None:
        """An agent registered or came back: what was asked of it still holds."""
        known = self._cluster.registry.deactivated.get(agent.agent_id)
        agent.deactivated = known
        if known is None:
            return
        self._cluster.allocator.set_agent_active(agent.agent_id, False)
        if known.get("drain_info", {}).get("state") == "DRAINING":
            agent.send({"type": "DRAIN", "config": known["drain_info"]["config"]})
            self.check(agent)

    def check(self, agent: Agent) -> None:
        """An agent without tasks is drained."""
        known = agent.deactivated
        if not known or known.get("drain_info", {}).get("state") != "DRAINING" or agent.tasks:
            return
        log.info("agent %s is drained", agent.agent_id)
        info = {**known["drain_info"], "state": "DRAINED"}
        self._cluster.registry.keep_deactivated(agent.agent_id, {**known, "drain_info": info})
        agent.deactivated = self._cluster.registry.deactivated[agent.agent_id]
        if info["config"].get("mark_gone"):
            self._agents.mark_gone(agent)
