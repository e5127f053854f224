"""Ranges of user and group ids for pods, and what it takes to give a pod one (user_namespaces(7)).

A range belongs to whoever holds the lock of its file in RANGES, so no two pods of a machine ever share one, whichever
executors run them (rkt drew them at random, unlocked: rkt issue 1090). Files keep the ids of the image and of the
volumes on disk: mounts are id-mapped (mount_setattr(2), MOUNT_ATTR_IDMAP) instead of chowned.
"""

import fcntl
import functools
import os
from typing import Final, NamedTuple

from executor.stage1 import caps, syscalls

RANGES: Final = "/run/gantry/ids"
SIZE: Final = 65_536
# Above what /etc/subuid and systemd-nspawn hand out (systemd's UIDS-GIDS document), below 2^31.
FIRST: Final = 0x70000000
COUNT: Final = 4094
_OVERLAY_OF_MAPPED: Final = (
    5,
    19,
)  # Linux: overlayfs takes id-mapped layers (fs/overlayfs, "support idmapped layers")


MAX_ID: Final = 2**31 - 1
"""Of users and groups, as docker and Kubernetes have it. To setresuid(2), 2^32-1 means that root stays root."""


def number(text: str) -> int | None:
    """The id that a user or group is, None for a name. Raises ValueError for a number that is none."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text.lstrip("0")) > len(str(MAX_ID)) or int(text) > MAX_ID:
        raise ValueError(f"{text[:40]} is no user or group: they end at {MAX_ID}")
    return int(text)


class Range(NamedTuple):
    """`SIZE` ids from `base` on; `lock` is the descriptor that holds them."""

    base: int
    lock: int
    directory: str = RANGES

    def release(self) -> None:
        """Give them back. Once."""
        _ours.discard((self.directory, (self.base - FIRST) // SIZE))
        os.close(self.lock)


_ours: Final[set[tuple[str, int]]] = set()
"""Ranges that this process has: they need no trying. There may be thousands."""


def take_range(directory: str = RANGES) -> Range:
    """The first free range. Raises OSError."""
    for number in range(COUNT):
        if (directory, number) in _ours:
            continue
        try:
            fd = _open_range(directory, number)
        except FileNotFoundError:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fd = _open_range(directory, number)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        _ours.add((directory, number))
        return Range(FIRST + number * SIZE, fd, directory)
    raise OSError(f"all {COUNT} ranges of user ids are in use ({directory})")


def _open_range(directory: str, number: int) -> int:
    return os.open(f"{directory}/{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@functools.cache
def why_not() -> str:
    """Why this machine cannot give pods user namespaces; "" when it can."""
    release = os.uname().release.split("-")[0].split(".")
    if tuple(map(int, release[:2])) < _OVERLAY_OF_MAPPED:
        return f"Linux {os.uname().release} has no overlay over id-mapped layers: 5.19 is needed"
    try:
        with open("/proc/sys/user/max_user_namespaces", encoding="ascii") as file:
            if int(file.read()) == 0:
                return "user namespaces are turned off (sysctl user.max_user_namespaces)"
    except OSError:
        return "the kernel has no user namespaces"
    return ""


def map_ids(pid: int, base: int) -> None:
    """Give the new user namespace of process `pid` its ids. Raises OSError."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(f"0 {base} {SIZE}\n")


def on_host(pidfd: int) -> int:
    """The pid of a process as the mounted /proc knows it, whichever pid namespace we are in ourselves."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise ProcessLookupError


def mapped(path: str, users: int, *, recursive: bool = False) -> int:
    """A detached, id-mapped copy of the mount(s) at `path`; `users` is the user namespace. Raises OSError."""
    tree = syscalls.open_tree(path, syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0))
    try:
        syscalls.map_mount(tree, users, recursive=recursive)
    except OSError:
        os.close(tree)
        raise
    return tree


class Mappable:
    """Which places can be id-mapped (not every kind of file system can): found out by doing it, and remembered."""

    def __init__(self) -> None:
        self._users = -1
        self._known: dict[tuple[str, int], bool] = {}

    def can_map(self, path: str, *, recursive: bool) -> bool:
        """Whether what lies at `path` (recursive: and what is mounted below) can be. What is missing can."""
        try:
            device = os.stat(path).st_dev
        except OSError:
            return True  # whoever mounts it will say what is wrong with it
        key = (path if recursive else "", device)
        if key not in self._known:
            self._known[key] = self._try(path, recursive=recursive)
        return self._known[key]

    def _try(self, path: str, *, recursive: bool) -> bool:
        try:
            if self._users < 0:
                self._users = namespace(FIRST)
            os.close(mapped(path, self._users, recursive=recursive))
        except OSError:
            return False
        return True


def namespace(base: int) -> int:
    """A user namespace for mounts, with the ids from `base` on; nobody ever runs in it. Raises OSError."""
    ready, report = os.pipe2(os.O_CLOEXEC)
    stay, leave = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(leave)
        hold_namespaces(syscalls.CLONE_NEWUSER, report, stay)
    os.close(report)
    os.close(stay)
    try:
        os.read(ready, 1)
        map_ids(pid, base)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(leave)
        os.waitpid(pid, 0)


def hold_namespaces(flags: int, report: int, stay: int, owner: int = 0) -> None:
    """In a child: closing `report` without a word says that they are there; lives until `stay` is closed.

    What a user namespace uses of what the kernel limits for each user (inotify instances and watches, keys, queued
    signals, ...) counts as its owner's, too. So `owner` should be somebody of the pod: root would run out of them.
    """
    try:
        if owner:
            os.seteuid(owner)
            caps.limit_own_sets(caps.mask(["CAP_SYS_ADMIN"]))  # some kernels let nobody else make one
        syscalls.unshare(flags)
        os.close(report)
        os.read(stay, 1)
    except OSError as error:
        os.write(report, str(error.errno).encode())
    finally:
        os._exit(0)
