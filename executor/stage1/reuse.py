"""User and network namespaces of a pod that left no trace in them, for the next one.

A network namespace is most of what the kernel has to do for a pod: it is made, and taken down by a worker of the
kernel's. One in which no socket is open and no packet was ever seen, sent or refused tells as little of its former
users as a new one. What else might be kept there, or in the user namespace (keys, settings, rules, addresses), takes
calls or rights that these pods' apps never had (`leaves_no_trace`), and nobody else had to do with it. Everything that
keeps more (processes, ipc, the host's name, mounts, cgroups) is new for each pod.
"""

import os
import re
from typing import Final, NamedTuple

from executor.stage1 import caps, ops, syscalls, userns
from executor.stage1.manifest import Pod

_TOLD: Final = ("dev", "snmp", "snmp6", "netstat", "sockstat", "ip6_flowlabel")
"""Below /proc/thread-self/net, where all that the kernel counts there shows."""
_PAGES: Final = 65_536
_NO_SOCKET: Final = b"sockets: used 0\n"
_OF_THE_MACHINE: Final = re.compile(rb" (alloc|mem) .*")  # in lines of sockstat


class Namespaces(NamedTuple):
    """Descriptors of the two, and whose ids the first maps."""

    users: int
    network: int
    ids: userns.Range

    def close(self) -> None:
        """Let go of all of it. Once."""
        os.close(self.users)
        os.close(self.network)
        self.ids.release()


def leaves_no_trace(pod: Pod) -> bool:
    """Whether its apps can leave nothing in their user and network namespaces but what `Pool` looks for.

    Keys: the calls for them are forbidden by the default filter. Addresses, rules, settings, further namespaces: these
    take capabilities beyond the default ones, or a /proc that is not read-only. And no network but loopback is there.
    """
    return (
        pod.loopback_only
        and not (pod.any_privileged or pod.host_network or pod.host_ipc or pod.host_pid or pod.sysctls)
        and not pod.metadata_url
        and all(
            app.default_seccomp
            and not app.whole_proc
            and not app.label
            and (app.capabilities is None or app.capabilities <= caps.DEFAULT)
            for app in pod.apps.values()
        )
    )


class Pool:
    """Those that wait for a pod; at most `size`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[Namespaces] = []
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._new: tuple[bytes, ...] = ()

    def take(self) -> Namespaces | None:
        """One of them, if there is any; it is the caller's to close."""
        return self._waiting.pop() if self._waiting else None

    def keep(self, namespaces: Namespaces) -> None:
        """Of a pod of which nothing else is left: keep them if they are as new, else let go of them."""
        try:
            if len(self._waiting) < self._size and self._as_new(namespaces.network):
                self._waiting.append(namespaces)
                return
        except OSError:
            pass  # what cannot be told is not kept
        namespaces.close()

    def close(self) -> None:
        """Let go of all."""
        while self._waiting:
            self._waiting.pop().close()

    def _as_new(self, network: int) -> bool:
        if not self._new:
            self._new = self._of_a_new_one()
        return bool(self._new) and self._within(network) == self._new

    def _of_a_new_one(self) -> tuple[bytes, ...]:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            ops.Loopback().execute(ops.Context({}))
            return _what_is_told()
        finally:
            syscalls.setns(self._own, syscalls.CLONE_NEWNET)

    def _within(self, network: int) -> tuple[bytes, ...]:
        syscalls.setns(network, syscalls.CLONE_NEWNET)
        try:
            return _what_is_told()
        finally:
            syscalls.setns(self._own, syscalls.CLONE_NEWNET)


def _what_is_told() -> tuple[bytes, ...]:
    """Of the network namespace that we are in; nothing when a socket is open there."""
    told = []
    for name in reversed(_TOLD):
        text = _read(f"/proc/thread-self/net/{name}")
        if name == "sockstat":
            if not text.startswith(_NO_SOCKET):
                return ()
            text = _OF_THE_MACHINE.sub(b"", text)
        told.append(text)
    return tuple(told)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _PAGES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
