"""Operations on the process that executes them: namespaces, cgroups, terminal, names."""

import errno
import os
from typing import Final, NamedTuple

from executor.stage1 import cgroups, lsm, syscalls, userns
from executor.stage1.ops.base import O_DIR, Context, StageError
from executor.stage1.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS

_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441  # include/uapi/asm-generic/ioctls.h
_TTY_AUX_MAJOR: Final = 5
REPORTS: Final = (
    "/proc/sys/net/ipv4/conf/lo/force_igmp_version",
    "/proc/sys/net/ipv6/conf/lo/force_mld_version",
)


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
            userns.hold_namespaces(syscalls.CLONE_NEWUSER | self.flags, report, stay, self.base)
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


class JoinCgroup(NamedTuple):
    """Move this process: first into every hierarchy, then under a cgroup namespace if asked."""

    members: tuple[str, ...]
    namespace: bool

    def describe(self) -> str:
        return f"join the cgroup {os.path.dirname(self.members[0])}"

    def execute(self, context: Context) -> None:
        for path in self.members:
            if context.home < 0:
                cgroups.write(path, "0")
            else:
                cgroups.write(path.lstrip("/"), "0", directory=context.home)
        if self.namespace:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)


class Terminal(NamedTuple):
    """A new terminal of the app's own devpts: its user side becomes the app's streams, `master` the other.

    Opened below the app's root without links, so it is a terminal of the pod or nothing (CVE-2016-9962's kin). With
    `console` it is the app's /dev/console as well.
    """

    console: bool = False

    def describe(self) -> str:
        return f"open a terminal{' that is the console' if self.console else ''}"

    def execute(self, context: Context) -> None:
        import fcntl

        root = os.open("/", O_DIR | os.O_CLOEXEC)
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        master = syscalls.openat2(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, resolve)
        if os.major(os.fstat(master).st_rdev) != _TTY_AUX_MAJOR:
            os.close(master)
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if self.console:
            name = f"dev/pts/{os.minor(os.fstat(slave).st_rdev)}"
            _mount_file(root, name, "dev/console", resolve)
        os.close(root)
        context.streams = [slave] * 3
        context.fds["master"] = master


def _mount_file(root: int, name: str, target: str, resolve: int) -> None:
    """Bind a file onto another, if there is that other."""
    try:
        place = syscalls.openat2(root, target, os.O_PATH, resolve)
    except FileNotFoundError:
        return
    file = syscalls.openat2(root, name, os.O_PATH, resolve)
    tree = syscalls.open_tree("", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH, file)
    try:
        syscalls.move_mount(tree, place)
    finally:
        for fd in (tree, file, place):
            os.close(fd)


class OomScore(NamedTuple):
    """oom_score_adj of the app (proc(5))."""

    value: int

    def describe(self) -> str:
        return f"set oom_score_adj to {self.value}"

    def execute(self, context: Context) -> None:
        cgroups.write("/proc/self/oom_score_adj", str(self.value))


class SetLabel(NamedTuple):
    """The AppArmor profile or SELinux context of the app; refused where the kernel would not enforce it."""

    module: str
    label: str

    def describe(self) -> str:
        return f"label the app {self.label} for {self.module}"

    def check(self) -> lsm.Label:
        """Raises StageError where the kernel would not enforce it."""
        if why_not := lsm.why_not(self.module):
            raise StageError(f"{self.describe()}: {why_not}")
        return self.module, self.label

    def execute(self, context: Context) -> None:
        try:
            lsm.set_for_exec(self.check())
        except OSError as error:
            raise StageError(f"{self.describe()}: {error.strerror}") from None


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
        syscalls.mount("proc", "/proc.sysctl", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        try:
            root = os.open("/proc.sysctl/sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            syscalls.umount("/proc.sysctl")
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


class ReportAtOnce(NamedTuple):
    """Let what the kernel says of multicast groups on `lo` be said when they are joined and left, or not at all.

    By the newer protocols it is said up to some seconds later (RFC 3376, 3810), when the namespace may be another pod's
    (`reuse`): no capability is needed to join one. Where that cannot be set nothing is handed on.
    """

    def describe(self) -> str:
        return "report multicast groups on lo at once, if at all"

    def execute(self, context: Context) -> None:
        for path in REPORTS:
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                continue  # no IPv6
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)


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
