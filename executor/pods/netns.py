"""Connections in a pod's network, for a process that is outside of it.

Where the network is a namespace of this kernel, a socket is made there; where it is inside a virtual machine, the
sandbox makes the connection.
"""

import asyncio
import os
import socket
from typing import Protocol, runtime_checkable

from executor.network.namespaces import within


class Located(Protocol):
    """A sandbox. pid: of a process in the pod's network."""

    @property
    def pid(self) -> int: ...


@runtime_checkable
class Dialling(Protocol):
    """A sandbox that makes connections in the pod's network itself.

    address: an IPv4 or IPv6 address. The result behaves as a connected stream socket does that does not block. Raises
    OSError, with the errno of the connect(2) that failed.
    """

    async def dial(self, address: str, port: int) -> socket.socket: ...


async def connect(sandbox: Located, host: str, port: int) -> socket.socket:
    """A connection that is made in the pod's network. host: a name is looked up in ours. Raises OSError."""
    loop = asyncio.get_running_loop()
    trouble = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            if isinstance(sandbox, Dialling):
                return await sandbox.dial(str(address[0]), port)
            return await _connected(make_socket(sandbox.pid, family, kind, protocol), address)
        except OSError as error:
            trouble = error
    raise trouble


async def _connected(made: socket.socket, address: object) -> socket.socket:
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, address)  # type: ignore[arg-type]  # of getaddrinfo
    except BaseException:
        made.close()
        raise
    return made


def is_ours(pid: int) -> bool:
    """Whether a process is in our network namespace. Raises OSError, as when it has ended."""
    ours, theirs = (os.stat(f"/proc/{who}/ns/net") for who in ("self", pid))
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def make_socket(pid: int, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    """A socket in the network namespace of a process, ours or another. Raises OSError, as when that has ended."""
    if is_ours(pid):
        return socket.socket(family, kind, protocol)
    return within(pid, lambda: socket.socket(family, kind, protocol))
