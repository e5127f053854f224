"""Who waits for the launcher's children: those it has started, apps, which it inherits, and strangers.

An app has its first child's parent for its own children if it likes (clone(2), CLONE_PARENT), so anything may be a
child of ours, as fast as an app can fork. A child that nobody expects (yet) may be an app that was faster than the
message that it runs.
"""

import os
from collections.abc import Callable
from typing import Final

_AT_ONCE: Final = 256
_MOST_EARLY: Final = 4096


class Reaper:
    """Exit statuses, to whoever expects them."""

    def __init__(self) -> None:
        self.expected: dict[int, Callable[[int], None]] = {}
        self.starting = 0
        """So many apps are being started, whose exits may come before their pids."""
        self._early: dict[int, int] = {}

    def expect(self, pid: int, on_exit: Callable[[int], None]) -> None:
        """Call `on_exit(wait status)` when the child ends (at once when it has ended already)."""
        status = self._early.pop(pid, None)
        if status is None or _exists(pid):  # else that was somebody who had the pid before
            self.expected[pid] = on_exit
        else:
            on_exit(status)

    def started(self) -> None:
        """One start has ended: unclaimed exit statuses are of interest only while one goes on."""
        self.starting -= 1
        if not self.starting:
            self._early.clear()

    def reap(self) -> bool:
        """Wait for all that have ended; True when there may be more than can be waited for at once."""
        for _ in range(_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return False
            on_exit = self.expected.pop(pid, None)
            if on_exit is not None:
                on_exit(status)
            elif self.starting:
                self._early.pop(pid, None)
                self._early[pid] = status
                if len(self._early) > _MOST_EARLY:
                    del self._early[next(iter(self._early))]
        return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
