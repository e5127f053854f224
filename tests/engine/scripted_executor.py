"""An executor for tests: every pod is running at once, until it is killed or told to end by a file.

usage: scripted_executor.py DIR. Appends `started TASK ME` to DIR/log for each task, and `ended TASK ME` at its end; ME
is PID.START, for a process id is somebody else's again before long (see proc_pid_stat(5), starttime).
A file DIR/end.<pod name> holding "Succeeded" or "Failed" ends that pod's task when the executor gets SIGUSR1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from shared.mesos.executor_driver import Executor, ExecutorDriver
from shared.wire import Launch, PodEvent, Report

ME = f"{os.getpid()}.{Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]}"
ENDS = {"Succeeded": "TASK_FINISHED", "Failed": "TASK_FAILED"}


class Scripted(Executor):  # type: ignore[misc]
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.over = asyncio.Event()
        self.tasks: dict[str, dict[str, Any]] = {}

    def log(self, line: str) -> None:
        with (self.directory / "log").open("a") as file:
            file.write(line + "\n")

    def report(self, driver: Any, task_id: str, state: str, phase: str) -> None:
        ready = "True" if phase == "Running" else "False"
        running = phase == "Running"
        state_now = {"running": {}} if running else {"terminated": {"exitCode": 0}}
        container = {"name": "main", "ready": running, "restartCount": 0, "state": state_now}
        container |= {"image": "localhost/x", "imageID": ""}
        status = {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [container],
        }
        told = PodEvent("Normal", "Started", "Started container main", "main", "2026-01-01T00:00:00Z")
        report = Report(status, "127.0.0.1:1", (told,) if phase == "Running" else ())
        driver.sendStatusUpdate({"task_id": {"value": task_id}, "state": state, "data": report.encode()})

    def launchTask(self, driver: Any, task: dict[str, Any]) -> None:
        task_id = task["task_id"]["value"]
        self.tasks[task_id] = dict(Launch.decode(task["data"]).pod)
        self.log(f"started {task_id} {ME}")
        self.report(driver, task_id, "TASK_RUNNING", "Running")

    def killTask(self, driver: Any, task_id: dict[str, Any], kill_policy: Any = None) -> None:
        if self.tasks.pop(task_id["value"], None) is not None:
            self.log(f"ended {task_id['value']} {ME}")
            self.report(driver, task_id["value"], "TASK_KILLED", "Failed")

    def end_some(self, driver: Any) -> None:
        for task_id, pod in list(self.tasks.items()):
            wish = self.directory / f"end.{pod['metadata']['name']}"
            if wish.exists():
                phase = wish.read_text()
                del self.tasks[task_id]
                self.log(f"ended {task_id} {ME}")
                self.report(driver, task_id, ENDS[phase], phase)

    def shutdown(self, driver: Any) -> None:
        self.over.set()

    def error(self, driver: Any, message: str) -> None:
        self.over.set()


async def main() -> None:
    executor = Scripted(Path(sys.argv[1]))
    driver = ExecutorDriver(executor, os.environ)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, executor.end_some, driver)
    (executor.directory / f"executor.{ME}").touch()
    await driver.start()
    await executor.over.wait()
    await driver.stop()


asyncio.run(main())
