"""The last steps of an app's start as a list: who it is, what it may do, and what it runs.

The same steps, in the same order, as `process.spawn`, which is for machines without lists. The program that executes
them has what it was given: the app's streams, and what is named here, none of which is left when the app's process
appears in the pod. It was spawned by somebody who stands in the app's root and working directory (see `worker`).
"""

import os
import signal
import struct
from typing import Final, NamedTuple

from executor.stage1 import caps, syscalls
from executor.stage1.machine.assemble import Label, List, Place, Value
from executor.stage1.machine.init import Program
from executor.stage1.machine.run import REPORT, SOURCE
from executor.stage1.process import Process
from executor.stage1.users import Identity

FIRST_OWN: Final = REPORT + 1
_CLONE: Final = 0x100 | 0x4000 | signal.SIGCHLD  # VM, VFORK
_SETMASK, _F_SETFD, _FD_CLOEXEC = 2, 2, 1
_FILTER: Final = 1  # SECCOMP_SET_MODE_FILTER
_INSTRUCTION: Final = 8
_SIGNALS: Final = tuple(set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP})


class Prelude(NamedTuple):
    """What comes before the app's user: descriptors of the program, -1 for what there is not.

    `members` are files of cgroups, `namespaces` a pidfd (to be entered by `flags`), `users` the user namespace, `proc`
    the host's /proc.
    """

    members: tuple[int, ...] = ()
    cgroup: str = ""
    cgroup_namespace: bool = False
    namespaces: int = -1
    whose: str = ""
    flags: int = 0
    users: int = -1
    proc: int = -1
    oom_score: int | None = None


def start(
    process: Process, identity: Identity, environment: dict[str, str], program: str, prelude: Prelude, *,
    last_cap: int, terminal: str,
) -> Program:  # fmt: skip
    """From the program's first call to the app's exec; it reports the app's pid. `terminal`: its path in the root.

    Raises ValueError (a null byte in what is to be executed), OSError (too long).
    """
    todo = List()
    todo.doing = "start the app"
    todo.call("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    todo.call("prctl", syscalls.PR_SET_DUMPABLE, 0)
    todo.call("prctl", syscalls.PR_SET_NAME, "gantry-start")
    todo.call("close", SOURCE)
    todo.call("fcntl", REPORT, _F_SETFD, _FD_CLOEXEC)
    zeros = todo.room(32)  # an empty mask, and SIG_DFL
    for number in _SIGNALS:
        todo.call("rt_sigaction", number, zeros, 0, 8)
    todo.call("rt_sigprocmask", _SETMASK, zeros, 0, 8)
    todo.call("keyctl", syscalls.KEYCTL_JOIN_SESSION_KEYRING, 0)
    _enter(todo, prelude)
    todo.call("close_range", FIRST_OWN, 0xFFFFFFFF, 0)
    todo.doing = "drop privileges"
    _become(todo, identity, process, last_cap)
    todo.doing = f"exec {process.argv[0]}"
    _execute(todo, program, process.argv, environment, terminal)
    return Program(todo.finish(), 0, tuple(todo.steps))


def _enter(todo: List, prelude: Prelude) -> None:
    if prelude.oom_score is not None:
        todo.doing = f"set oom_score_adj to {prelude.oom_score}"
        _write(todo, prelude.proc, "self/oom_score_adj", str(prelude.oom_score))
    todo.doing = f"join the cgroup {prelude.cgroup}"
    for file in prelude.members:
        todo.call("write", file, "0", 1)
    if prelude.cgroup_namespace:
        todo.call("unshare", syscalls.CLONE_NEWCGROUP)
    if prelude.flags:
        todo.doing = f"enter the namespaces of {prelude.whose}"
        todo.call("setns", prelude.namespaces, prelude.flags)
    if prelude.users >= 0:
        todo.doing = "enter the user namespace"
        todo.call("setns", prelude.users, syscalls.CLONE_NEWUSER)


def _write(todo: List, directory: int, path: str, text: str) -> None:
    file, raw = todo.room(8), os.fsencode(text)
    todo.call("openat", directory, path, os.O_WRONLY | os.O_CLOEXEC, result=file)
    todo.call("write", Value(file), raw, len(raw))
    todo.call("close", Value(file))


def _become(todo: List, identity: Identity, process: Process, last_cap: int) -> None:
    """See `process._become`."""
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
    todo: List, program: str, argv: tuple[str, ...], environment: dict[str, str], terminal: str
) -> None:
    """Only the child is in the pod's pid namespace, and nothing of ours is in it: its descriptors are the app's."""
    pid, child, parent = todo.room(8), Label(), Label()
    todo.call("clone", _CLONE, result=pid, forks=True, jump=child, then=parent)
    todo.label(child)
    todo.call("setsid")
    if terminal:
        # The first terminal that the leader of a session opens becomes the session's (tty_ioctl(4)).
        todo.call("close", 0)
        todo.call("openat", syscalls.AT_FDCWD, terminal, os.O_RDWR)
        for stream in (1, 2):
            todo.call("dup3", 0, stream, 0)
    variables = [f"{name}={value}" for name, value in environment.items()]
    todo.call("execve", program, todo.pointers(argv), todo.pointers(variables))
    todo.label(parent)
    _report(todo, pid)


def _report(todo: List, pid: Place) -> None:
    todo.call("write", REPORT, pid, 8)
    todo.call("exit_group", 0)
