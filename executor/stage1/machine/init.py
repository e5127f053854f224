"""A pod's init as lists: the plan of its sandbox, and what follows once it knows its pod.

    launcher ── spawn ──▶ program: reads the first list, makes its namespaces and the pod's own root; reads the
    second, does what that says, reports, and waits for ever, without a capability, a descriptor or a file of the host

It reads from, and reports to, a socket of the launcher's: descriptors 3 and 4. 5 is a mount namespace that is a pod's
own root with nothing in it yet (`bare`): it goes on in a copy of that. The launcher's death is its own.
"""

import errno
import os
import signal
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from executor.stage1 import caps, ops, plan, syscalls, userns
from executor.stage1.machine.assemble import ANY, LIST, RECORD, SIZE, Label, List, Value
from executor.stage1.machine.passing import DOMAIN, NAME, NAMES, ROOTS, STAT
from executor.stage1.machine.run import REPORT, SOURCE
from executor.stage1.ops import Op, StageError
from executor.stage1.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

_VOID: Final = REPORT + 1
_SECOND: Final = 1024
"""Number of the second list's first record: there is room for the first list before it."""
_USERS: Final = 60
_CLONE: Final = 0x100 | 0x4000 | 0x400 | signal.SIGCHLD  # VM, VFORK, FILES
_AT_FDCWD: Final = syscalls.AT_FDCWD
_SETMASK, _IGNORE, _DONTNEED = 2, 1, 4
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Program(NamedTuple):
    """A list's bytes, and what each of its records, from number `first` on, is for."""

    data: bytes
    first: int
    steps: tuple[str, ...]

    def failure(self, record: int, number: int) -> str | None:
        """What went wrong in this list, as a StageError says it; None when the record is none of its."""
        if not self.first <= record < self.first + len(self.steps):
            return None
        return f"{self.steps[record - self.first]}: {os.strerror(number)}"


@lru_cache(maxsize=16)  # of 12 KiB; ranges of ids come back
def first(*, host_network: bool, host_ipc: bool, ids: int, last_cap: int) -> Program:
    """Namespaces and the pod's own root (flavor linux)."""
    todo = List()
    builder = _Builder(todo)
    todo.doing = "become the pod's init"
    todo.call("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    todo.call("prctl", syscalls.PR_SET_DUMPABLE, 0)
    todo.call("prctl", syscalls.PR_SET_NAME, "gantry-init")
    todo.call("rt_sigprocmask", _SETMASK, todo.room(8), 0, 8)
    builder.add(plan.sandbox_plan("linux", host_network=host_network, ids=ids, host_ipc=host_ipc))
    # Children that it inherits are reaped by the kernel.
    todo.call("rt_sigaction", signal.SIGCHLD, todo.structure("QQQQ", _IGNORE, 0, 0, 0), 0, 8)
    for number in range(last_cap + 1):
        todo.call("prctl", syscalls.PR_CAPBSET_DROP, number)
    todo.call("prctl", syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    null = todo.room(8)
    todo.call("openat", _AT_FDCWD, "/null", os.O_RDWR | os.O_CLOEXEC, result=null)
    for stream in (0, 1, 2):
        todo.call("dup3", Value(null), stream, 0)
    second, gone = Label(), Label()
    second.number = _SECOND
    address = LIST + _SECOND * RECORD
    todo.call("read", SOURCE, address, LIST + SIZE - address, forks=True, jump=gone, then=second)
    todo.label(gone)
    todo.call("exit_group", 0)
    made = todo.finish()
    if len(made) > _SECOND * RECORD:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return Program(made, 0, tuple(todo.steps))


def second(todo_now: list[Op], *, users: bool) -> Program:
    """The pod's own part, the report, and the wait. Raises StageError.

    users: the report has the user namespace, and says what `passing` compares later.
    """
    own = [op for op in todo_now if isinstance(op, ops.SetHostname)]  # all that seldom is as in another pod
    rest = tuple(op for op in todo_now if not isinstance(op, ops.SetHostname))
    todo = List(first=_SECOND)
    _Builder(todo).add(own)
    data = todo.finish_before() if own else b""
    count = len(data) // RECORD
    last = _last(rest, users, _SECOND + count)
    return Program(data + last.data, _SECOND, (*todo.steps, *("",) * (count - len(todo)), *last.steps))


@lru_cache(maxsize=16)
def _last(plan_of_it: tuple[Op, ...], users: bool, number: int) -> Program:
    todo = List(first=number)
    builder = _Builder(todo, users=users)
    builder.add(plan_of_it)
    todo.doing = "become the pod's init"
    header, nothing = todo.structure("II", 0x20080522, 0), todo.room(24)
    todo.call("capset", header, nothing)
    report = todo.room(8)
    if users:
        roots, names = todo.room(ROOTS), todo.room(NAMES)
        todo.call("newfstatat", _AT_FDCWD, "/shm", roots, 0)
        todo.call("newfstatat", _AT_FDCWD, "/mqueue", roots.at(STAT), 0)
        todo.call("statfs", "/shm", roots.at(2 * STAT))
        todo.call("uname", names)
        vector = todo.structure("QQQQQQ", report, 8, roots, ROOTS, names.at(DOMAIN), NAME)
        control = todo.structure("QIIII", 20, 1, 1, _USERS, 0)  # SOL_SOCKET, SCM_RIGHTS
        todo.call("sendmsg", REPORT, todo.structure("QQQQQQQ", 0, 0, vector, 3, control, 24, 0), 0)
    else:
        todo.call("write", REPORT, report, 8)
    todo.call("close_range", 3, 0xFFFFFFFF, 0)
    todo.call("madvise", LIST, _SECOND * RECORD, _DONTNEED)  # of the first list, which is done
    again = todo.label()
    todo.call("rt_sigsuspend", todo.room(8), 8, tolerate=ANY, jump=again, then=again)
    return Program(todo.finish(), number, tuple(todo.steps))


class _Builder:
    """Operations of init's plans as calls. In the second list the pod's own root is the root."""

    def __init__(self, todo: List, *, users: bool = False) -> None:
        self._todo = todo
        self._more = False
        self._users = users

    def add(self, plan_of_it: Iterable[Op]) -> None:
        for op in plan_of_it:
            self._todo.doing = op.describe()
            self._add(op)

    def _add(self, op: Op) -> None:
        todo = self._todo
        if isinstance(op, ops.Unshare):
            todo.call("setns", _VOID, syscalls.CLONE_NEWNS)
            todo.call("close", _VOID)
            todo.call("unshare", op.flags)
        elif isinstance(op, ops.UnshareUsers):
            self._users_and_namespaces(op)
        elif isinstance(op, ops.Loopback | ops.ReportAtOnce):
            (self._loopback if isinstance(op, ops.Loopback) else self._report_at_once)()
        elif isinstance(op, ops.NewRoot | ops.PivotRoot):
            pass  # we are in it
        elif isinstance(op, ops.MountNew):
            self._mount_new(op)
        elif isinstance(op, ops.Hide):
            self._hide(op)
        elif isinstance(op, ops.MakeReadOnly):
            self._make_read_only(op)
        elif isinstance(op, ops.SetHostname):
            name = os.fsencode(op.name)
            todo.call("sethostname", name, len(name))
        elif isinstance(op, ops.SetSysctls):
            self._sysctls(op)
        elif isinstance(op, ops.SealRoot):
            if self._more:  # the root itself is read-only
                todo.call("mount", "none", ops.MORE, 0, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, 0)
        else:
            raise StageError(f"{op.describe()}: not an operation of init's")

    def _users_and_namespaces(self, op: ops.UnshareUsers) -> None:
        """A child that shares our memory and descriptors is in them, opens them for us, and says as whom it goes.

        Its ids are mapped when it has ended: until it is waited for, its /proc/PID/uid_map is there.
        """
        todo = self._todo
        kinds = [
            (name, flag)
            for name, flag in (
                ("ipc", syscalls.CLONE_NEWIPC), ("uts", syscalls.CLONE_NEWUTS), ("net", syscalls.CLONE_NEWNET)
            )
            if op.flags & flag
        ]  # fmt: skip
        places = {name: todo.room(8) for name, _ in kinds}
        users, pid, number, proc, own, file = (todo.room(16) for _ in range(6))
        child, parent = Label(), Label()
        todo.call("clone", _CLONE, result=pid, forks=True, jump=child, then=parent)
        todo.label(child)
        self._owner(op.base)
        todo.call("unshare", syscalls.CLONE_NEWUSER | op.flags)
        todo.call("readlinkat", _AT_FDCWD, "/proc/self", number, 15)
        for name, place in {"user": users, **places}.items():
            todo.call("openat", _AT_FDCWD, f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC, result=place)
        todo.call("exit_group", 0)
        todo.label(parent)
        todo.call("openat", _AT_FDCWD, "/proc", _DIRECTORY, result=proc)
        todo.call("openat", Value(proc), number, _DIRECTORY, result=own)
        line = f"0 {op.base} {userns.SIZE}\n".encode()
        for name in ("uid_map", "gid_map", "projid_map"):  # the last any process in it may write, once
            todo.call("openat", Value(own), name, os.O_WRONLY | os.O_CLOEXEC, result=file)
            todo.call("write", Value(file), line, len(line), tolerate=errno.EPERM if "proj" in name else 0)
            todo.call("close", Value(file))
        for name, flag in kinds:
            todo.call("setns", Value(places[name]), flag)
            todo.call("close", Value(places[name]))
        todo.call("wait4", Value(pid), 0, 0, 0)
        todo.call("dup3", Value(users), _USERS, os.O_CLOEXEC)
        for place in (proc, own, users):
            todo.call("close", Value(place))
        todo.call(
            "prctl", syscalls.PR_SET_DUMPABLE, 0
        )  # the child's change of user was one of our memory, too

    def _report_at_once(self) -> None:
        todo = self._todo
        for path in ops.REPORTS:
            file, following = todo.room(8), Label()
            todo.call(
                "openat",
                _AT_FDCWD,
                path,
                os.O_WRONLY | os.O_CLOEXEC,
                result=file,
                tolerate=ANY,
                jump=following,
            )
            todo.call("write", Value(file), "1", 1)
            todo.call("close", Value(file))
            todo.label(following)

    def _owner(self, base: int) -> None:
        """Whose the user namespace will be (see `userns.hold_namespaces`)."""
        capability = caps.mask(["CAP_SYS_ADMIN"])
        self._todo.call("setresuid", -1, base, -1)
        sets = self._todo.structure("IIIIII", capability, capability, 0, 0, 0, 0)
        self._todo.call("capset", self._todo.structure("II", 0x20080522, 0), sets)

    def _loopback(self) -> None:
        todo, place = self._todo, self._todo.room(8)
        inet, datagram, up_and_running = 2, 2, 0x41
        request = todo.room(40, b"lo".ljust(16, b"\0") + up_and_running.to_bytes(2, "little"))
        todo.call("socket", inet, datagram | os.O_CLOEXEC, 0, result=place)
        todo.call("ioctl", Value(place), 0x8914, request)
        todo.call("close", Value(place))

    def _mount_new(self, op: ops.MountNew) -> None:
        todo = self._todo
        if op.name not in ops.DIRECTORIES:
            if not self._more:
                todo.call("mount", "tmpfs", ops.MORE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
                self._more = True
            todo.call("mkdirat", _AT_FDCWD, op.name, 0o755)
        todo.call("mount", op.fstype, op.name, op.fstype, op.flags & ~MS_RDONLY, op.data or 0)
        if op.flags & MS_RDONLY:
            todo.call("mount", "none", op.name, 0, op.flags | MS_BIND | MS_REMOUNT, 0)

    def _hide(self, op: ops.Hide) -> None:
        """What cannot be covered by a file is a directory, or the other way round, or it is not there."""
        todo = self._todo
        for path in op.paths:
            likely = ("empty", "null") if os.path.isdir(f"/{path}") else ("null", "empty")
            other, following = Label(), Label()
            if not os.path.exists(f"/{path}"):  # it may be there by then
                todo.call("openat", _AT_FDCWD, path, os.O_PATH, tolerate=errno.ENOENT, jump=following)
            todo.call("mount", likely[0], path, 0, MS_BIND, 0, tolerate=ANY, jump=other, then=following)
            todo.label(other)
            todo.call("mount", likely[1], path, 0, MS_BIND, 0, tolerate=errno.ENOENT)
            todo.label(following)

    def _make_read_only(self, op: ops.MakeReadOnly) -> None:
        todo = self._todo
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        for path in op.paths:
            following = Label()
            todo.call("mount", path, path, 0, MS_BIND, 0, tolerate=errno.ENOENT, jump=following)
            todo.call("mount", "none", path, 0, flags, 0)
            todo.label(following)

    def _sysctls(self, op: ops.SetSysctls) -> None:
        """As in `ops.SetSysctls`; what a setting's write fails of is what the launcher hears first."""
        todo = self._todo
        root, file, child, parent = todo.room(8), todo.room(8), Label(), Label()
        place, flags = "/proc.sysctl", MS_NOSUID | MS_NODEV | MS_NOEXEC
        todo.call("mount", "proc", place, "proc", flags, 0)
        todo.call(
            "openat", _AT_FDCWD, f"{place}/sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, result=root
        )
        todo.call("umount2", place, syscalls.MNT_DETACH)
        todo.call("clone", _CLONE & ~0x400, forks=True, jump=child, then=parent)
        todo.label(child)
        if self._users:
            todo.call("setns", _USERS, syscalls.CLONE_NEWUSER)
            todo.call("setresuid", 0, 0, 0)
        for name, value in op.settings:
            todo.doing = f"set sysctl {name}"
            text = value.encode()
            todo.call("openat", Value(root), name.replace(".", "/"), os.O_WRONLY | os.O_CLOEXEC, result=file)
            todo.call("write", Value(file), text, len(text))
            todo.call("close", Value(file))
        todo.call("exit_group", 0)
        todo.label(parent)
        todo.call("close", Value(root))
