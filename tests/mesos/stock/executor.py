"""An executor on pymesos' own driver: every task runs for a moment and finishes. Started by an agent."""

from threading import Thread
from typing import Any

from pymesos import Executor, MesosExecutorDriver, encode_data


class Momentary(Executor):
    def launchTask(self, driver: Any, task: dict[str, Any]) -> None:
        def run() -> None:
            for state in ("TASK_RUNNING", "TASK_FINISHED"):
                status = {
                    "task_id": task["task_id"],
                    "state": state,
                    "data": encode_data(b"from the stock executor"),
                }
                driver.sendStatusUpdate(status)

        Thread(target=run).start()


if __name__ == "__main__":
    MesosExecutorDriver(Momentary()).run()
