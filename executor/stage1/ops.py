"""Mounts, namespaces and cgroup writes of a pod as data: what can be printed before it is executed.

An operation is a tuple with `describe()` (one line, for people) and `execute(context)` (the system calls).
They refer to what earlier ones opened by name in the context. Order and choice are `plan`'s business.
Paths inside an app's root file system are never given to the kernel as they are: they are resolved by
openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), and the mount goes on the descriptor that comes out.
"""

import errno
import os
import re
import stat
from typing import Any, Final, NamedTuple, Protocol

from executor.stage1 import cgroups, syscalls, userns
from executor.stage1.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)

IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441  # include/uapi/asm-generic/ioctls.h
_TTY_AUX_MAJOR: Final = 5
_O_DIR: Final = os.O_PATH | os.O_DIRECTORY
_MAX_LOWERS: Final = 3950  # of a page, when the rest of the options has its part
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")  # nothing that overlayfs wants escaped


class StageError(Exception):
    """An operation failed; the message is "<what was being done>: <why>"."""


class Context:
    """What operations of one execution share: named descriptors."""

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds


class Op(Protocol):
    """One step of a plan."""

    def describe(self) -> str: ...

    def execute(self, context: Context) -> None: ...


def execute(ops: "list[Op]", context: Context) -> None:
    """Run a plan; raises StageError that names the operation that failed."""
    for op in ops:
        try:
            op.execute(context)
        except OSError as error:
            raise StageError(f"{op.describe()}: {os.strerror(error.errno or 0)}") from None
        except cgroups.CgroupError as error:
            raise StageError(f"{op.describe()}: {error}") from None


class Unshare(NamedTuple):
    """New namespaces for this process."""

    flags: int
    names: str

    def describe(self) -> str:
        return f"unshare {self.names}"

    def execute(self, context: Context) -> None:
        syscalls.unshare(self.flags)


class UnshareUsers(NamedTuple):
    """New namespaces that belong to a new user namespace, while we stay in ours and so can build mounts for them.

    A child makes them and we follow it, except into the user namespace: that becomes the descriptor `users`.
    """

    flags: int
    names: str
    base: int

    def describe(self) -> str:
        return f"make a user namespace of ids from {self.base}, and in it {self.names}"

    def execute(self, context: Context) -> None:
        ready, report = os.pipe2(os.O_CLOEXEC)
        stay, leave = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(leave)
            userns.hold_namespaces(syscalls.CLONE_NEWUSER | self.flags, report, stay)
        os.close(report)
        os.close(stay)
        try:
            if reply := os.read(ready, 100):
                raise OSError(int(reply), os.strerror(int(reply)))
            child = os.pidfd_open(pid)
            userns.map_ids(userns.on_host(child), self.base)
            context.fds["users"] = os.open(
                f"/proc/{userns.on_host(child)}/ns/user", os.O_RDONLY | os.O_CLOEXEC
            )
            syscalls.setns(child, self.flags)
            os.close(child)
        finally:
            os.close(ready)
            os.close(leave)


class ActAs(NamedTuple):
    """What is made from here on belongs to the pod's root, not to the host's."""

    base: int

    def describe(self) -> str:
        return f"make files as {self.base}"

    def execute(self, context: Context) -> None:
        syscalls.set_file_ids(self.base, self.base)


class Enter(NamedTuple):
    """Join namespaces of another process, through a namespace's descriptor or a pidfd."""

    fd: str
    flags: int

    def describe(self) -> str:
        return f"enter the namespaces of {self.fd}"

    def execute(self, context: Context) -> None:
        syscalls.setns(context.fds[self.fd], self.flags)


class TakeTree(NamedTuple):
    """Copy the mount(s) at a path of ours into a detached tree."""

    name: str
    path: str
    recursive: bool = True

    def describe(self) -> str:
        return f"take {self.path} as {self.name}"

    def execute(self, context: Context) -> None:
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if self.recursive else 0)
        context.fds[self.name] = syscalls.open_tree(self.path, flags)


class TakeVolume(NamedTuple):
    """Copy a volume, or a path that must lie below it, into a detached tree.

    A missing sub path is made as a directory, as the kubelet does; one that leads out of the volume fails
    (EXDEV), whatever symbolic links the pod itself has put there (CVE-2017-1002101).
    """

    name: str
    source: str
    sub_path: str
    recursive: bool

    def describe(self) -> str:
        below = f", path {self.sub_path} in it" if self.sub_path else ""
        return f"take volume {self.source}{below}"

    def execute(self, context: Context) -> None:
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if self.recursive else 0)
        if not self.sub_path:
            context.fds[self.name] = syscalls.open_tree(self.source, flags)
            return
        volume = os.open(self.source, _O_DIR | os.O_CLOEXEC)
        try:
            resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
            try:
                place = syscalls.openat2(volume, self.sub_path, os.O_PATH, resolve)
            except FileNotFoundError:
                place = open_or_make(volume, self.sub_path, resolve, directory=True)
        finally:
            os.close(volume)
        try:
            context.fds[self.name] = syscalls.open_tree("", flags | syscalls.AT_EMPTY_PATH, place)
        finally:
            os.close(place)


class MountOverlay(NamedTuple):
    """The app's root: its own writable layer over the image's rendered layers (uppermost first)."""

    target: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    device_files: bool
    mapped: bool = False

    def describe(self) -> str:
        return f"mount {'id-mapped ' if self.mapped else ''}overlay on {self.target}"

    def execute(self, context: Context) -> None:
        if self.mapped:
            # Each onto itself, in this mount namespace: the kernel takes layers from no other (before 6.15).
            for path in (*self.lowers, os.path.dirname(self.upper)):
                _map_in_place(path, context.fds["users"])
        # Descriptors instead of paths: no limit on their length, and no character needs escaping.
        place, names = _below_one(self.lowers)
        opened = (self.upper, self.work) if place else (*self.lowers, self.upper, self.work)
        fds = [os.open(path, _O_DIR | os.O_CLOEXEC) for path in opened]
        paths = [f"/proc/self/fd/{fd}" for fd in fds]
        lower = ":".join(names if place else paths[:-2])
        data = f"lowerdir={lower},upperdir={paths[-2]},workdir={paths[-1]}"
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        try:
            if place:
                os.chdir(place)
            syscalls.mount("overlay", self.target, "overlay", 0 if self.device_files else MS_NODEV, data)
        finally:
            os.fchdir(here)
            for fd in (*fds, here):
                os.close(fd)
        context.fds["root"] = os.open(self.target, _O_DIR | os.O_CLOEXEC)


def _below_one(lowers: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The directory that a store keeps its layers in, and their plain names below it; ("", ()) when there is no such.

    The kernel finds many layers sooner by names than by descriptors. It takes one page of options (mount(2)).
    """
    place = os.path.dirname(os.path.dirname(lowers[0]))
    if len(place) < 2 or not all(path.startswith(f"{place}/") for path in lowers):
        return "", ()
    names = tuple(path[len(place) + 1 :] for path in lowers)
    if sum(map(len, names)) + len(names) > _MAX_LOWERS or not all(map(_PLAIN.fullmatch, names)):
        return "", ()
    return place, names


def _map_in_place(path: str, users: int) -> None:
    tree = userns.mapped(path, users)
    target = os.open(path, _O_DIR | os.O_CLOEXEC)
    try:
        syscalls.move_mount(tree, target)
    finally:
        os.close(target)
        os.close(tree)


class Attach(NamedTuple):
    """Put a detached tree on a path of the app's root, made when missing (root:root 0755)."""

    name: str
    target: str
    attributes: int = 0
    recursive: bool = False
    no_links: bool = False
    mapped: bool = False

    def describe(self) -> str:
        return f"mount {self.name} on {self.target}{' (id-mapped)' if self.mapped else ''}"

    def execute(self, context: Context) -> None:
        tree = context.fds.pop(self.name)
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS if self.no_links else IN_ROOT
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        target = open_or_make(context.fds["root"], self.target, resolve, directory=directory)
        try:
            if self.mapped:
                syscalls.map_mount(tree, context.fds["users"], recursive=self.recursive)
            syscalls.mount_setattr(
                tree, self.attributes, recursive=self.recursive, propagation=syscalls.MS_PRIVATE
            )
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)
            os.close(tree)


class MountDev(NamedTuple):
    """A small /dev: a tmpfs that honours no device files, with the six harmless ones bound onto it.

    So an app with CAP_MKNOD (it is in the default set) can make device files anywhere and open none.
    With `every` (privileged) the host's device files are made in it instead.
    """

    every: bool = False
    base: int = 0

    def describe(self) -> str:
        return "mount /dev"

    def execute(self, context: Context) -> None:
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        target = open_or_make(context.fds["root"], "dev", resolve, directory=True)
        flags = MS_NOSUID | MS_NOEXEC | (0 if self.every else MS_NODEV)
        syscalls.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", flags, "mode=755,size=64k")
        os.close(target)
        dev = syscalls.openat2(context.fds["root"], "dev", _O_DIR, resolve)
        if self.every:
            _copy_devices("/dev", dev)
        else:
            for name in DEVICES:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=dev))
                syscalls.mount(f"/dev/{name}", f"/proc/self/fd/{dev}/{name}", None, MS_BIND)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        for name, to in _LINKS.items():
            os.symlink(to, name, dir_fd=dev)
        options = f"newinstance,ptmxmode=0666,mode=0620,gid={self.base + 5}"
        syscalls.mount("devpts", f"/proc/self/fd/{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
        os.close(dev)


def _copy_devices(source: str, dev: int) -> None:
    """Make every device file directly in `source` in the directory `dev` too."""
    for entry in os.scandir(source):
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            if entry.name in _LINKS:
                continue
            os.mknod(entry.name, info.st_mode, info.st_rdev, dir_fd=dev)
            os.chmod(entry.name, stat.S_IMODE(info.st_mode), dir_fd=dev)


class ReadOnlyRoot(NamedTuple):
    """The app cannot write to its root (volumes and /dev stay as they are)."""

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, context: Context) -> None:
        syscalls.mount_setattr(context.fds["root"], syscalls.MOUNT_ATTR_RDONLY, recursive=False)


class JoinCgroup(NamedTuple):
    """Move this process: first into every hierarchy, then under a cgroup namespace if asked."""

    members: tuple[str, ...]
    namespace: bool

    def describe(self) -> str:
        return f"join the cgroup {os.path.dirname(self.members[0])}"

    def execute(self, context: Context) -> None:
        for path in self.members:
            cgroups.write(path, "0")
        if self.namespace:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)


class Terminal(NamedTuple):
    """A new terminal of the app's own devpts: its user side becomes stdin, stdout and stderr, `master` the other.

    Opened below the app's root without links, so it is a terminal of the pod or nothing (CVE-2016-9962's kin).
    """

    def describe(self) -> str:
        return "open a terminal"

    def execute(self, context: Context) -> None:
        import fcntl

        root = os.open("/", _O_DIR | os.O_CLOEXEC)
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        master = syscalls.openat2(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, resolve)
        os.close(root)
        if os.major(os.fstat(master).st_rdev) != _TTY_AUX_MAJOR:
            os.close(master)
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        for stream in (0, 1, 2):
            os.dup2(slave, stream, inheritable=True)
        os.close(slave)
        context.fds["master"] = master


class OomScore(NamedTuple):
    """oom_score_adj of the app (proc(5))."""

    value: int

    def describe(self) -> str:
        return f"set oom_score_adj to {self.value}"

    def execute(self, context: Context) -> None:
        cgroups.write("/proc/self/oom_score_adj", str(self.value))


class PivotRoot(NamedTuple):
    """Make `root` the root and let go of every other mount."""

    def describe(self) -> str:
        return "pivot_root"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        syscalls.pivot_root(".", ".")
        syscalls.umount(".")
        os.chdir("/")


class SetHostname(NamedTuple):
    """Hostname of the pod's uts namespace."""

    name: str

    def describe(self) -> str:
        return f"set the hostname {self.name}"

    def execute(self, context: Context) -> None:
        import socket  # loaded long before the fork; here for whoever only prints plans

        socket.sethostname(self.name)


class SetSysctls(NamedTuple):
    """Settings of the pod's own namespaces, through a /proc of ours that is gone afterwards.

    Written as root of the pod's user namespace if it has one, for those of the ipc namespace ask who that is.
    """

    settings: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"set {', '.join(f'{name}={value}' for name, value in self.settings)}"

    def execute(self, context: Context) -> None:
        os.mkdir("/proc.sysctl", 0o700)
        syscalls.mount("proc", "/proc.sysctl", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        try:
            root = os.open("/proc.sysctl/sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            syscalls.umount("/proc.sysctl")
            os.rmdir("/proc.sysctl")
        ready, report = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            self._write(root, report, context.fds.get("users"))
        os.close(root)
        os.close(report)
        with open(ready, encoding="utf-8") as file:
            wrong = file.read()
        if wrong:
            raise StageError(wrong)

    def _write(self, root: int, report: int, users: int | None) -> None:
        name = ""
        try:
            if users is not None:
                syscalls.setns(users, syscalls.CLONE_NEWUSER)
                os.setresuid(0, 0, 0)
            for name, value in self.settings:
                fd = os.open(name.replace(".", "/"), os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
                os.write(fd, value.encode())
                os.close(fd)
        except OSError as error:
            os.write(report, f"set sysctl {name}: {error.strerror}".encode())
        finally:
            os._exit(0)


class Loopback(NamedTuple):
    """Set `lo` up in the pod's network namespace (netdevice(7), SIOCSIFFLAGS)."""

    def describe(self) -> str:
        return "set the interface lo up"

    def execute(self, context: Context) -> None:
        import fcntl
        import socket

        up_and_running = (0x1 | 0x40).to_bytes(2, "little")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, 0x8914, b"lo".ljust(16, b"\0") + up_and_running.ljust(24, b"\0"))


class NewRoot(NamedTuple):
    """A tmpfs over `path` becomes the root to be: it will hold the pod's shared mounts and nothing of the host."""

    path: str

    def describe(self) -> str:
        return f"mount an empty root on {self.path}"

    def execute(self, context: Context) -> None:
        syscalls.mount("tmpfs", self.path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
        root = context.fds["root"] = os.open(self.path, _O_DIR | os.O_CLOEXEC)
        os.fchdir(root)
        os.mkdir("empty", 0o555)
        os.close(os.open("null", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        syscalls.mount("/dev/null", "null", None, MS_BIND)


class MountNew(NamedTuple):
    """A fresh file system on a new directory of the pod's own root."""

    fstype: str
    name: str
    flags: int
    data: str = ""

    def describe(self) -> str:
        return f"mount {self.fstype} as the pod's {self.name}"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        os.mkdir(self.name, 0o755)
        syscalls.mount(self.fstype, self.name, self.fstype, self.flags & ~MS_RDONLY, self.data or None)
        if self.flags & MS_RDONLY:
            # The mount, not the file system: other mounts of the same sysfs stay as they are.
            syscalls.mount("none", self.name, None, self.flags | MS_BIND | MS_REMOUNT)


class Hide(NamedTuple):
    """Cover files with /dev/null and directories with an empty one, where they exist in the pod's own root."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"hide {', '.join(self.paths)}"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        for path in self.paths:
            try:
                mode = os.stat(path).st_mode
            except FileNotFoundError:
                continue
            syscalls.mount("empty" if stat.S_ISDIR(mode) else "null", path, None, MS_BIND)


class MakeReadOnly(NamedTuple):
    """Bind paths of the pod's own root onto themselves, read-only, where they exist."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"make {', '.join(self.paths)} read-only"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        for path in self.paths:
            if os.path.exists(path):
                syscalls.mount(path, path, None, MS_BIND)
                syscalls.mount("none", path, None, flags)


class SealRoot(NamedTuple):
    """Nobody writes to the pod's own root any more."""

    def describe(self) -> str:
        return "make the pod's own root read-only"

    def execute(self, context: Context) -> None:
        syscalls.mount("none", "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def open_or_make(root: int, path: str, resolve: int, *, directory: bool, links: int = 8) -> int:
    """An O_PATH descriptor of `path` under `root`, made (parents too) when it is missing.

    `resolve` are openat2's RESOLVE flags, so that no link on the way leads out of `root`. What a dangling
    symbolic link at the end points to is made instead, `links` times at most.
    """
    wanted = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    try:
        return syscalls.openat2(root, path, wanted, resolve)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part not in ("", ".")]
    parent = "/".join(parts[:-1]) or "."
    place = open_or_make(root, parent, resolve, directory=True) if len(parts) > 1 else os.dup(root)
    try:
        try:
            _make(place, parts[-1], directory=directory)
        except FileExistsError:
            target = _link(place, parts[-1])
            if target is None or not links:
                raise
            path = target if target.startswith("/") else f"{parent}/{target}"
            return open_or_make(root, path, resolve, directory=directory, links=links - 1)
        return syscalls.openat2(root, "/".join(parts), wanted, resolve)
    finally:
        os.close(place)


def _make(place: int, name: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(name, 0o755, dir_fd=place)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=place))


def _link(place: int, name: str) -> str | None:
    """Target of a symbolic link; None when it is something else (made by somebody else meanwhile)."""
    try:
        return os.readlink(name, dir_fd=place)
    except OSError:
        return None


_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        Unshare, UnshareUsers, ActAs, Enter, TakeTree, TakeVolume, MountOverlay, Attach, MountDev, ReadOnlyRoot,
        JoinCgroup, OomScore, PivotRoot, SetHostname, SetSysctls, Loopback, NewRoot, MountNew, Hide, MakeReadOnly,
        SealRoot, Terminal,
    )
}  # fmt: skip


def pack(ops: "list[Op]") -> list[Any]:
    """A plan as plain tuples, for `marshal`."""
    return [(type(op).__name__, *op) for op in ops]  # type: ignore[misc]  # every kind is a NamedTuple


def unpack(data: list[Any]) -> "list[Op]":
    """The plan that `pack` packed."""
    return [_KINDS[name](*fields) for name, *fields in data]
