"""Mount namespaces with as little in them as pods are made from.

Every init and every app begins with a copy of a mount namespace, mount by mount. So there are some that are nothing
but a root: that of a pod's own (`void`), and that on which apps' are built (`ground`, see `ops.roots`), read-only and
with nothing in it yet. What is put there is taken from another (`namespace`): the launcher's own without cgroups and
the host's terminals. Host mounts that come or go still do so there.
"""

import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from executor.stage1 import ops, plan, syscalls

_CGROUPS: Final = "/sys/fs/cgroup"
_KINDS: Final = ("cgroup", "cgroup2", "devpts")


class Bare(NamedTuple):
    """Descriptors of the three. `roots`: directories that cannot be found in the first any more, with descriptors."""

    namespace: int
    roots: tuple[tuple[str, int], ...]
    void: int
    ground: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.namespace, self.void, self.ground, *(fd for _, fd in self.roots))

    def find(self, path: str) -> tuple[int, str]:
        """The descriptor of one of `roots`, and what a path is below it; -1 and nothing when it is below none."""
        for root, fd in self.roots:
            if path.startswith(root) and path.startswith("/", len(root)):
                return fd, path[len(root) + 1 :]
        return -1, ""

    def open(self, path: str, flags: int) -> int:
        """open(2), from wherever we are, of a file below one of `roots`. Raises OSError."""
        directory, rest = self.find(path)
        if directory >= 0:
            return os.open(rest, flags | os.O_CLOEXEC, dir_fd=directory)
        return os.open(path, flags | os.O_CLOEXEC)


def make(roots: Iterable[str]) -> Bare:
    """By a process of one thread, which is afterwards where it was. Raises OSError."""
    found = tuple((root, os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) for root in roots)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        try:
            for point in reversed(_dispensable()):
                try:
                    syscalls.umount(point)
                except OSError:
                    pass  # gone with another one
            namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            void = _new([ops.NewRoot(plan.STAGE), ops.PivotRoot(), ops.SealRoot()])
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            ground = make_ground()
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNS)
            os.fchdir(here)
    finally:
        os.close(own)
        os.close(here)
    return Bare(namespace, found, void, ground)


def make_ground() -> int:
    """The namespace on which apps' roots are built, made from the one we are in; we are in it afterwards. OSError."""
    return _new([ops.NewGround(plan.STAGE), ops.PivotRoot(), ops.SealGround()])


def _new(todo: "list[ops.Op]") -> int:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    context = ops.Context({})
    ops.execute(todo, context)
    os.close(context.fds["root"])
    return namespace


def _dispensable() -> list[str]:
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            if point == _CGROUPS or right.split(" ")[0] in _KINDS:
                points.append(point)
    return points
