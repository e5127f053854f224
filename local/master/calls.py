"""The other scheduler calls: KILL, RECONCILE, ACKNOWLEDGE, REVIVE, SUPPRESS, MESSAGE, SHUTDOWN, and the dispatch.

As in Mesos a call that makes no sense is dropped with a log line; 202 only says that it was read.

Source: Mesos src/master/http.cpp (`Http::scheduler`), src/master/master.cpp (`kill`, `acknowledge`, `revive`, …).
"""

import logging
from collections.abc import Callable

from local.master import reconcile, statuses
from local.master.cluster import Cluster
from local.master.launches import Launches
from local.master.maintenance import Maintenance
from local.master.model import Framework
from local.master.subscriptions import Subscriptions
from local.tasks import TERMINAL
from local.wire.proto import Json

log = logging.getLogger(__name__)


class Calls:
    """Acts on calls of a subscribed framework."""

    def __init__(self, cluster: Cluster, subscriptions: Subscriptions, maintenance: Maintenance) -> None:
        self._cluster = cluster
        self._maintenance = maintenance
        self._subscriptions = subscriptions
        launches = Launches(cluster)
        self._handlers: dict[str, Callable[[Framework, Json], None]] = {
            "ACCEPT": launches.accept,
            "DECLINE": launches.decline,
            "ACCEPT_INVERSE_OFFERS": lambda f, call: maintenance.answer(f, call, "ACCEPT"),
            "DECLINE_INVERSE_OFFERS": lambda f, call: maintenance.answer(f, call, "DECLINE"),
            "REVIVE": self.revive,
            "SUPPRESS": self.suppress,
            "KILL": self.kill,
            "SHUTDOWN": self.shutdown,
            "ACKNOWLEDGE": self.acknowledge,
            "RECONCILE": self.reconcile,
            "MESSAGE": self.message,
        }

    def handle(self, framework: Framework, call: Json) -> str | None:
        """Do a validated call that is not SUBSCRIBE. The text is that of a 400."""
        kind = call["type"]
        self._cluster.counters[f"master/messages_{kind.lower()}"] += 1
        if kind == "TEARDOWN":
            self._subscriptions.remove(framework)
            return None
        if kind == "UPDATE_FRAMEWORK":
            return self._subscriptions.update_framework(framework, call["update_framework"])
        handler = self._handlers.get(kind)
        if handler is None:
            # Nothing here makes requests or operations that could be meant.
            log.warning("%s of framework %s is not supported here: dropped", kind, framework.framework_id)
            return None
        handler(framework, call.get(kind.lower(), {}))
        return None

    def _known_roles(self, framework: Framework, kind: str, roles: list[str]) -> bool:
        for role in roles:
            if role not in framework.roles:
                log.warning(
                    "dropping %s of framework %s: role '%s' is not one of its roles",
                    kind,
                    framework.framework_id,
                    role,
                )
                return False
        return True

    def revive(self, framework: Framework, call: Json) -> None:
        """Filters and suppression are lifted; offers come at once."""
        roles = call.get("roles", [])
        if self._known_roles(framework, "REVIVE", roles):
            self._cluster.allocator.revive(framework.framework_id, roles)
            self._maintenance.revived(framework)
            self._cluster.allocate_soon()

    def suppress(self, framework: Framework, call: Json) -> None:
        """No offers until REVIVE; those that are out stay."""
        roles = call.get("roles", [])
        if self._known_roles(framework, "SUPPRESS", roles):
            self._cluster.allocator.suppress(framework.framework_id, roles)

    def kill(self, framework: Framework, call: Json) -> None:
        """To the agent; an unknown task gets the answer of a reconciliation."""
        task_id = call["task_id"]["value"]
        agent_id = call.get("agent_id", {}).get("value")
        task = framework.tasks.get(task_id)
        if task is None:
            self._reconcile_one(framework, task_id, agent_id)
            return
        if agent_id is not None and agent_id != task.agent_id:
            log.warning("ignoring KILL of %s: it is on agent %s, not %s", task_id, task.agent_id, agent_id)
            return
        agent = self._cluster.agents[task.agent_id]
        agent.killed.add((framework.framework_id, task_id))
        message: Json = {"type": "KILL", "framework_id": framework.framework_id, "task_id": task_id}
        if "kill_policy" in call:
            message["kill_policy"] = call["kill_policy"]
        agent.send(message)

    def acknowledge(self, framework: Framework, call: Json) -> None:
        """To the agent; the task is forgotten when its last update is acknowledged."""
        agent = self._cluster.agents.get(call["agent_id"]["value"])
        if agent is None or not agent.connected:
            log.warning("cannot acknowledge to agent %s: it is not here", call["agent_id"]["value"])
            return
        task_id, uuid = call["task_id"]["value"], call["uuid"]
        task = agent.tasks.get((framework.framework_id, task_id))
        if task is not None:
            if task.status_update_state is None:
                log.warning("ignoring ACKNOWLEDGE of %s: this master sent no such update", task_id)
                return
            if task.status_update_state in TERMINAL and task.status_update_uuid == uuid:
                self._cluster.remove_task(task)
        agent.send(
            {"type": "ACKNOWLEDGE", "framework_id": framework.framework_id, "task_id": task_id, "uuid": uuid}
        )

    def reconcile(self, framework: Framework, call: Json) -> None:
        """Explicit for the tasks listed, implicit when there are none."""
        tasks = call.get("tasks", [])
        if not tasks:
            for update in reconcile.implicit(framework, self._cluster.now()):
                statuses.send(framework, update)
        for task in tasks:
            self._reconcile_one(framework, task["task_id"]["value"], task.get("agent_id", {}).get("value"))

    def _reconcile_one(self, framework: Framework, task_id: str, agent_id: str | None) -> None:
        cluster = self._cluster
        agents = reconcile.Agents(
            cluster.agents, cluster.recovered, cluster.registry.unreachable, cluster.registry.gone
        )
        update = reconcile.explicit(framework, task_id, agent_id, agents, cluster.now())
        if update is not None:
            statuses.send(framework, update)

    def message(self, framework: Framework, call: Json) -> None:
        """To an executor; lost when its agent is away."""
        agent = self._cluster.agents.get(call["agent_id"]["value"])
        if agent is None or not agent.connected:
            log.warning("dropping MESSAGE: agent %s is not here", call["agent_id"]["value"])
            return
        agent.send(
            {
                "type": "MESSAGE",
                "framework_id": framework.framework_id,
                "executor_id": call["executor_id"]["value"],
                "data": call["data"],
            }
        )

    def shutdown(self, framework: Framework, call: Json) -> None:
        """End an executor."""
        agent = self._cluster.agents.get(call["agent_id"]["value"])
        if agent is None:
            log.warning("ignoring SHUTDOWN: agent %s is not here", call["agent_id"]["value"])
            return
        agent.send(
            {
                "type": "SHUTDOWN_EXECUTOR",
                "framework_id": framework.framework_id,
                "executor_id": call["executor_id"]["value"],
            }
        )
