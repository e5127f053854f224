"""Messages between the executor, the launcher and its children: one SOCK_SEQPACKET packet each, with descriptors.

JSON towards the executor (another program), `marshal` between processes of this one (forks: same interpreter).
"""

import array
import json
import marshal
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

_PACKET: Final = 60_000  # below any default socket buffer; what is longer travels in a memfd
_MAX_FDS: Final = 64
_LONG: Final = b"in the last descriptor"


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_json(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send to the other program. Raises OSError."""
    _send(sock, json.dumps(message).encode(), fds)


def receive_json(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors; None when the other side has gone."""
    data, fds = _receive(sock)
    return (json.loads(data) if data else None), fds


def send(sock: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    """Send to a process forked from the same one. Raises OSError."""
    _send(sock, encode(message), fds)


def encode(message: Any) -> bytes:
    """A message for `send_encoded`, made in advance."""
    return marshal.dumps(message)


def send_encoded(sock: socket.socket, message: bytes, fds: Sequence[int]) -> None:
    """`send` of what `encode` has made."""
    _send(sock, message, fds)


def receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """The next message and its descriptors; None when the other side has gone."""
    data, fds = _receive(sock)
    return (marshal.loads(data) if data else None), fds


def receive_bytes(sock: socket.socket) -> tuple[bytes, list[int]]:
    """The next packet as it is, and its descriptors; empty when the other side has gone."""
    return _receive(sock)


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    if len(data) <= _PACKET:
        _sendmsg(sock, data, fds)
        return
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(data)
        _sendmsg(sock, _LONG, [*fds, memory])
    finally:
        os.close(memory)


def _sendmsg(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], extra)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    space = socket.CMSG_SPACE(_MAX_FDS * fds.itemsize)
    data, extra, _, _ = sock.recvmsg(_PACKET + 1, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, value in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
    received = fds.tolist()
    if data == _LONG:
        memory = received.pop()
        with open(memory, "rb") as file:
            file.seek(0)
            data = file.read()
    return data, received
