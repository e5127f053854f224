"""Sockets of a pod's network, for a process that is outside of it.

A socket belongs to the network namespace that it was made in (network_namespaces(7)), whoever uses it: so a thread that
lives for this alone goes there, makes one, and ends. Nothing of the pod is executed, nothing stays in the pod.
"""

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from executor.stage1 import syscalls

ELSEWHERE = 0
"""Instead of a pid: the pod's network is no namespace of this kernel (it is inside a virtual machine)."""


def make_socket(pid: int, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    """A socket in the network namespace of a process, ours or another. Raises OSError, as when that has ended."""
    if pid == ELSEWHERE:
        raise OSError("the pod's network is inside its virtual machine, out of the node's reach")
    ours, theirs = (os.stat(f"/proc/{who}/ns/net") for who in ("self", pid))
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
        return socket.socket(family, kind, protocol)
    made: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, syscalls.CLONE_NEWNET)
            finally:
                os.close(fd)
            made.append(socket.socket(family, kind, protocol))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=work, name="socket of a pod")
    thread.start()
    thread.join()  # some system calls, none of which waits
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def factory(pid: int) -> Callable[[Any], socket.socket]:
    """For aiohttp's TCPConnector: a socket for an answer of getaddrinfo."""

    def make(info: Any) -> socket.socket:
        return make_socket(pid, info[0], info[1], info[2])

    return make
