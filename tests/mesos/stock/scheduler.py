"""A scheduler on pymesos' own driver: launches one task on the first offer that fits, says on standard output what
becomes of it (one JSON object a line), and tears its framework down at the end.

Arguments: the master, the executor's command.
"""

import json
import sys
from threading import Event
from typing import Any

from pymesos import MesosSchedulerDriver, Scheduler, decode_data

TERMINAL = ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST")


def scalars(**amounts: float) -> list[dict[str, Any]]:
    return [{"name": n, "type": "SCALAR", "scalar": {"value": v}} for n, v in amounts.items()]


class OneTask(Scheduler):
    def __init__(self, command: str) -> None:
        self.command = command
        self.launched = False
        self.over = Event()

    def say(self, **words: Any) -> None:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()

    def registered(self, driver: Any, framework_id: dict[str, Any], master_info: dict[str, Any]) -> None:
        self.say(event="registered", framework_id=framework_id["value"])

    def resourceOffers(self, driver: Any, offers: list[dict[str, Any]]) -> None:
        for offer in offers:
            if self.launched:
                driver.declineOffer(offer["id"])
                continue
            self.launched = True
            executor = {
                "type": "CUSTOM",
                "executor_id": {"value": "stock.1"},
                "command": {"value": self.command},
                "resources": scalars(cpus=0.1, mem=32),
            }
            task = {
                "name": "stock",
                "task_id": {"value": "stock-1"},
                "agent_id": offer["agent_id"],
                "resources": scalars(cpus=0.1, mem=32),
                "executor": executor,
            }
            driver.launchTasks(offer["id"], [task])

    def statusUpdate(self, driver: Any, status: dict[str, Any]) -> None:
        data = decode_data(status.get("data", "")).decode()
        self.say(event="update", state=status["state"], data=data, message=status.get("message", ""))
        if status["state"] in TERMINAL:
            self.over.set()

    def error(self, driver: Any, message: str) -> None:
        self.say(event="error", message=message)
        self.over.set()


def main(master: str, command: str) -> None:
    scheduler = OneTask(command)
    driver = MesosSchedulerDriver(
        scheduler, {"user": "root", "name": "stock", "checkpoint": True, "failover_timeout": 60}, master
    )
    driver.start()
    scheduler.over.wait()
    driver.stop()  # tears the framework down
    driver.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
