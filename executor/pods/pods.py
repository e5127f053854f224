"""All pods of this executor: those that live, and the last hundred that are dead but whose logs can still be read."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from executor.pods.core.effects import Report
from executor.pods.logs import LogWriter
from executor.pods.objects import Objects
from executor.pods.ports import Machine
from executor.pods.runner import PodRunner
from executor.pods.supplies import NOTHING, Supplies

log = logging.getLogger(__name__)

KEEP_DEAD: Final = 100

TaskReporter = Callable[[str, Report], None]


class Pods:
    """The pods by task id. report: called for every report of a pod with its task id."""

    def __init__(self, machine: Machine, report: TaskReporter, *, keep_dead: int = KEEP_DEAD) -> None:
        self._machine = machine
        self._report = report
        self._keep_dead = keep_dead
        self._live: dict[str, PodRunner] = {}
        self._dead: dict[str, PodRunner] = {}
        self._cleaning: set[asyncio.Task[None]] = set()

    def launch(self, task_id: str, pod: Mapping[str, Any], supplies: Supplies = NOTHING) -> None:
        """Begin a pod. Raises ValueError for an object that is not a v1 Pod or that this executor has no flavor or not
        the GPUs for, or a task id that was used already."""
        if task_id in self._live or task_id in self._dead:
            raise ValueError(f"task {task_id} was launched before")
        try:
            self._machine.admit(pod, supplies.handler)
            devices = self._machine.gpus.take(task_id, pod)
            runner = PodRunner(
                *(task_id, pod, self._machine, lambda report: self._reported(task_id, report)),
                supplies,
                devices,
            )
        except ValueError:
            self._machine.gpus.release(task_id)
            raise
        except (KeyError, TypeError, AttributeError) as error:
            self._machine.gpus.release(task_id)
            raise ValueError(f"not a v1 Pod: {type(error).__name__}: {error}") from None
        self._live[task_id] = runner
        runner.start()

    def kill(self, task_id: str, grace: float | None, message: str) -> bool:
        """End a pod gracefully; False when there is none of that task id."""
        runner = self._live.get(task_id)
        if runner is None:
            return False
        runner.kill(grace, message)
        return True

    def provide(self, task_id: str, objects: Objects, digest: str) -> None:
        """What there is now of the objects that a pod uses; nothing happens when it is over."""
        runner = self._live.get(task_id)
        if runner is not None:
            runner.provide(objects, digest)

    async def shutdown(self, longest: float, message: str) -> None:
        """End all pods within their own grace, at most `longest` seconds; returns when all are over."""
        living = list(self._live.values())
        for runner in living:
            runner.kill(min(longest, runner.grace), message)
        await asyncio.gather(*(runner.over.wait() for runner in living))

    async def settle(self) -> None:
        """Wait until all that is being removed is removed."""
        if self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._machine.trash.settle()

    async def close(self) -> None:
        """Remove what is left of all dead pods, their logs too."""
        await self.settle()
        for runner in self._dead.values():
            await runner.remove()
        self._dead.clear()

    def statuses(self) -> list[dict[str, Any]]:
        """v1 Pods that live, with the status last reported."""
        return [{**runner.pod, "status": runner.state.reported or {}} for runner in self._live.values()]

    def log_of(
        self, namespace: str, name: str, container: str, *, previous: bool
    ) -> tuple[Path, LogWriter | None]:
        """Where the log is, and who still writes it. Of pods with one name the newest counts, living ones first.

        Raises KeyError when there is no such pod, LookupError when there is no such log.
        """
        return self.find(namespace, name).log_of(container, previous=previous)

    def find(self, namespace: str, name: str) -> PodRunner:
        """Of pods with one name the newest counts, living ones first. Raises KeyError when there is none."""
        for runners in (self._live, self._dead):
            for runner in reversed(runners.values()):
                meta = runner.pod["metadata"]
                if (meta.get("namespace", "default"), meta["name"]) == (namespace, name):
                    return runner
        raise KeyError(f"{namespace}/{name}")

    def _reported(self, task_id: str, report: Report) -> None:
        if report.terminal:
            runner = self._live.pop(task_id)
            self._machine.gpus.release(task_id)
            self._dead[task_id] = runner
            self._later(runner.strip())
            while len(self._dead) > self._keep_dead:
                self._later(self._dead.pop(next(iter(self._dead))).remove())
        self._report(task_id, report)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaned)

    def _cleaned(self, task: "asyncio.Task[None]") -> None:
        self._cleaning.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("collecting a dead pod failed: %s", error)
