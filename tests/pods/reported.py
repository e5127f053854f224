"""Pods of one machine without Mesos, and everything they report."""

import asyncio
from collections.abc import Callable
from typing import Any

from executor.pods.core.effects import Report
from executor.pods.logread import LogOptions, read_log
from executor.pods.pods import Pods

SECONDS = 100.0


class Reported:
    """`pods` report to `report`."""

    pods: Pods

    def __init__(self) -> None:
        self.reports: dict[str, list[Report]] = {}
        self._news = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()

    def report(self, task_id: str, report: Report) -> None:
        self.reports.setdefault(task_id, []).append(report)
        task = asyncio.ensure_future(self._tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def until(self, task_id: str, test: Callable[[Report], Any], seconds: float = SECONDS) -> Report:
        """The first report that passes, also one that has come already."""
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: any(map(test, self.reports.get(task_id, ()))))
        return next(r for r in self.reports[task_id] if test(r))

    async def end(self, task_id: str, seconds: float = SECONDS) -> Report:
        return await self.until(task_id, lambda report: report.terminal, seconds)

    async def log(self, name: str, app: str = "c0", *, previous: bool = False, **options: Any) -> str:
        """All that an app of a pod in the namespace `default` has said."""
        path, writer = self.pods.log_of("default", name, app, previous=previous)
        async with asyncio.timeout(SECONDS):
            return b"".join([b async for b in read_log(path, LogOptions(**options), writer)]).decode()
