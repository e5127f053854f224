"""What killed launchers have left of pods in the cgroups, wherever that was: found by the pods' names.

`launcher.collect` looks into the cgroup that it is in itself. Whoever removes pods by their directories (`gantry rkt
gc`) may be in another one than those who ran them: another session, another unit of systemd.
"""

import os
import sys
import time
from collections.abc import Collection, Iterator

from executor.stage1 import cgroups


def sweep(pods: Collection[str], seconds: float = 2.0) -> list[str]:
    """Kill and remove what nobody holds of these pods; returns what is still in use after so long."""
    wanted = {cgroups.PREFIX + pod for pod in pods}
    held: dict[str, tuple[int, int]] = {}
    try:
        for path, version in _find(wanted):
            fd = cgroups.hold_leftover(path)
            if fd >= 0:
                held[path] = (fd, version)
        left = list(held)
        deadline = time.monotonic() + seconds
        while left := [path for path in left if not _remove(path, held[path][1])]:
            if time.monotonic() > deadline:
                sys.stderr.write(f"stage1: cgroups still in use: {', '.join(left)}\n")
                break
            time.sleep(0.005)
        return left
    finally:
        for fd, _ in held.values():
            os.close(fd)


def _remove(path: str, version: int) -> bool:
    return cgroups.kill_tree(path, version) and cgroups.remove_tree(path)


def _find(names: Collection[str]) -> Iterator[tuple[str, int]]:
    """(directory, version) of the cgroups of these names, in every hierarchy that is mounted."""
    for point, version in sorted(_mounted()):
        for place, below, _ in os.walk(point):
            found = [name for name in below if _is_one(name, names)]
            below[:] = [name for name in below if name not in found]
            yield from ((os.path.join(place, name), version) for name in found)


def _is_one(name: str, names: Collection[str]) -> bool:
    """A pod's, or that of an app of it, which lies beside where there is none of the pod's (see `cgroups`)."""
    return name in names or name.partition("~")[0] in names


def _mounted() -> set[tuple[str, int]]:
    points = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            version = {"cgroup": 1, "cgroup2": 2}.get(right.split(" ")[0])
            if version is not None:
                points.add((left.split()[4], version))
    return points
