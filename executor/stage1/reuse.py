"""The init of a pod that left no trace, with all that it holds, for the next pod of its tenant.

An init is its pid, ipc, uts, network, user and mount namespaces, and what its pod's apps share: /proc, /sys, /dev/shm,
/dev/mqueue. To make and take down all that is most of what a pod costs. One in which nothing is as if it had just been
made tells as little of its former users as a new one. What might be kept there takes calls or rights that these pods'
apps never had (`leaves_no_trace`), or is looked at (`Keeper`); and nobody else had to do with it, or can have got a
descriptor that leads there. An app's root, mounts and cgroups are new for each pod.
"""

import errno
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from executor.stage1 import caps, ops, plan, podfiles, syscalls, userns
from executor.stage1.machine.passing import Counts, Look, Renewal, given
from executor.stage1.manifest import Pod

if TYPE_CHECKING:
    from executor.stage1.inits import Init

_NET: Final = "/proc/thread-self/net"
_SOCKETS: Final = "sockstat"
_NO_SOCKET: Final = b"sockets: used 0\n"
_RECORDS: Final = ("snmp", "snmp6", "fib_triestat", "rt6_stats")
"""Below /proc/PID/net: each is told as a whole. What is counted in netstat takes a packet, which is counted here. Some
kernels count in the third how often somebody has asked for a way, some in the fourth for how many they have remembered
one."""
_LISTS: Final = ("dev", "ip6_flowlabel", "route", "ipv6_route", "if_inet6", "arp", "igmp", "igmp6")
_SHORT: Final = 2048
"""Of a list the kernel gives whole lines, a page at a time (seq_file): of a shorter one, one line more as well."""
_PAGES: Final = 65_536
_OWNERS: Final = re.compile(rb"^ *(\d{10,}):", re.MULTILINE)
"""Of keys; ids of pods have ten digits (see `userns.FIRST`)."""
_NAMESPACES: Final = ("uts", "ipc", "net", "pid")
_DIRECTORIES: Final = ("shm", "mqueue", "proc", "sys")
_TRIES: Final = 10
"""To learn how new ones are: it makes a network namespace, and where the launcher cannot, it never can."""
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
    """Descriptors of what an init holds: directories of its root, files of /proc/PID/net. Raises OSError.

    `looked_at`, `renewed`: those of the two lists, which have further ones in `fds`.
    """

    def __init__(self, init: "Init", look: Look, fds: Mapping[str, int]) -> None:
        self._own: list[int] = []
        pid = userns.on_host(init.pidfd)
        found = {**fds, "init": init.pidfd}
        for name in _DIRECTORIES:
            found[name] = self._open(f"/proc/{pid}/root/{name}", os.O_DIRECTORY)
        for name in look.told:
            found[name] = self._open(f"/proc/{pid}/net/{name}")
        self.looked_at = given(look.inputs, found)
        self.renewed = given(Renewal.inputs, found)

    def _open(self, path: str, flags: int = 0) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        self._own.append(fd)
        return fd

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
            for name in _NAMESPACES
        }
        self._fds["last pid"] = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC)
        self._keys = os.open("/proc/key-users", os.O_RDONLY | os.O_CLOEXEC)
        self._look: Look | None = None
        self._counted: list[bytes] = []
        self._tries = _TRIES
        self._idle: list[Renewal] = []

    def renew(self, init: "Init", hostname: str) -> tuple[int, Renewal] | None:
        """If nothing tells it from one that nobody has had, but how often it was looked at: the pid of a child, which
        exits with 0 when it is ready for the next pod; and what is to be `done` with then."""
        if init.ids is None or init.pods >= MOST or self.has_keys(init.ids):
            return None
        try:
            if self._look is None:
                if not self._tries:
                    return None
                self._tries -= 1
                self._look = self._learn()
            if init.place is None:
                init.place = Place(init, self._look, self._fds)
            counted = self._counted[init.pods - 1]
            if not self._look.is_as_new(init.place.looked_at, init.made, hostname, counted):
                return None
            renewal = self._idle.pop() if self._idle else Renewal(self._function)
            return renewal.begin(init.place.renewed), renewal
        except OSError:
            self._come_home()
            return None  # what cannot be told is not kept

    def done(self, renewal: Renewal) -> None:
        """The child has ended."""
        self._idle.append(renewal)

    def hand_over(self, init: "Init", pod: Pod) -> bool:
        """Name the next pod's host; whether that was possible."""
        try:
            syscalls.setns(init.pidfd, syscalls.CLONE_NEWUTS)
            socket.sethostname(pod.hostname)
            return True
        except OSError:
            return False
        finally:
            self._come_home("uts")

    def has_keys(self, ids: userns.Range) -> bool:
        """Whether any of these users has keys (proc(5), /proc/key-users)."""
        text = b""
        while part := os.pread(self._keys, _PAGES, len(text)):
            text += part
        return any(ids.base <= int(owner) < ids.base + userns.SIZE for owner in _OWNERS.findall(text))

    def _come_home(self, *names: str) -> None:
        try:
            for name in names or _NAMESPACES:
                syscalls.setns(self._fds[f"own {name}"], 0)
        except OSError as error:
            sys.exit(f"stage1: the launcher cannot leave a pod's namespaces: {error.strerror}")

    def _learn(self) -> Look:
        """How new ones are: of namespaces and a tmpfs that are made for this. Raises OSError."""
        counts = Counts(self._function)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC)
            ops.ReportAtOnce().execute(ops.Context({}))
            if not all(podfiles.read(path) == b"1\n" for path in ops.REPORTS if os.path.exists(path)):
                raise OSError(errno.EROFS, "these cannot be set")
            ops.Loopback().execute(ops.Context({}))
            names = [_SOCKETS, *_RECORDS, *_LISTS]
            there = [
                name for name in names if os.path.exists(f"{_NET}/{name}")
            ]  # all, unless there is no IPv6
            told = {name: podfiles.read(f"{_NET}/{name}") for name in there}
            memory = syscalls.new_mount("tmpfs", dict(one.split("=") for one in plan.SHM.split(",")))
            try:
                fds = given(counts.inputs, {"shm": memory})
                self._counted = [counts.read(fds) for _ in range(MOST)]
            finally:
                os.close(memory)
        finally:
            self._come_home()
        longest = max(len(text) for name, text in told.items() if name in _LISTS)
        if not told[_SOCKETS].startswith(_NO_SOCKET) or longest >= _SHORT:
            raise OSError(errno.EAGAIN, "the socket that has raised the loopback is still there")
        return Look(self._function, {**told, _SOCKETS: _NO_SOCKET})
