"""The host's cgroups, while others make and remove some."""

import contextlib
import os
from pathlib import Path


def cgroups(pod: str) -> list[Path]:
    """Of the pod of that name, and of what begins with it, in all hierarchies."""
    return [
        Path(place, name)
        for place, names, _ in os.walk("/sys/fs/cgroup")  # which leaves out what it does not find any more
        for name in names
        if name.startswith(f"gantry.{pod}")
    ]


def processes(pod: str) -> set[int]:
    """Those in the pod's cgroups."""
    found: set[int] = set()
    for cgroup in cgroups(pod):
        for place, _, _ in os.walk(cgroup):
            with contextlib.suppress(OSError):  # the cgroup, or the process, has gone meanwhile
                found |= {int(pid) for pid in Path(place, "cgroup.procs").read_text().split()}
    return found
