"""The launcher's side of a pod's init: how it is started, told its pod, and heard.

In flavor linux it is a program of some hundred bytes that executes lists (machine/init.py); in the others, and where
there is no such program, a fork of the launcher (children.py).
"""

import os
import socket
import struct
import time
from typing import Final, NamedTuple

from executor.stage1 import cgroups, channel, children, nspawn, ops, plan, reuse, syscalls, userns
from executor.stage1 import machine as native
from executor.stage1.bare import Bare
from executor.stage1.children import Kind
from executor.stage1.manifest import Pod
from executor.stage1.ops import StageError

_REPORT: Final = struct.Struct("<II")


class Init(NamedTuple):
    """Its pid, our end of the socket to it, and the ids of its user namespace, if it has one.

    `lists`: what it was told to do; empty for a fork of ours. `pods`: how many have had its user and network
    namespaces before, all of them of the `tenant`'s. `since`: when it was started (time.monotonic).
    """

    pid: int
    socket: socket.socket
    ids: userns.Range | None
    lists: "list[native.Program]"
    tenant: str = ""
    pods: int = 0
    since: float = 0.0
    view: reuse.View | None = None  # of its network namespace, if others have had that


class Maker:
    """Starts inits, of all kinds."""

    def __init__(
        self, machine: "native.Machine | None", bare: Bare | None, last_cap: int, *, spares: int = 0
    ) -> None:
        """spares: how many are to be had ahead of need."""
        self.pool = reuse.Pool(spares)
        self._machine = machine
        self._bare = bare
        self._last_cap = last_cap
        self._own_pid_ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def start(self, kind: Kind, tenant: str | None = None) -> Init:
        """An init that makes its namespaces, for a pod of any tenant's or this one's. Raises OSError."""
        confined = kind.flavor == "linux" and not kind.host_pid
        if self._machine is not None and self._bare is not None and confined:
            return self._spawn(self._machine, self._bare, kind, tenant)
        ids = userns.take_range() if kind.users else None
        base = ids.base if ids else 0

        def entry(sock: socket.socket) -> None:
            if kind.flavor == "nspawn":
                nspawn.keeper(sock, host_network=kind.host_network, last_cap=self._last_cap)
                return
            children.init(sock, kind, ids=base, last_cap=self._last_cap)

        pid_namespace = self._own_pid_ns if confined else None
        return Init(*children.fork(entry, new_pid_namespace=pid_namespace), ids, [])

    def _spawn(self, machine: "native.Machine", bare: Bare, kind: Kind, tenant: str | None) -> Init:
        new = kind.host_network or kind.host_ipc or not kind.users
        given = None if new else self.pool.take(tenant)
        ids = given.ids if given else userns.take_range() if kind.users else None
        program = native.first(
            host_network=kind.host_network,
            host_ipc=kind.host_ipc,
            ids=ids.base if ids else 0,
            last_cap=self._last_cap,
            given=given is not None,
        )
        ours, theirs = channel.pair()
        handed = [given.users, given.network] if given else []
        try:
            fds = [self._null, self._null, 2, theirs.fileno(), theirs.fileno(), bare.void, *handed]
            pid = machine.spawn(fds, name="gantry-init", flags=syscalls.CLONE_NEWPID)
        finally:
            theirs.close()
            for fd in handed:
                os.close(fd)
        try:
            ours.send(program.data)
        except OSError:
            pass  # it has died: its exit is on the way to us
        if given is None:
            return Init(pid, ours, ids, [program])
        return Init(pid, ours, ids, [program], given.tenant, given.pods, time.monotonic(), given.view)


def tell(
    init: Init, pod: Pod, cgroup: cgroups.PodCgroup, more: object = None, *, network: bool = False
) -> None:
    """Tell an init its pod. `more`: what a fork is told besides. network: it shall report that. OSError, StageError."""
    todo = plan.pod_plan(pod)
    if init.lists:
        users = init.ids is not None
        init.lists.append(native.second(todo, users=users, network=users and network))
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
    """What it says: nothing ("") when it is done, else what went wrong; and the user namespace, if it has one.

    After that the network namespace, if it was told to.
    """
    try:
        if not init.lists:
            message, fds = channel.receive(init.socket)
            return ("the pod's init died" if message is None else str(message)), fds
        data, fds = channel.receive_bytes(init.socket)
    except OSError as error:
        return str(error), []
    if len(data) != _REPORT.size:
        return "the pod's init died", fds
    record, number = _REPORT.unpack(data)
    if not number:
        init.lists.clear()
        return "", fds
    for one in init.lists:
        if (text := one.failure(record, number)) is not None:
            return text, fds
    raise StageError(f"the pod's init failed in call {record}: {os.strerror(number)}")
