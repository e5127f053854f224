"""An app as the first process of a pid namespace of its own, below the pod's, where there are no lists.

    starter ── fork: in the pod's pid namespace, where alone one below can be made
       └────── its sibling (CLONE_PARENT): goes on, mounts the app's /proc, and becomes the app

The starter, which is out here, is its parent: else the pod's init would inherit it, and not the launcher. Nobody else
is in that namespace to see it. (machine/app.py says the same as a list.)
"""

import os
import signal
import socket
import stat
import struct
from typing import Final, NoReturn

from executor.stage1 import plan, syscalls
from executor.stage1.ops import StageError
from executor.stage1.process import SIGNALS, Process, Settled, become, settle
from executor.stage1.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

_FLAGS: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred


def spawn(
    process: Process, *, last_cap: int, keep: int, user_namespace: int, terminal: bool, null: int
) -> int:
    """As `process.spawn`, with `process.own_proc`. The caller is in the app's root, and in the pod's pid namespace
    with what it forks. null: `OpenNull`'s, or -1. Raises StageError."""
    ready = settle(process, (0, 1, 2), terminal=terminal)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    wrong, report = os.pipe2(os.O_CLOEXEC)
    between = os.fork()
    if between == 0:
        doing = "make a pid namespace of the app's own"
        try:
            os.close(keep)
            syscalls.unshare(syscalls.CLONE_NEWPID)
            if syscalls.fork_sibling() == 0:
                theirs.send(b"x")
                _go_on(process, ready, (report, user_namespace, null), last_cap)
        except OSError as error:
            os.write(report, f"{doing}: {os.strerror(error.errno or 0)}".encode())
        finally:
            os._exit(1)
    os.close(report)
    theirs.close()
    os.waitpid(between, 0)
    with open(
        wrong, encoding="utf-8", errors="replace"
    ) as file:  # until the app has been executed, or has failed
        text = file.read()
    with ours:
        if text:
            raise StageError(text)
        return _who(ours)


def _who(sock: socket.socket) -> int:
    """The pid of whoever has written there, as the kernel tells us (unix(7))."""
    try:
        _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_DONTWAIT)
    except BlockingIOError:
        ancillary = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    raise StageError("")  # it was killed before


def _go_on(process: Process, ready: Settled, fds: tuple[int, int, int], last_cap: int) -> NoReturn:
    report, user_namespace, null = fds
    doing = "mount the app's own /proc"
    try:
        _mount(process, null)
        if user_namespace >= 0:
            doing = "enter the user namespace"
            syscalls.setns(user_namespace, syscalls.CLONE_NEWUSER)
        syscalls.close_range(3, report - 1)
        syscalls.close_range(report + 1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        doing = "drop privileges"
        become(ready.identity, process, last_cap)
        doing = f"exec {process.argv[0]}"
        os.setsid()
        if ready.terminal:
            os.dup2(os.open(ready.terminal, os.O_RDWR), 0)
            for stream in (1, 2):
                os.dup2(0, stream)
        os.execve(ready.program, process.argv, ready.environment)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
        os.write(report, f"{doing}: {reason}".encode())
    finally:
        os._exit(1)


def _mount(process: Process, null: int) -> None:
    """The app's own /proc, and above it what was above the pod's."""
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
    above = [(path, syscalls.open_tree(path, flags)) for path in process.over_proc]
    syscalls.mount("proc", "/proc", "proc", _FLAGS)
    if process.own_proc == "masked":
        _mask(f"/proc/self/fd/{null}")
    for path, tree in above:
        syscalls.move_mount(tree, os.open(path, os.O_PATH))


def _mask(null: str) -> None:
    for path in (f"/{one}" for one in plan.HIDDEN if one.startswith("proc/")):
        try:
            directory = stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            continue
        if directory:
            syscalls.mount("tmpfs", path, "tmpfs", _FLAGS | MS_RDONLY, "size=4k")
        else:
            syscalls.mount(null, path, None, MS_BIND)
    for path in (f"/{one}" for one in plan.READ_ONLY):
        if os.path.exists(path):
            syscalls.mount(path, path, None, MS_BIND)
            syscalls.mount("none", path, None, _FLAGS | MS_BIND | MS_REMOUNT | MS_RDONLY)
