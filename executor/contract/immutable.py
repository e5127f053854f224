"""Pods whose apps are all started at once, by `run`, when the first of them is to start.

With that one's streams, for there is only one output; what the stage1 labels as an app's is taken out of it
(`console`). A pod of one app can be run again, which is what its restart is.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from executor.contract.client import Ended
from executor.contract.console import Console
from executor.contract.interface import FAILED
from executor.contract.sandbox import ForeignSandbox, Job
from executor.pods.launcher import AppExit, LaunchError

log = logging.getLogger(__name__)


class Immutable(ForeignSandbox):
    """All apps at once, by `run`."""

    splits = True
    """Whether lines that the stage1 labels as an app's are that app's."""

    def __init__(self, job: Job, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]) -> None:
        super().__init__(job, on_exit, on_gone)
        self._running: asyncio.Task[None] | None = None
        self._how: Ended | None = None
        self._ended = asyncio.Event()

    async def start_app(self, app: str, *, stdin: int | None, stdout: int, stderr: int) -> int:
        """The first one runs them all and has the output of all; the others are told where that is."""
        streams = (stdout, stderr) if stdin is None else (stdin, stdout, stderr)
        return await self.start_streams(app, streams, interactive=stdin is not None)

    async def start_streams(
        self, app: str, streams: tuple[int, ...], *, interactive: bool, terminal: bool = False
    ) -> int:
        """As `start_app`; the streams may be a terminal."""
        if app in self._started:
            raise LaunchError(f"{self.name}: it cannot start {app} again while the pod runs")
        first = not self._started
        self._started.append(app)
        made: tuple[int, ...] = ()
        if self.splits and not interactive:
            if first:
                if self.console is not None:
                    self.console.close()
                self.console = Console((streams[-2], streams[-1]), self.job.apps)
                made = self.console.fds
            if self.console is not None:
                self.console.add(app, streams[-2])
            streams = (*streams[:-2], *made) if made else streams
        if first:
            self._how, self._ended = None, asyncio.Event()
            run = self.execute_run(streams, interactive=interactive, terminal=terminal)
            self._running = asyncio.create_task(run)
        else:
            where = f"what it does not label as an app's is in the log of {self._started[0]}"
            os.write(streams[-1], f"gantry: {self.name} has one output for all apps: {where}\n".encode())
        if self._running is None:
            raise LaunchError(f"{self.name}: the pod does not run")
        try:
            await asyncio.shield(self._running)
        except LaunchError:
            self._started.remove(app)
            raise
        finally:
            for fd in made:
                os.close(fd)
        if self._how is not None:  # it was too fast for this app's start
            asyncio.get_running_loop().call_soon(self._report_end, app, self._how)
        return self.pod_pid

    async def run_ended(self, how: Ended) -> None:
        with suppress(LaunchError):
            await self.holder.kill()
        self._how = how
        if how.code == FAILED:
            log.warning("pod %s: %s ended with 254, its own failure", self.job.pod_dir.name, self.name)
        for app in list(self._started):
            self._report_end(app, how)
        self._ended.set()

    def _report_end(self, app: str, how: Ended) -> None:
        """By its status file, or else as the pod ended: an app that failed is what ends a pod with its exit code."""
        if not self._stopping:
            status = self.status(app)
            self.report(app, how if status is None else Ended(status, None))

    async def signal_app(self, app: str, signum: int) -> None:
        """To the pod, there is nothing smaller: `stop`; with SIGKILL `stop --force` and the end of all its
        processes.
        """
        self._check_runs(app)
        if signum == signal.SIGKILL:
            await self.force_stop()
        else:
            await self._stop_entrypoint(force=False, seconds=self.job.patience.stop)

    async def remove_app(self, app: str) -> None:
        """Forget everything about the pod's only app: the next start runs the pod again."""
        if len(self.job.apps) > 1:
            raise LaunchError(
                f"{self.name} starts all apps of a pod at once and none again, not {app} either"
            )
        await self.start_again()
