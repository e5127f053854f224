"""Oversubscription: what an agent tells of its revocable resources, and what becomes of those who use too many.

The agent's total is what is allocated, and what is left of the estimate (`estimator`), so it shrinks only as executors
end; with --qos_controller=estimate the latest of them are ended.

Source: Mesos src/slave/slave.cpp (`_forwardOversubscribed`, `_qosCorrections`).
"""

from __future__ import annotations

import asyncio

from local.agent.containers.containerizer import Termination
from local.agent.core import Core
from local.agent.executors import Executors
from local.agent.model import Executor, State
from local.wire.proto import Json
from shared.mesos.resources import Resources


def revocable(resources: Resources) -> Resources:
    """What of it is."""
    return resources.filter(lambda shape: "revocable" in shape)


class Oversubscription:
    """Tells the master, and ends executors. Does nothing without --resource_estimator."""

    def __init__(self, core: Core, executors: Executors) -> None:
        self._core = core
        self._executors = executors
        self._told: Resources | None = None

    async def run(self) -> None:
        """Once an interval, until cancelled."""
        if self._core.flags.resource_estimator is None:
            return
        while True:
            self.look(self._core.flags.resource_estimator.total())
            await asyncio.sleep(self._core.flags.oversubscribed_resources_interval)

    def look(self, estimate: Resources) -> None:
        """Acts on a new estimate."""
        users = self._users()
        allocated = sum((held for _, held in users), Resources())
        total = allocated + (estimate - allocated)
        if total != self._told:
            self._told = total
            self.announce()
        if self._core.flags.qos_controller == "estimate":
            self._correct(users, estimate)

    def announce(self) -> None:
        """To the master, which forgets it when the agent registers."""
        if self._told is not None:
            self._core.send({"type": "OVERSUBSCRIBED", "resources": self._told.to_json()})

    def _users(self) -> list[tuple[Executor, Resources]]:
        """Executors that hold revocable resources, in the order in which they were started."""
        found = []
        for framework in self._core.frameworks.values():
            for executor in framework.executors.values():
                held = revocable(self._held(executor)).unallocate()
                if held and executor.state is not State.TERMINATED:
                    found.append((executor, held))
        return found

    @staticmethod
    def _held(executor: Executor) -> Resources:
        tasks = (Resources.from_json(info["resources"]) for info in executor.queued.values())
        own: list[Json] = executor.info.get("resources", [])
        launched = (task.resources for task in executor.launched.values())
        return sum([*tasks, *launched], Resources.from_json(own))

    def _correct(self, users: list[tuple[Executor, Resources]], estimate: Resources) -> None:
        left = [(executor, held) for executor, held in users if executor.state is not State.TERMINATING]
        while left and not estimate.contains(sum((held for _, held in left), Resources())):
            executor, _ = left.pop()
            framework = self._core.frameworks[executor.framework_id]
            why = Termination(
                None,
                framework.state_or_lost("TASK_GONE"),
                "REASON_CONTAINER_PREEMPTED",
                "Container preempted by QoS correction",
            )
            self._executors.destroy(executor, why)
