"""The life of frameworks: subscribe, take over, drop out, come back, be removed.

Source: Mesos src/master/master.cpp (`subscribe`, `failoverFramework`, `_exited`, `frameworkFailoverTimeout`,
`removeFramework`, `updateFramework`).
"""

import logging

from local.master import statuses
from local.master.cluster import Cluster
from local.master.model import Framework
from local.master.validation import frameworks as rules
from local.wire.proto import Json
from local.wire.stream import EventStream

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 15.0  # DEFAULT_HEARTBEAT_INTERVAL, src/master/constants.hpp


class Subscriptions:
    """Acts on the cluster's frameworks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def subscribe(self, call: Json, stream: EventStream) -> Framework | None:
        """Give the stream to a framework. A refusal is an ERROR event and the end of the stream: None."""
        info = call["framework_info"]
        error = self._error(call)
        if error is not None:
            log.info("refusing subscription of framework '%s': %s", info["name"], error)
            stream.send({"type": "ERROR", "error": {"message": error}})
            stream.close()
            return None
        suppressed = call.get("suppressed_roles", [])
        framework_id = info.get("id", {}).get("value", "")
        if framework_id in self._cluster.frameworks:
            framework = self._resubscribe(self._cluster.frameworks[framework_id], info, stream, suppressed)
        else:
            framework = self._add(framework_id, info, stream, suppressed)
        log.info("framework %s '%s' subscribed", framework.framework_id, info["name"])
        return framework

    def _error(self, call: Json) -> str | None:
        info = call["framework_info"]
        cluster = self._cluster
        error = rules.framework_error(info, cluster.flags.roles, cluster.completed)
        error = error or rules.options_error(info, call)
        known = cluster.frameworks.get(info.get("id", {}).get("value", ""))
        if error is None and known is not None:
            error = rules.update_error(known.info, rules.keep_immutable(known.info, info))
        return error

    def _add(self, framework_id: str, info: Json, stream: EventStream, suppressed: list[str]) -> Framework:
        cluster = self._cluster
        framework_id = framework_id or cluster.new_id("")
        framework = Framework(framework_id, {**info, "id": {"value": framework_id}})
        framework.registered = framework.reregistered = cluster.now()
        cluster.frameworks[framework_id] = framework
        cluster.allocator.add_framework(framework_id, framework.roles, suppressed, framework.capabilities)
        self._activate(framework, stream)
        return framework

    def _resubscribe(
        self, framework: Framework, info: Json, stream: EventStream, suppressed: list[str]
    ) -> Framework:
        """A known framework: whoever held its stream loses it."""
        cluster = self._cluster
        old = framework.stream
        if old is not None:
            old.send({"type": "ERROR", "error": {"message": "Framework failed over"}})
            old.close()
        for offer in list(framework.offers.values()):
            cluster.discard_offer(offer)
        self.update_info(framework, rules.keep_immutable(framework.info, info), suppressed)
        if framework.recovered:
            framework.registered = cluster.now()
        framework.recovered = False
        framework.reregistered = cluster.now()
        self._activate(framework, stream)
        return framework

    def _activate(self, framework: Framework, stream: EventStream) -> None:
        cluster = self._cluster
        self._cancel_timers(framework)
        framework.stream = stream
        framework.active = True
        subscribed = {
            "framework_id": {"value": framework.framework_id},
            "heartbeat_interval_seconds": HEARTBEAT_INTERVAL,
            "master_info": cluster.master_info(),
        }
        framework.send("SUBSCRIBED", subscribed)
        self._heartbeat(framework)
        cluster.allocator.set_framework_active(framework.framework_id, True)
        cluster.allocate_soon()

    def _heartbeat(self, framework: Framework) -> None:
        framework.send("HEARTBEAT")
        framework.heartbeat = self._cluster.later(HEARTBEAT_INTERVAL, self._heartbeat, framework)

    @staticmethod
    def _cancel_timers(framework: Framework) -> None:
        for timer in (framework.heartbeat, framework.failover):
            if timer is not None:
                timer.cancel()
        framework.heartbeat = framework.failover = None

    def update_info(self, framework: Framework, info: Json, suppressed: list[str]) -> None:
        """New FrameworkInfo and suppression; offers of roles that are gone are rescinded, agents are told."""
        cluster = self._cluster
        framework.info = {**info, "id": {"value": framework.framework_id}}
        for offer in list(framework.offers.values()):
            if offer.role not in framework.roles:
                cluster.rescind_offer(offer)
        cluster.allocator.add_framework(
            framework.framework_id, framework.roles, suppressed, framework.capabilities
        )
        for agent in cluster.agents.values():
            agent.send({"type": "UPDATE_FRAMEWORK", "framework": framework.info})

    def update_framework(self, framework: Framework, call: Json) -> str | None:
        """UPDATE_FRAMEWORK; the text of a 400, or None."""
        info = call["framework_info"]
        error = rules.framework_error(info, self._cluster.flags.roles, self._cluster.completed)
        error = error or rules.update_error(framework.info, info)
        if error is not None:
            return f"FrameworkInfo update is not valid: {error}"
        error = rules.options_error(info, call)
        if error is not None:
            return f"'UpdateFramework.suppressed_roles' are not valid: {error}"
        self.update_info(framework, info, call.get("suppressed_roles", []))
        self._cluster.allocate_soon()
        return None

    # ---- the end

    def disconnected(self, framework: Framework, stream: EventStream) -> None:
        """The peer closed its stream: offers are taken back, the failover timeout starts."""
        if framework.stream is not stream:
            return  # taken over meanwhile
        log.info("framework %s disconnected", framework.framework_id)
        self._deactivate(framework)
        timeout = framework.info["failover_timeout"]
        if timeout <= 0:
            self.remove(framework)
        elif timeout < 86400 * 365 * 100:  # the loop's timers are no longer than that
            framework.failover = self._cluster.later(timeout, self._timed_out, framework)

    def _deactivate(self, framework: Framework) -> None:
        self._cancel_timers(framework)
        framework.active = False
        framework.stream = None
        for offer in list(framework.offers.values()):
            self._cluster.discard_offer(offer)
        self._cluster.allocator.set_framework_active(framework.framework_id, False)

    def _timed_out(self, framework: Framework) -> None:
        log.info("framework %s did not come back within its failover timeout", framework.framework_id)
        self.remove(framework)

    def remove(self, framework: Framework) -> None:
        """TEARDOWN, or the failover timeout: tasks count as killed, nobody is told but the agents."""
        cluster = self._cluster
        log.info("removing framework %s", framework.framework_id)
        stream = framework.stream
        self._deactivate(framework)
        for agent in cluster.agents.values():
            agent.send({"type": "SHUTDOWN_FRAMEWORK", "framework_id": framework.framework_id})
        text = f"Framework {framework.framework_id} removed"
        for task in [*framework.tasks.values(), *framework.unreachable.values()]:
            update = statuses.of_task(task, "TASK_KILLED", text, "REASON_FRAMEWORK_REMOVED", cluster.now())
            cluster.update_task(task, update)
            cluster.remove_task(task)
        framework.unreachable.clear()
        for agent_id, executors in list(framework.executors.items()):
            for executor_id in list(executors):
                if agent_id in cluster.agents:
                    cluster.remove_executor(cluster.agents[agent_id], framework.framework_id, executor_id)
        cluster.allocator.remove_framework(framework.framework_id)
        framework.unregistered = cluster.now()
        cluster.complete_framework(framework)
        if stream is not None:
            stream.close()
