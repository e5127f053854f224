"""Keeps a launcher there: started with the executor, and again when it died.

All pods die with a launcher; their sandboxes say so themselves. A launcher that does not start (not root, a kernel
feature missing) is tried again when a pod needs it, and its reason is that pod's.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from executor.pods.launcher import AppExit, Launcher, LaunchError, Sandbox

log = logging.getLogger(__name__)


class LauncherKeeper:
    """The one launcher of this executor."""

    def __init__(self, points: Path | None = None, memory: Path | None = None) -> None:
        """points, memory: as of `Launcher.start`."""
        self._points = points
        self._memory = memory
        self._launcher: Launcher | None = None
        self._starting: asyncio.Task[Launcher] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to start it, so that the first pod finds it there."""
        if self._starting is None and not self._closed:
            self._starting = asyncio.create_task(self._start(), name="start launcher")
            # Nobody may be waiting; the error was logged, and a pod that comes tries again.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def run_pod(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Sandbox:
        """As `Launcher.run_pod`, on the launcher that is there by then."""
        launcher = self._launcher
        if launcher is None:
            self.start()
            if self._starting is None:
                raise LaunchError("the executor is shutting down")
            launcher = await asyncio.shield(self._starting)
        return await launcher.run_pod(pod_dir, on_exit, on_gone)

    @property
    def pid(self) -> int | None:
        """Of the launcher process, None while there is none."""
        return None if self._launcher is None else self._launcher.pid

    async def close(self) -> None:
        """End the launcher, and with it whatever still runs."""
        self._closed = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._launcher is not None:
            launcher, self._launcher = self._launcher, None
            await launcher.close()

    async def _start(self) -> Launcher:
        try:
            launcher = await Launcher.start(points=self._points, memory=self._memory)
        except LaunchError as error:
            log.error("cannot start the launcher: %s", error)
            raise
        finally:
            self._starting = None
        log.info("launcher started, pid %d", launcher.pid)
        self._launcher = launcher
        launcher.died.add_done_callback(self._died)
        return launcher

    def _died(self, died: "asyncio.Future[int]") -> None:
        if self._launcher is None or self._launcher.died is not died:
            return
        self._launcher = None
        if not self._closed:
            log.error("the launcher ended with status %d, all pods are dead; starting another", died.result())
            self.start()
