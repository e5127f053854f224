"""What the launcher forks: a pod's init, and the process that prepares an app and starts it.

Both are told what to do after the fork, so that they can wait, forked, for their pod (see launcher, spares).
The launcher's death ends them: by signal, and because the socket to it closes.
"""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from executor.stage1 import bare, caps, cgroups, channel, first, ops, pause, plan, syscalls
from executor.stage1.process import Limit, Process, make_room, spawn

SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM)
"""Those that the launcher reads instead of catching them."""
_KILL_ROUNDS: Final = 500
TERMINAL: Final = ("terminal",)
"""What a starter says first, with the descriptor of the master side, when it was asked for a terminal."""


def fork(
    entry: Callable[[socket.socket], None], *, new_pid_namespace: int | None, limit: Limit | None = None
) -> tuple[int, socket.socket]:
    """Fork a child that runs `entry` on its end of a socket pair; returns its pid and our end.

    `new_pid_namespace` is a descriptor of our own pid namespace: the child becomes pid 1 of a new one. `limit`: that
    it gets, instead of ours.
    """
    ours, theirs = channel.pair()
    sys.stderr.flush()
    if new_pid_namespace is not None:
        syscalls.unshare(syscalls.CLONE_NEWPID)
    try:
        pid = os.fork()
        if pid == 0:
            _child(entry, theirs, limit)
    finally:
        if new_pid_namespace is not None:
            syscalls.setns(new_pid_namespace, syscalls.CLONE_NEWPID)
    theirs.close()
    return pid, ours


def _child(entry: Callable[[socket.socket], None], sock: socket.socket, limit: Limit | None) -> None:
    code = 1
    try:
        if limit is not None:
            number, soft, hard = limit
            resource.setrlimit(number, (soft, hard))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        entry(sock)
        code = 0
    except ConnectionError:
        pass  # the launcher has gone: there is nobody left to tell
    except BaseException:  # noqa: BLE001 - nothing may reach the launcher's frames below us
        sys.excepthook(*sys.exc_info())  # the module traceback is slow to import
    finally:
        os._exit(code)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor except 0, 1, 2 and `keep`."""
    first = 3
    for fd in sorted(keep):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first)


class Kind(NamedTuple):
    """What has to be known of a pod to make its init."""

    flavor: str
    host_network: bool
    users: bool
    host_pid: bool = False
    host_ipc: bool = False


def init(sock: socket.socket, kind: Kind, *, ids: int, last_cap: int) -> None:
    """A pod's init: makes its namespaces and shared mounts, then holds them until it is killed.

    In flavor linux it is pid 1 of the pod's pid namespace: children it inherits are reaped by the kernel
    (SIGCHLD ignored), its death is the death of everything in there, and it has no capabilities left that an
    app with CAP_SYS_PTRACE could take over. In flavor fly, and with the host's processes, there is no such namespace:
    when the launcher goes, this kills the pod's cgroup.
    """
    confined = kind.flavor == "linux"
    watches = not confined or kind.host_pid
    if not watches:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    close_all_but([sock.fileno()])
    syscalls.set_process_name("gantry-init")
    context = ops.Context({})
    try:
        made = plan.sandbox_plan(kind.flavor, host_network=kind.host_network, ids=ids, host_ipc=kind.host_ipc)
        ops.execute(made, context)
        if confined:
            caps.limit_bounding_set(0, last_cap)
            null = os.open("/null", os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
        job, fds = channel.receive(sock)
        if job is None:
            return
        cgroup, *members = fds
        for file in members:
            os.write(file, b"0")
        ops.execute(ops.unpack(job), context)
        if confined:
            caps.limit_own_sets(caps.mask(("CAP_KILL",)) if watches else 0)
        channel.send(sock, "", [context.fds["users"]] if ids else [])
    except (ops.StageError, OSError) as error:
        channel.send(sock, str(error))
        return
    if not watches:
        program = pause.image()
        if program is not None:
            pause.become(program)
    os.fchdir(cgroup)
    close_all_but([sock.fileno()])
    try:
        sock.recv(1)  # never answered: returns when the launcher is gone
    except ConnectionError:
        pass  # it went without having read what we had said
    if watches:
        _kill_own_cgroup()


def _kill_own_cgroup() -> None:
    """Kill what the working directory, the pod's cgroup, holds (but not this process: it has left)."""
    version = 1 if os.path.exists("tasks") else 2
    for _ in range(_KILL_ROUNDS):
        apps = [entry.name for entry in os.scandir(".") if entry.is_dir() and entry.name != cgroups.INIT_LEAF]
        empty = [cgroups.kill_tree(name, version) for name in apps]
        if all(empty):
            return
        time.sleep(0.01)


def starter(sock: socket.socket, *, host: int, last_cap: int, spare: bool) -> None:
    """Wait for one app, prepare it, start it, say its pid (or what went wrong), and end.

    It stays in the host's pid namespace, where no app can see it; only the app itself is spawned into the pod's.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    syscalls.forget_signals()
    close_all_but([sock.fileno(), host])
    syscalls.set_process_name("gantry-start")
    syscalls.join_session_keyring()
    home, root = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in ("/proc/self/ns/mnt", "/"))
    ground = bare.make_ground()
    syscalls.setns(home, syscalls.CLONE_NEWNS)
    before = make_room()
    if spare:
        syscalls.prefault()
    job, fds = channel.receive(sock)
    if job is None:
        return
    packed, process, names = job
    streams = fds[: len(fds) - len(names)]
    given = dict(zip(names, fds[len(streams) :], strict=True))
    context = ops.Context({"ground": ground, "host": host, **given}, home=root)
    context.streams = streams
    todo = ops.unpack(packed)
    if not streams:
        todo.append(ops.Terminal(console="app" not in names))
    try:
        ops.execute(todo, context)
        for number, fd in enumerate(context.streams):
            os.dup2(fd, number, inheritable=True)
        pid = _spawn(sock, Process(*process).limited(before), last_cap, context.fds)
        channel.send(sock, pid)
    except ops.StageError as error:
        channel.send(sock, str(error))
    except Exception as error:  # noqa: BLE001 - our stderr is the app's by now
        channel.send(sock, f"start the app: {type(error).__name__}: {error}")


def _spawn(sock: socket.socket, process: Process, last_cap: int, fds: dict[str, int]) -> int:
    if "master" in fds:
        channel.send(sock, TERMINAL, [fds["master"]])  # before we lose the descriptor
    given = {"last_cap": last_cap, "keep": sock.fileno(), "user_namespace": fds.get("users", -1)}
    if process.own_proc:
        return first.spawn(process, terminal="master" in fds, null=fds.get(ops.NULL, -1), **given)
    return spawn(process, terminal="master" in fds, **given)
