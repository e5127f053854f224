"""Tell when a container reaches its memory limit.

The kernel's OOM handling of a cgroup below the container's (a pod with a limit of its own) does not tell: only the
container's own limit, which is what its executor and tasks were given together.

Source: Mesos isolators/cgroups/subsystems/memory.cpp (`oom`), src/linux/cgroups.cpp (`event::Listener`);
kernel Documentation/admin-guide/cgroup-v1/memory.rst, section 10.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class OomWatch:
    """One eventfd on `memory.oom_control`."""

    def __init__(self, cgroup: Path, notify: Callable[[str], None]) -> None:
        """`notify` gets the message for the tasks. Raises OSError where the kernel cannot tell."""
        self._cgroup = cgroup
        self._notify = notify
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            with (cgroup / "memory.oom_control").open("rb") as control:
                (cgroup / "cgroup.event_control").write_text(f"{self._event} {control.fileno()}")
        except OSError:
            os.close(self._event)
            raise
        asyncio.get_running_loop().add_reader(self._event, self._readable)

    def close(self) -> None:
        if self._event >= 0:
            asyncio.get_running_loop().remove_reader(self._event)
            os.close(self._event)
            self._event = -1

    def _readable(self) -> None:
        """Also fires when the cgroup is removed: then there is nothing to tell."""
        self.close()
        try:
            limit = int((self._cgroup / "memory.limit_in_bytes").read_text())
            peak = int((self._cgroup / "memory.max_usage_in_bytes").read_text())
            numbers = (self._cgroup / "memory.stat").read_text()
        except OSError:
            return
        text = f"Memory limit exceeded: Requested: {limit // 2**20}MB Maximum Used: {peak // 2**20}MB\n"
        self._notify(f"{text}\nMEMORY STATISTICS: \n{numbers}")
