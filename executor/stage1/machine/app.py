"""The last steps of an app's start as a list: who it is, what it may do, and what it runs.

The same steps, in the same order, as `process.spawn`, which is for machines without lists. The program that executes
them has what it was given: the app's streams, and what is named here, none of which is left when the app's process
appears in the pod. It was spawned by somebody who stands in the app's root and working directory (see `worker`).
"""

import errno
import os
import signal
import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple

from executor.stage1 import caps, syscalls
from executor.stage1.machine.assemble import ANY, LIST, RECORD, SIZE, Label, List, Place, Value
from executor.stage1.machine.run import REPORT, SOURCE
from executor.stage1.ops import IN_ROOT
from executor.stage1.plan import HIDDEN, READ_ONLY
from executor.stage1.process import Process
from executor.stage1.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT
from executor.stage1.users import Identity

FIRST_OWN: Final = REPORT + 1
_VFORK, _PARENT = 0x4000, 0x8000
_CLONE: Final = 0x100 | _VFORK | signal.SIGCHLD  # VM, VFORK
_SETMASK, _F_SETFD, _FD_CLOEXEC = 2, 2, 1
_FILTER: Final = 1  # SECCOMP_SET_MODE_FILTER
_CLOSE_RANGE_CLOEXEC: Final = 4
_ABOVE: Final = 64  # any socket
_JOIN, _EXEC = "join the cgroup ", "exec "
_FIRST_SOCKET: Final = 3  # sd_listen_fds(3)
_LONGEST_PID: Final = 20
_INSTRUCTION: Final = 8
_PROC_FLAGS: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
_EMPTY: Final = "/proc/tty/ldisc"
"""A directory that is empty in every Linux (fs/proc/proc_tty.c), and nearer than a file system of its own."""
_NULL: Final = "null"
_LATER: Final = ("/proc/asound", "/proc/config.gz", "/proc/scsi")
"""What modules may bring of that which is to be hidden. All else is there from boot on, or never."""


class Prelude(NamedTuple):
    """What comes before the app's user: descriptors of the program, -1 for what there is not.

    `members` are files of cgroups, `namespaces` a pidfd (to be entered by `flags`), `users` the user namespace, `proc`
    the host's /proc. `listening`: sockets that become the app's. `told`: a socket that tells whoever reads it
    who has written (SO_PASSCRED), the first of them; after it, `null`: a null device that nobody has touched.
    `label`: what it is for, its file below /proc, its text.
    """

    members: tuple[int, ...] = ()
    cgroup_namespace: bool = False
    namespaces: int = -1
    whose: str = ""
    flags: int = 0
    users: int = -1
    proc: int = -1
    told: int = -1
    null: int = -1
    listening: tuple[int, ...] = ()
    oom_score: int | None = None
    label: tuple[str, str, str] | None = None


class System(NamedTuple):
    """The highest capability of the kernel; the signals that we ignore: the app must not; what of /proc apps with their
    own do not see, with what covers that (_EMPTY, _NULL), or "" where it is not there."""

    last_cap: int
    ignored: tuple[int, ...]
    hidden: tuple[tuple[str, str], ...] = ()

    @classmethod
    def here(cls, last_cap: int, ignored: tuple[int, ...]) -> "System":
        """As it is where /proc is the host's."""
        covers = [(path, _cover(path)) for path in (f"/{one}" for one in HIDDEN) if path.startswith("/proc/")]
        return cls(last_cap, ignored, tuple(one for one in covers if one[1] or one[0] in _LATER))


class Start(NamedTuple):
    """A list without what is executed. steps: what each of its records is for, but for names. executed: where in its
    bytes the addresses of the program, its arguments and its variables belong. further: addresses of more variables.
    """

    data: bytes
    steps: tuple[str, ...]
    executed: tuple[int, ...]
    further: tuple[int, ...]

    def of(self, program: str, argv: tuple[str, ...], environment: Iterable[tuple[str, str]]) -> bytes:
        """The whole list's bytes. Raises ValueError (a null byte in what is to be executed), OSError (too long)."""
        data = bytearray(self.data)
        variables = [f"{name}={value}" for name, value in environment]
        texts = list(map(os.fsencode, (program, *argv, *variables)))
        block = b"\0".join(texts) + b"\0"
        if block.count(b"\0") != len(texts):
            raise ValueError("embedded null byte")
        addresses = list(accumulate((len(text) + 1 for text in texts), initial=LIST + len(data)))
        block += bytes(-len(block) % 8)
        arguments = LIST + len(data) + len(block)
        pointers = [*addresses[1 : 1 + len(argv)], 0, *addresses[1 + len(argv) : -1], *self.further, 0]
        for place, address in zip(
            self.executed, (addresses[0], arguments, arguments + 8 * len(argv) + 8), strict=True
        ):
            struct.pack_into("<Q", data, place, address)
        data += block + struct.pack(f"<{len(pointers)}Q", *pointers)
        if len(data) > SIZE:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return bytes(data)

    def failure(self, record: int, number: int, cgroup: str, name: str) -> str | None:
        """What went wrong in this list, as a StageError says it; None when the record is none of its.

        cgroup, name: what was to be joined, and executed.
        """
        if record >= len(self.steps):
            return None
        step = self.steps[record]
        return f"{step}{ {_JOIN: cgroup, _EXEC: name}.get(step, '') }: {os.strerror(number)}"


def _cover(path: str) -> str:
    if os.path.isdir(path):
        return _EMPTY
    return _NULL if os.path.exists(path) else ""


def start(
    process: Process, identity: Identity, prelude: Prelude, terminal: str, system: System, base: str = ""
) -> Start:
    """From the program's first call to the app's exec; it reports the app's pid. `terminal`: its path in the root.

    Who runs is `identity`'s to say, and what is executed that of `Start.of`. base: where that program's path begins, if
    nobody has looked whether it is there.
    """
    todo = List()
    todo.doing = "start the app"
    todo.call("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    todo.call("prctl", syscalls.PR_SET_DUMPABLE, 0)
    todo.call("prctl", syscalls.PR_SET_NAME, "gantry-start")
    todo.call("close", SOURCE)
    todo.call("fcntl", REPORT, _F_SETFD, _FD_CLOEXEC)
    zeros = todo.room(32)  # an empty mask, and SIG_DFL
    for number in system.ignored:
        todo.call("rt_sigaction", number, zeros, 0, 8)
    todo.call("rt_sigprocmask", _SETMASK, zeros, 0, 8)
    todo.call("keyctl", syscalls.KEYCTL_JOIN_SESSION_KEYRING, 0)
    _enter(todo, prelude)
    executed = tuple(todo.room(8) for _ in range(3))
    if base:
        _look_for(todo, base, executed[0])
    if process.own_proc:
        _own_processes(todo, process, prelude.null, system.hidden)
    if prelude.users >= 0:
        todo.doing = "enter the user namespace"
        todo.call("setns", prelude.users, syscalls.CLONE_NEWUSER)
    own = FIRST_OWN + (prelude.told >= 0) + (prelude.null >= 0)
    todo.call("close_range", own + len(prelude.listening), 0xFFFFFFFF, 0)
    if prelude.listening:
        _keep_report(todo, own)
    todo.doing = "drop privileges"
    _become(todo, identity, process, system.last_cap)
    todo.doing = _EXEC
    further = _execute(todo, executed, terminal, prelude.listening, first=bool(process.own_proc))
    data, start = todo.finish(), len(todo) * RECORD
    return Start(
        data + bytes(-len(data) % 8),
        tuple(todo.steps),
        tuple(start + place.offset for place in executed),
        tuple(LIST + start + place.offset for place in further),
    )


def _enter(todo: List, prelude: Prelude) -> None:
    if prelude.label is not None:
        todo.doing, path, text = prelude.label
        _write(todo, prelude.proc, path, text)
    if prelude.oom_score is not None:
        todo.doing = f"set oom_score_adj to {prelude.oom_score}"
        _write(todo, prelude.proc, "self/oom_score_adj", str(prelude.oom_score))
    todo.doing = _JOIN
    for file in prelude.members:
        todo.call("write", file, "0", 1)
    if prelude.cgroup_namespace:
        todo.call("unshare", syscalls.CLONE_NEWCGROUP)
    if prelude.flags:
        todo.doing = f"enter the namespaces of {prelude.whose}"
        todo.call("setns", prelude.namespaces, prelude.flags)


def _own_processes(todo: List, process: Process, null: int, hidden: tuple[tuple[str, str], ...]) -> None:
    """Goes on as the first process of a pid namespace below the pod's, with a /proc of that.

        program ── child: in the pod's namespace, where alone one below can be made
           └────── grandchild (CLONE_PARENT): goes on, and becomes the app

    The program, which is out here, is its parent: else the pod's init would inherit it, and not the launcher. Nobody
    is in that namespace to see it.
    """
    todo.doing = "make a pid namespace of the app's own"
    pid, child, parent, first, last = todo.room(8), Label(), Label(), Label(), Label()
    todo.call("fcntl", FIRST_OWN, _F_SETFD, _FD_CLOEXEC)
    todo.call("clone", _CLONE, result=pid, forks=True, jump=child, then=parent)
    todo.label(parent)
    todo.call("wait4", Value(pid), 0, 0, 0)
    _report(todo, pid)  # if nothing failed; who the app is it has said itself
    todo.label(child)
    todo.call("unshare", syscalls.CLONE_NEWPID)
    todo.call("clone", _CLONE | _PARENT, forks=True, jump=first, then=last)
    todo.label(last)
    todo.call("exit_group", 0)
    todo.label(first)
    todo.call("write", FIRST_OWN, "x", 1)
    _mount_proc(todo, process, null, hidden)


def _mount_proc(todo: List, process: Process, null: int, hidden: tuple[tuple[str, str], ...]) -> None:
    """The app's own, and above it what was above the pod's."""
    todo.doing = "mount the app's own /proc"
    above = [(path, todo.room(8)) for path in process.over_proc]
    for path, tree in above:
        clone = syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC | syscalls.AT_RECURSIVE
        todo.call("open_tree", syscalls.AT_FDCWD, path, clone, result=tree)
    todo.call("mount", "proc", "/proc", "proc", _PROC_FLAGS, 0)
    if process.own_proc == "masked":
        _mask_proc(todo, null, hidden)
    for path, tree in above:
        to_path = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        todo.call("move_mount", Value(tree), "", syscalls.AT_FDCWD, path, to_path)


def _mask_proc(todo: List, null: int, hidden: tuple[tuple[str, str], ...]) -> None:
    """What is bound while the whole is read-only stays so. What is hidden by a descriptor's file hides the next.

    Nothing outside of this /proc is named: the app's /dev, say, may be a volume that somebody else writes to.
    """
    mount = MS_BIND | MS_REMOUNT | _PROC_FLAGS
    todo.call("mount", "none", "/proc", 0, mount | MS_RDONLY, 0)
    for path in (f"/{one}" for one in READ_ONLY):
        todo.call("mount", path, path, 0, MS_BIND, 0, tolerate=errno.ENOENT)
    todo.call("mount", "none", "/proc", 0, mount, 0)
    file, device = todo.room(8), f"/proc/self/fd/{null}"
    for path, likely in hidden:
        other, following = Label(), Label()
        if not likely:  # it may be there by then
            call = (syscalls.AT_FDCWD, path, os.O_PATH | os.O_CLOEXEC)
            todo.call("openat", *call, result=file, tolerate=errno.ENOENT, jump=following)
            todo.call("close", Value(file))
        if likely == _NULL and path not in _LATER:
            todo.call("mount", device, path, 0, MS_BIND, 0)
            device = path
            continue
        source = _EMPTY if likely == _EMPTY else device
        todo.call("mount", source, path, 0, MS_BIND, 0, tolerate=ANY, jump=other, then=following)
        todo.label(other)
        todo.call("mount", "tmpfs", path, "tmpfs", _PROC_FLAGS | MS_RDONLY, "size=4k", tolerate=errno.ENOENT)
        todo.label(following)
    todo.call("close", null)


def _look_for(todo: List, base: str, program: Place) -> None:
    """As `process.find_program`: no magic link, and nothing outside of the root."""
    todo.doing = _EXEC
    place, file = todo.room(8), todo.room(8)
    how = todo.structure("QQQ", os.O_PATH | os.O_CLOEXEC, 0, IN_ROOT)
    todo.call("openat", syscalls.AT_FDCWD, base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, result=place)
    todo.call("openat2", Value(place), Value(program), how, 24, result=file)
    todo.call("close", Value(file))
    todo.call("close", Value(place))


def _write(todo: List, directory: int, path: str, text: str) -> None:
    file, raw = todo.room(8), os.fsencode(text)
    todo.call("openat", directory, path, os.O_WRONLY | os.O_CLOEXEC, result=file)
    todo.call("write", Value(file), raw, len(raw))
    todo.call("close", Value(file))


def _become(todo: List, identity: Identity, process: Process, last_cap: int) -> None:
    """See `process.become`."""
    todo.call("umask", 0o022)
    for number, soft, hard in process.rlimits:
        unsigned = 0xFFFFFFFFFFFFFFFF
        todo.call("prlimit64", 0, number, todo.structure("QQ", soft & unsigned, hard & unsigned), 0)
    if process.capabilities is not None:
        for number in range(last_cap + 1):
            if not process.capabilities >> number & 1:
                todo.call("prctl", syscalls.PR_CAPBSET_DROP, number)
        todo.call("prctl", syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    groups = identity.groups
    todo.call("setgroups", len(groups), todo.room(8, struct.pack(f"<{len(groups)}I", *groups)))
    todo.call("setresgid", *(identity.gid,) * 3)
    keep_caps = bool(process.seccomp) and identity.uid != 0
    if keep_caps:
        todo.call("prctl", syscalls.PR_SET_KEEPCAPS, 1)
    todo.call("setresuid", *(identity.uid,) * 3)
    todo.call("prctl", syscalls.PR_SET_DUMPABLE, 0)
    if process.no_new_privileges:
        todo.call("prctl", syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if process.seccomp:
        if keep_caps:
            _own_sets(todo, caps.FOR_SECCOMP)
        code = todo.room(0, process.seccomp)
        todo.call("seccomp", _FILTER, 0, todo.structure("QQ", len(process.seccomp) // _INSTRUCTION, code))
    if identity.uid != 0:
        if keep_caps:
            _own_sets(todo, 0)
    elif process.capabilities is not None:
        _own_sets(todo, process.capabilities)


def _own_sets(todo: List, keep: int) -> None:
    low, high = keep & 0xFFFFFFFF, keep >> 32
    header = todo.structure("II", 0x20080522, 0)
    todo.call("capset", header, todo.structure("IIIIII", low, low, 0, high, high, 0))


def _execute(
    todo: List, executed: tuple[Place, ...], terminal: str, sockets: tuple[int, ...], *, first: bool
) -> list[Place]:
    """Only the child is in the pod's pid namespace, and nothing of ours is in it: its descriptors are the app's.

    `executed`: where the addresses of what execve(2) is given are. `first`: of its own pid namespace it is already.
    `sockets`: those it gets. Returns variables in its environment.
    """
    pid, child, parent = todo.room(8), Label(), Label()
    if not first:
        todo.call("clone", _CLONE, result=pid, forks=True, jump=child, then=parent)
        todo.label(child)
    todo.call("setsid")
    if terminal:
        # The first terminal that the leader of a session opens becomes the session's (tty_ioctl(4)).
        todo.call("close", 0)
        todo.call("openat", syscalls.AT_FDCWD, terminal, os.O_RDWR)
        for stream in (1, 2):
            todo.call("dup2", 0, stream, 0)  # which filters know from other programs
    variables = [_take_sockets(todo, sockets)] if sockets else []
    call = tuple(map(Value, executed))
    if sockets:  # what is wrong with it can be said again when it is known where
        todo.call("execve", *call, tolerate=ANY)
        todo.call("dup2", _ABOVE, REPORT, 0)
    todo.call("execve", *call)
    if not first:
        todo.label(parent)
        _report(todo, pid)
    return variables


def _keep_report(todo: List, first: int) -> None:
    """Sockets, from descriptor `first` on, go no further by themselves; where they will be, there is the report now."""
    todo.call("close_range", first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)
    todo.call("dup3", REPORT, _ABOVE, os.O_CLOEXEC)


def _take_sockets(todo: List, sockets: tuple[int, ...]) -> Place:
    """Where an app looks for them; the variable that says that they are meant for it: its pid, as the kernel writes it
    where the app stands (proc(5))."""
    doing, todo.doing = todo.doing, "tell the app its pid for LISTEN_PID"
    variable = todo.room(32, b"LISTEN_PID=")
    todo.call("readlinkat", syscalls.AT_FDCWD, "/proc/self", variable.at(len("LISTEN_PID=")), _LONGEST_PID)
    todo.doing = "give the app its sockets"
    for number, one in enumerate(sockets):  # each from above its place: none is in another's way
        todo.call("dup2", one, _FIRST_SOCKET + number, 0)
    todo.doing = doing
    return variable


def _report(todo: List, pid: Place) -> None:
    todo.call("write", REPORT, pid, 8)
    todo.call("exit_group", 0)
