"""An executor on our driver: tasks run until a framework message names them (then they finish) or they are killed.
Started by an agent."""

import asyncio
import logging
import os
from base64 import b64decode
from typing import Any

from shared.mesos.executor_driver import Executor, ExecutorDriver


class Patient(Executor):
    def __init__(self) -> None:
        self.over = asyncio.Event()

    def launchTask(self, driver: ExecutorDriver, task: dict[str, Any]) -> None:
        driver.sendStatusUpdate({"task_id": task["task_id"], "state": "TASK_RUNNING"})

    def killTask(self, driver: ExecutorDriver, task_id: dict[str, Any], kill_policy: Any = None) -> None:
        driver.sendStatusUpdate({"task_id": task_id, "state": "TASK_KILLED", "message": str(kill_policy)})

    def frameworkMessage(self, driver: ExecutorDriver, data: str) -> None:
        driver.sendStatusUpdate({"task_id": b64decode(data).decode(), "state": "TASK_FINISHED"})

    def disconnected(self, driver: ExecutorDriver) -> None:
        # The agent is away: this must reach the scheduler all the same.
        for task_id in driver.tasks:
            driver.sendStatusUpdate(
                {"task_id": task_id, "state": "TASK_RUNNING", "message": "agent was away"}
            )

    def shutdown(self, driver: ExecutorDriver) -> None:
        self.over.set()

    def error(self, driver: ExecutorDriver, message: str) -> None:
        self.over.set()


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    executor = Patient()
    driver = ExecutorDriver(executor, os.environ)
    await driver.start()
    await executor.over.wait()
    await driver.stop(timeout=1)


if __name__ == "__main__":
    asyncio.run(main())
