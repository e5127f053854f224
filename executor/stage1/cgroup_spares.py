"""Cgroups of v1 whose pods have ended, for the pods that come: renamed, not removed and made again.

Of the freezer and of cpu, where there is nothing that a pod without limits of its own could have changed, and only when
nobody can be left in them (see `PodCgroup.remove`). To make and to remove a cgroup is dear, each kernel for itself and
its threads after it; memory's, which counts and keeps things, is new for each app nevertheless.
"""

import os
from collections.abc import Mapping
from typing import Final

from executor.stage1.cgroup_trees import PREFIX, Layout, remove_tree

SPARE: Final = f"{PREFIX}~"
"""How their names begin while no pod has them; no pod's name begins with the rest of it."""
_CONTROLLERS: Final = frozenset({"freezer", "cpu"})


class Spares:
    """Those of one launcher, at most so many in a hierarchy, and held like those of its pods (see `leftovers`)."""

    def __init__(self, layout: Layout, most: int) -> None:
        self._most = most
        self._idle = {root: list[tuple[str, int]]() for root in _suitable(layout)}
        self._token = os.urandom(8).hex()  # launchers may share a hierarchy
        self._number = 0

    def take(self, directory: str) -> int:
        """Have one as `directory`, which is not there yet: the descriptor that holds it, or -1 when there is none."""
        idle = self._idle.get(directory.rpartition("/")[0])
        while idle:
            path, fd = idle.pop()
            try:
                os.rename(path, directory)
            except OSError:  # somebody has removed it, or `directory` is there
                remove_tree(path)
                os.close(fd)
            else:
                return fd
        return -1

    def keep(self, directory: str, fd: int) -> bool:
        """Whether an empty and unaltered one was taken, and `fd`, which holds it, with it."""
        root = directory.rpartition("/")[0]
        idle = self._idle.get(root)
        if idle is None or len(idle) >= self._most:
            return False
        self._number += 1
        path = f"{root}/{SPARE}{self._token}.{self._number}"
        try:
            os.rename(directory, path)
        except OSError:
            return False
        idle.append((path, fd))
        return True

    def remove(self) -> None:
        """All of them."""
        for idle in self._idle.values():
            while idle:
                path, fd = idle.pop()
                remove_tree(path)
                os.close(fd)


def _suitable(layout: Layout) -> list[str]:
    """The hierarchies of nothing but these controllers: with cpu there is often one that counts (cpuacct)."""
    if layout.version != 1:
        return []
    controllers: Mapping[str, set[str]] = {root: set() for root in layout.roots}
    for name, root in layout.base.items():
        controllers[root].add(name)
    return [root for root, names in controllers.items() if names <= _CONTROLLERS]
