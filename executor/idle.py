"""When an executor without pods leaves: after a while, not at once, so that the next pod finds it warm and the logs of
the last ones can still be read.

The scheduler starts nothing on an executor that has been empty for half of that while; so no launch meets one that
is about to leave, unless it was under way for the other half. (Mesos then reports the task as dropped or failed by
its executor's end, and the scheduler launches it again.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls `leave` when no task was there for `seconds`; never with 0. Counts from `start`."""

    def __init__(self, seconds: float, leave: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._leave = leave
        self._tasks: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Also when it was started before: nothing changes then."""
        if self._timer is None and not self._tasks:
            self._set()

    def came(self, task_id: str) -> None:
        self._tasks.add(task_id)
        self.stop()

    def went(self, task_id: str) -> None:
        self._tasks.discard(task_id)
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        if self._seconds > 0:
            reason = f"no pod for {self._seconds:g} s"
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._leave, reason)
