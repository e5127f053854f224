"""Oversubscription: which revocable resources an agent says it has, and what becomes of those who use too many.

The estimate is a fixed amount, or what a file says each time. The agent's total is what is allocated of it, and what is
left of the estimate, so it shrinks only as executors end; with --qos_controller=estimate the latest of them are ended.

Source: Mesos src/slave/resource_estimators/fixed.cpp, src/slave/slave.cpp (`_forwardOversubscribed`,
`_qosCorrections`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from local.agent.containers.containerizer import Termination
from local.agent.model import Executor, State
from local.wire.proto import Json
from shared.mesos.resources import Resources

if TYPE_CHECKING:
    from local.agent.core import Core
    from local.agent.executors import Executors

log = logging.getLogger(__name__)


def revocable(resources: Resources) -> Resources:
    """What of it is."""
    return resources.filter(lambda shape: "revocable" in shape)


def _marked(text: str) -> Resources:
    """All of it as revocable resources. Raises ValueError."""
    listed = [{**one, "revocable": {}} for one in Resources.parse(text.strip()).to_json()]
    return Resources.from_json(listed)


class Estimator:
    """Says how much there is."""

    def __init__(self, text: str) -> None:
        self._file = Path(text.removeprefix("file://")) if text.startswith("file://") else None
        self._last = Resources()
        if self._file is None:
            try:
                self._last = _marked(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error

    def total(self) -> Resources:
        """Of now; a file that cannot be read changes nothing."""
        if self._file is not None:
            try:
                self._last = _marked(self._file.read_text())
            except (OSError, ValueError) as error:
                log.error("no new estimate: %s", error)
        return self._last


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
