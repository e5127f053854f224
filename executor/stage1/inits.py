"""The launcher's side of a pod's init: how it is started, told its pod, and heard.

In flavor linux it is a program of some hundred bytes that executes lists (machine/init.py); in the others, and where
there is no such program, a fork of the launcher (children.py).
"""

import os
import signal
import socket
import struct
from typing import Final

from executor.stage1 import cgroups, channel, children, nspawn, ops, plan, syscalls, userns
from executor.stage1 import machine as native
from executor.stage1.bare import Bare
from executor.stage1.children import Kind
from executor.stage1.manifest import Pod
from executor.stage1.ops import StageError
from executor.stage1.process import Limit
from executor.stage1.reuse import Place

_REPORT: Final = struct.Struct("<II")


class Init:
    """Its pid, our end of the socket to it, and the ids of its user namespace, if it has one.

    `lists`: what it was told to do; empty for a fork of ours.
    """

    def __init__(
        self,
        kind: Kind,
        pid: int,
        sock: socket.socket,
        ids: userns.Range | None,
        lists: "list[native.Program]",
    ) -> None:
        self.kind = kind
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.socket = sock
        self.ids = ids
        self.lists = lists
        self.executes_lists = bool(lists)
        self.gone = False
        self.users = -1
        """A descriptor of its user namespace, as soon as it has told us."""
        self.pods = 0
        """How many have had it, all of them of the `tenant`'s. `since`: when the last one ended (time.monotonic)."""
        self.tenant = ""
        self.since = 0.0
        self.made = b""
        """What is to be seen of it when it is new; `place`: where that is looked at (see `reuse`)."""
        self.place: Place | None = None

    def kill(self) -> None:
        """It ends, and with it every process that it holds."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of what we have of it. Once, when it and all its pod's processes have ended."""
        self.gone = True
        self.socket.close()
        self.place = None
        for fd in (self.pidfd, self.users):
            if fd >= 0:
                os.close(fd)
        if self.ids is not None:
            self.ids.release()


class Maker:
    """Starts inits, of all kinds."""

    def __init__(
        self, machine: "native.Machine | None", bare: Bare | None, last_cap: int, limit: Limit
    ) -> None:
        """limit: of descriptors, for those that are forks of ours."""
        self._machine = machine
        self._limit = limit
        self._bare = bare
        self._last_cap = last_cap
        self._own_pid_ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def start(self, kind: Kind) -> Init:
        """An init that makes its namespaces. Raises OSError."""
        confined = kind.flavor == "linux" and not kind.host_pid
        ids = userns.take_range() if kind.users else None
        base = ids.base if ids else 0
        if self._machine is not None and self._bare is not None and confined:
            return self._spawn(self._machine, self._bare, kind, ids)

        def entry(sock: socket.socket) -> None:
            if kind.flavor == "nspawn":
                nspawn.keeper(sock, host_network=kind.host_network, last_cap=self._last_cap)
                return
            children.init(sock, kind, ids=base, last_cap=self._last_cap)

        pid_namespace = self._own_pid_ns if confined else None
        child = children.fork(entry, new_pid_namespace=pid_namespace, limit=self._limit)
        return Init(kind, *child, ids, [])

    def _spawn(self, machine: "native.Machine", bare: Bare, kind: Kind, ids: userns.Range | None) -> Init:
        program = native.first(
            host_network=kind.host_network,
            host_ipc=kind.host_ipc,
            ids=ids.base if ids else 0,
            last_cap=self._last_cap,
        )
        ours, theirs = channel.pair()
        try:
            fds = [self._null, self._null, 2, theirs.fileno(), theirs.fileno(), bare.void]
            pid = machine.spawn(fds, name="gantry-init", flags=syscalls.CLONE_NEWPID)
        finally:
            theirs.close()
        try:
            ours.send(program.data)
        except OSError:
            pass  # it has died: its exit is on the way to us
        return Init(kind, pid, ours, ids, [program])


def tell(init: Init, pod: Pod, cgroup: cgroups.PodCgroup, more: object = None) -> None:
    """Tell an init its pod. `more`: what a fork is told besides. OSError, StageError."""
    todo = plan.pod_plan(pod)
    if init.lists:
        init.lists.append(native.second(todo, users=init.ids is not None))
        _send(init, init.lists[-1].data)
        return
    job = ops.pack(todo) if more is None else (ops.pack(todo), more)
    fds = [os.open(cgroup.kill_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    fds += [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in cgroup.init_members()]
    try:
        _send(init, channel.encode(job), fds)
    finally:
        for fd in fds:
            os.close(fd)


def _send(init: Init, data: bytes, fds: "list[int] | tuple[()]" = ()) -> None:
    try:
        channel.send_encoded(init.socket, data, fds)
    except OSError:
        pass  # it has failed and says why: see `hear`


def hear(init: Init) -> tuple[str, list[int]]:
    """What it says: nothing ("") when it is done, else what went wrong; and what it has given us, but for the user
    namespace, which is the init's."""
    wrong, fds = _hear(init)
    if fds and init.ids is not None:
        init.users = fds.pop(0)
    return wrong, fds


def _hear(init: Init) -> tuple[str, list[int]]:
    try:
        if not init.lists:
            message, fds = channel.receive(init.socket)
            return ("the pod's init died" if message is None else str(message)), fds
        data, fds = channel.receive_bytes(init.socket)
    except OSError as error:
        return str(error), []
    if len(data) < _REPORT.size:
        return "the pod's init died", fds
    record, number = _REPORT.unpack_from(data)
    if not number:
        init.lists.clear()
        init.made = data[_REPORT.size :]
        return "", fds
    for one in init.lists:
        if (text := one.failure(record, number)) is not None:
            return text, fds
    raise StageError(f"the pod's init failed in call {record}: {os.strerror(number)}")
