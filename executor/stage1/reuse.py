"""User and network namespaces of a pod that left no trace in them, for the next one.

A network namespace is most of what the kernel has to do for a pod: it is made, and taken down by a worker of the
kernel's. One in which no socket is open and no packet was ever seen, sent or refused tells as little of its former
users as a new one. What else might be kept there, or in the user namespace (keys, settings, rules, addresses), takes
calls or rights that these pods' apps never had (`leaves_no_trace`), and nobody else had to do with it, or can have got
a descriptor that leads there. All that can be looked at is looked at as well. Everything that keeps more (processes,
ipc, the host's name, mounts, cgroups) is new for each pod.
"""

import os
import re
import time
from typing import Final, NamedTuple

from executor.stage1 import caps, ops, podfiles, syscalls, userns
from executor.stage1.manifest import Pod

_LISTS: Final = "sockstat dev snmp snmp6 netstat ip6_flowlabel route ipv6_route if_inet6 arp igmp igmp6"
_TOLD: Final = tuple(_LISTS.split())
"""Below /proc/thread-self/net, where all that the kernel counts there shows, and most of what it keeps."""
_PAGES: Final = 65_536
_SHORT: Final = 2048
"""Of a list the kernel gives whole lines, a page of them at a time (seq_file)."""
_SOCKETS: Final = b"sockets: used "
_NO_SOCKET: Final = _SOCKETS + b"0\n"
_OF_THE_MACHINE: Final = re.compile(rb" orphan \d+| (alloc|mem) .*")  # in lines of sockstat
_MOST: Final = 100
"""Pods that have the same ones, one after another."""
IDLE_SECONDS: Final = 5.0
"""How long they wait for the next."""


class View:
    """What the kernel tells of the network namespace that we are in: its files, open as long as this is there."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        for name in _TOLD:
            self._fds.append(os.open(f"/proc/thread-self/net/{name}", os.O_RDONLY | os.O_CLOEXEC))

    def __del__(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def read(self) -> list[bytes]:
        """All of it, now."""
        return [_told(fd) for fd in self._fds]

    def is_as(self, told: list[bytes]) -> bool:
        """Whether it is still, or again, this."""
        return all(_told(fd, text) == text for fd, text in zip(self._fds, told, strict=True))


class Namespaces(NamedTuple):
    """Descriptors of the two, and whose ids the first maps. Of which tenant the pods were, and how many. A view of the
    second, if somebody has looked at it before."""

    users: int
    network: int
    ids: userns.Range
    tenant: str = ""
    pods: int = 1
    view: View | None = None

    def close(self) -> None:
        """Let go of all of it. Once."""
        os.close(self.users)
        os.close(self.network)
        self.ids.release()


def leaves_no_trace(pod: Pod, directory: str) -> bool:
    """Whether its apps can leave nothing in their user and network namespaces but what `Pool` looks for.

    Keys: the calls for them are forbidden by the default filter. Addresses, rules, settings, further namespaces: these
    take capabilities beyond the default ones, or a /proc that is not read-only. And no network but loopback is there.
    Descriptors (of /proc/net/tcp, say) go to somebody else through sockets only, and where nobody else's sockets are
    there is none: in the pod's `directory`, whose files stage0 makes.
    """
    return (
        pod.loopback_only
        and not (pod.any_privileged or pod.host_network or pod.host_ipc or pod.host_pid or pod.sysctls)
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


class Pool:
    """Those that wait for a pod; at most `size`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[tuple[Namespaces, float]] = []
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._new: list[bytes] = []

    def take(self, tenant: str | None = None) -> Namespaces | None:
        """One of them (of this tenant's), if there is any; it is the caller's to close."""
        for index in range(len(self._waiting) - 1, -1, -1):
            if tenant is None or self._waiting[index][0].tenant == tenant:
                return self._waiting.pop(index)[0]
        return None

    def keep(self, namespaces: Namespaces) -> None:
        """Of a pod of which nothing else is left: keep them if they are as new, else let go of them."""
        try:
            if len(self._waiting) < self._size and namespaces.pods < _MOST and not _have_keys(namespaces.ids):
                view = namespaces.view or self._within(namespaces.network)
                if self._as_new(view):
                    self._waiting.append((namespaces._replace(view=view), time.monotonic()))
                    return
        except OSError:
            pass  # what cannot be told is not kept
        namespaces.close()

    def close(self, older: float = 0.0) -> None:
        """Let go of those that have waited for so many seconds."""
        now = time.monotonic()
        while self._waiting and now - self._waiting[0][1] >= older:
            self._waiting.pop(0)[0].close()

    def __len__(self) -> int:
        return len(self._waiting)

    def _as_new(self, view: View) -> bool:
        if not self._new:
            new = self._of_a_new_one()
            if not new[0].startswith(_NO_SOCKET):
                return False  # the one that has raised its loopback
            self._new = new
        return view.is_as(self._new)

    def _of_a_new_one(self) -> list[bytes]:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            ops.Loopback().execute(ops.Context({}))
            return View().read()
        finally:
            syscalls.setns(self._own, syscalls.CLONE_NEWNET)

    def _within(self, network: int) -> View:
        syscalls.setns(network, syscalls.CLONE_NEWNET)
        try:
            return View()
        finally:
            syscalls.setns(self._own, syscalls.CLONE_NEWNET)


def _told(fd: int, expected: bytes = b"") -> bytes:
    """The text of an open file of /proc/net; what is short and as `expected` is all: one more line would come along."""
    parts = [os.pread(fd, _PAGES, 0)]
    if len(parts[0]) < _SHORT and expected and _of_this(parts[0]) == expected:
        return expected
    while parts[-1]:
        parts.append(os.pread(fd, _PAGES, sum(map(len, parts))))
    return _of_this(b"".join(parts))


def _of_this(text: bytes) -> bytes:
    """Without what is told of the whole machine."""
    return _OF_THE_MACHINE.sub(b"", text) if text.startswith(_SOCKETS) else text


def _have_keys(ids: userns.Range) -> bool:
    """Whether any of these users has keys (proc(5), /proc/key-users)."""
    owners = (int(line.partition(b":")[0]) for line in podfiles.read("/proc/key-users").splitlines())
    return any(ids.base <= owner < ids.base + userns.SIZE for owner in owners)
