"""A framework on pymesos' own drivers that wants much of the cluster, as Spark would. Two programs in one file:

greedy.py scheduler MASTER CPUS     takes all it is offered up to so many cpus, in tasks of SIZE; says on standard
                                    output, one JSON object a line, what each round of offers brought
greedy.py executor                  runs tasks that never end
"""

import json
import os
import shlex
import sys
from threading import Event
from typing import Any

from pymesos import Executor, MesosExecutorDriver, MesosSchedulerDriver, Scheduler

SIZE, OVERHEAD = 0.8, 0.1


def scalars(cpus: float) -> list[dict[str, Any]]:
    amounts = {"cpus": cpus, "mem": 32.0}
    return [{"name": n, "type": "SCALAR", "scalar": {"value": v}} for n, v in amounts.items()]


class Greedy(Scheduler):
    def __init__(self, cpus: float) -> None:
        self.left = round(cpus / SIZE)
        self.number = 0

    def say(self, **words: Any) -> None:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()

    def resourceOffers(self, driver: Any, offers: list[dict[str, Any]]) -> None:
        for offer in offers:
            if self.left:
                driver.launchTasks(offer["id"], self.tasks(offer))
            else:
                driver.declineOffer(offer["id"], {"refuse_seconds": 3600.0})
        self.say(event="offers", left=self.left)

    def tasks(self, offer: dict[str, Any]) -> list[dict[str, Any]]:
        cpus = next(one["scalar"]["value"] for one in offer["resources"] if one["name"] == "cpus")
        count = min(self.left, int((cpus - OVERHEAD) / SIZE))
        self.left -= count
        command = shlex.join([sys.executable, __file__, "executor"])
        executor = {"type": "CUSTOM", "executor_id": {"value": "greedy"}, "command": {"value": command},
                    "resources": scalars(OVERHEAD)}  # fmt: skip
        tasks = []
        for _ in range(count):
            self.number += 1
            tasks.append(
                {
                    "name": "greedy",
                    "task_id": {"value": f"greedy-{self.number}"},
                    "agent_id": offer["agent_id"],
                    "resources": scalars(SIZE),
                    "executor": executor,
                }
            )
        return tasks

    def statusUpdate(self, driver: Any, status: dict[str, Any]) -> None:
        self.say(event="update", state=status["state"])


class Endless(Executor):
    def launchTask(self, driver: Any, task: dict[str, Any]) -> None:
        driver.sendStatusUpdate({"task_id": task["task_id"], "state": "TASK_RUNNING"})

    def disconnected(self, driver: Any) -> None:
        """The test is over: its agents were killed."""
        os._exit(0)


def main(role: str, *more: str) -> None:
    if role == "executor":
        MesosExecutorDriver(Endless()).run()
        return
    master, cpus = more
    info = {"user": "root", "name": "greedy", "checkpoint": True, "failover_timeout": 60}
    MesosSchedulerDriver(Greedy(float(cpus)), info, master).start()
    Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
