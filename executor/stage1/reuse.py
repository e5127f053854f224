"""The init of a pod that left no trace, with all that it holds, for the next pod of its tenant.

An init is its pid, ipc, uts, network, user and mount namespaces, and what its pod's apps share: /proc, /sys, /dev/shm,
/dev/mqueue. To make and take down all that is most of what a pod costs. One in which nothing is as if it had just been
made tells as little of its former users as a new one. What might be kept there takes calls or rights that these pods'
apps never had (`leaves_no_trace`), or is looked at (`Keeper`); and nobody else had to do with it, or can have got a
descriptor that leads there. An app's root, mounts and cgroups are new for each pod.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from executor.stage1 import caps, ops, plan, podfiles, syscalls, userns
from executor.stage1.machine.passing import Counts, HandOver, Look
from executor.stage1.manifest import Pod

if TYPE_CHECKING:
    from executor.stage1.inits import Init

_SOCKETS: Final = "sockstat"
_NO_SOCKET: Final = b"sockets: used 0\n"
_RECORDS: Final = ("snmp", "snmp6")
"""Below /proc/PID/net: each is told as a whole. What is counted in netstat takes a packet, which is counted here."""
_LISTS: Final = ("dev", "ip6_flowlabel", "route", "ipv6_route", "if_inet6", "arp", "igmp", "igmp6")
_SHORT: Final = 2048
"""Of a list the kernel gives whole lines, a page at a time (seq_file): of a shorter one, one line more as well."""
_DIRECTORIES: Final = ("shm", "mqueue", "proc", "sys")
MOST: Final = 100
"""Pods that have the same one, one after another."""
IDLE_SECONDS: Final = 5.0
"""How long it waits for the next."""


def leaves_no_trace(pod: Pod, directory: str) -> bool:
    """Whether its apps can leave nothing with its init but what `Keeper` looks for, and init does nothing but for it.

    Keys: the calls for them are forbidden by the default filter. Addresses, rules, settings, further namespaces: these
    take capabilities beyond the default ones, or a /proc that is not read-only. And no network but loopback is there.
    Descriptors (of /proc/net/tcp, say) go to somebody else through sockets only, and where nobody else's sockets are
    there is none: in the pod's `directory`, whose files stage0 makes.
    """
    return (
        pod.loopback_only
        and not (pod.any_privileged or pod.host_network or pod.host_ipc or pod.host_pid or pod.sysctls)
        and [type(op) for op in plan.pod_plan(pod)] == [ops.SetHostname, ops.SealRoot]
        and all(
            app.default_seccomp
            and not app.whole_proc
            and not app.label
            and (app.capabilities is None or app.capabilities <= caps.DEFAULT)
            for app in pod.apps.values()
        )
        and all(
            volume.kind != "host" or volume.source.startswith(f"{directory}/") or bool(volume.layers)
            for volume in pod.volumes.values()
        )
    )


class Place:
    """Descriptors of what an init holds: directories of its root, files of /proc/PID/net. Raises OSError."""

    def __init__(self, init: "Init") -> None:
        self.fds: dict[str, int] = {"init": init.pidfd}
        self._own: list[int] = []
        pid = userns.on_host(init.pidfd)
        for name in _DIRECTORIES:
            self._open(name, f"/proc/{pid}/root/{name}", os.O_DIRECTORY)
        for number, name in enumerate((_SOCKETS, *_RECORDS, *_LISTS)):
            self._open(f"net{number}", f"/proc/{pid}/net/{name}")

    def _open(self, name: str, path: str, flags: int = 0) -> None:
        fd = self.fds[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        self._own.append(fd)

    def __del__(self) -> None:
        for fd in self._own:
            os.close(fd)


class Keeper:
    """Looks at inits of which a pod is gone, and makes them the next pod's. Raises OSError where that cannot be done.

    function: what executes lists (machine/run.py).
    """

    def __init__(self, function: Callable[[int], int]) -> None:
        self._function = function
        self._fds = {
            f"own {name}": os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            for name in ("uts", "ipc", "net", "pid")
        }
        self._fds["last pid"] = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC)
        self._ready = {numbers: HandOver(function, numbers=numbers) for numbers in (False, True)}
        self._look: Look | None = None
        self._counted: list[bytes] = []

    def is_as_new(self, init: "Init", hostname: str) -> bool:
        """Whether nothing tells it from one that nobody has had, but how often it was looked at."""
        if init.ids is None or init.pods >= MOST or _have_keys(init.ids):
            return False
        if self._look is None:
            self._look = self._learn()
        if self._look is None:
            return False
        if init.place is None:
            init.place = Place(init)
        counted = self._counted[init.pods - 1]
        return self._look.is_as_new({**self._fds, **init.place.fds}, init.made, hostname, counted)

    def hand_over(self, init: "Init", pod: Pod) -> bool:
        """Make one that is as new the next pod's; whether it is."""
        fds = {**self._fds, "init": init.pidfd}
        return self._ready[not pod.own_processes].make_ready(fds, os.fsencode(pod.hostname))

    def _learn(self) -> Look | None:
        """How new ones are: of namespaces and a tmpfs that are made for this. None for the one that has raised its
        loopback."""
        counts = Counts(self._function)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC)
            ops.Loopback().execute(ops.Context({}))
            sockets = podfiles.read(f"/proc/thread-self/net/{_SOCKETS}")
            records = [podfiles.read(f"/proc/thread-self/net/{name}") for name in _RECORDS]
            lists = [podfiles.read(f"/proc/thread-self/net/{name}") for name in _LISTS]
            memory = _memory()
            try:
                self._counted = [counts.read(memory) for _ in range(MOST)]
            finally:
                os.close(memory)
        finally:
            for kind in ("ipc", "net"):
                syscalls.setns(self._fds[f"own {kind}"], 0)
        if not sockets.startswith(_NO_SOCKET) or max(map(len, lists)) >= _SHORT:
            return None
        return Look(self._function, (_NO_SOCKET, *records, *lists))


def _memory() -> int:
    """A tmpfs as /dev/shm is one, which is gone with its descriptor."""
    syscalls.mount("tmpfs", plan.STAGE, "tmpfs", 0, plan.SHM)
    try:
        return os.open(plan.STAGE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        syscalls.umount(plan.STAGE)


def _have_keys(ids: userns.Range) -> bool:
    """Whether any of these users has keys (proc(5), /proc/key-users)."""
    owners = (int(line.partition(b":")[0]) for line in podfiles.read("/proc/key-users").splitlines())
    return any(ids.base <= owner < ids.base + userns.SIZE for owner in owners)
