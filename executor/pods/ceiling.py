"""Keeps what pods take of memory below what the agent lets the executor have: a pod that takes too much is then one for
the kernel to kill, and not all pods for the agent.

An agent that limits memory (Mesos' isolator cgroups/mem) ends a whole executor whose cgroup is out of it. So the
launcher, and with it all pods, are in a cgroup `pods` below, whose limit leaves what the executor itself takes. When
that one is out of memory, the agent is not told (mm/memcontrol.c: mem_cgroup_oom_notify goes down, not up), and the
kernel chooses by oom_score_adj, of which that limit is the scale: pods that asked for nothing first, those that have no
more than they asked for last (kubelet, `pkg/kubelet/qos`).

Version 1 of cgroups only: with version 2 pods are beside the agent's tree (docs/stage1-interface.md).
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Final

from executor.stage1 import cgroups

log = logging.getLogger(__name__)

NAME: Final = "pods"
SECONDS: Final = 2.0
"""Between looks at what the executor itself takes."""
MARGIN: Final = 8 << 20
"""For what the kernel has for the executor, and for its growth between two looks."""
_UNLIMITED: Final = 1 << 62
_LIMIT: Final = "memory.limit_in_bytes"


class Ceiling:
    """Of one executor. `pods`: the cgroup, which is there."""

    def __init__(self, own: Path) -> None:
        """own: the executor's, whose memory is limited. Raises OSError."""
        self._own = own
        self.limit = 0  # bytes
        self.pods = own / NAME
        self.pods.mkdir(exist_ok=True)
        self._adjust()

    @classmethod
    def find(cls, container: str) -> "Ceiling | None":
        """None where nothing is limited, or others may be in our cgroup: an agent names it after the container."""
        try:
            own, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
            layout = cgroups.detect(own, mounts)
            place = Path(layout.base.get("memory", "/"))
            if layout.version != 1 or place.name != container or _number(place / _LIMIT) >= _UNLIMITED:
                return None
            return cls(place)
        except (OSError, cgroups.CgroupError) as error:
            log.warning("pods are not kept from using up the executor's memory: %s", error)
            return None

    def adjust(self) -> None:
        """Fit the limit to the agent's, which a pod that comes has raised."""
        try:
            self._adjust()
        except OSError as error:
            log.warning("what pods may have of the memory stays as it was: %s", error)

    async def follow(self) -> None:
        """Adjust it, for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            self.adjust()

    def _adjust(self) -> None:
        limit = _number(self._own / _LIMIT)
        stat = dict(line.split() for line in (self._own / "memory.stat").read_text().splitlines())
        ours = (
            int(stat["rss"]) + int(stat["shmem"]) + MARGIN
        )  # of this cgroup alone; other cache goes when it has to
        wanted = max(limit - ours, limit // 2) & -os.sysconf("SC_PAGE_SIZE")
        if wanted != self.limit:
            try:
                (self.pods / _LIMIT).write_text(str(wanted))
            except OSError as error:  # EBUSY: they have more already
                log.debug("%s: %s", self.pods, error)
                return
            self.limit = wanted


def _number(path: Path) -> int:
    return int(path.read_text())
