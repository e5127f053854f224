"""Gives the pod in this machine the interfaces that the host has given the machine. Imported when there are some.

By rtnetlink(7), with what the host's kernel has told of them (executor/network/taps.py).
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

_NETWORK: Final = "/sys/class/net"
_ACK: Final = 4  # NLM_F_ACK
_REQUEST, _REPLACE, _CREATE = 0x1, 0x100, 0x400
_ERROR: Final = 2  # NLMSG_ERROR
_NEWLINK: Final = 16
_IFNAME, _MTU, _NET_NS_PID, _NEW_IFINDEX = 3, 4, 19, 49
_UP: Final = 0x1
_HEAD: Final = struct.Struct("=IHHII")


def give(links: list[dict[str, Any]], pid: int, enter: Callable[[], None]) -> None:
    """links: name, index, mac, mtu, told. pid: whose network it is to be; enter: go there. Raises OSError."""
    with _Route() as route:
        for link in links:
            more = (
                _number(_NET_NS_PID, pid)
                + _text(_IFNAME, link["name"])
                + _number(_NEW_IFINDEX, link["index"])
            )
            route.ask(_NEWLINK, _link(_find(link["mac"])) + more, f"give the pod {link['name']}")
    enter()
    with _Route() as route:
        for link in links:
            name, index = link["name"], link["index"]
            _trust_addresses(name)
            route.ask(_NEWLINK, _link(index, _UP) + _number(_MTU, link["mtu"]), f"set {name} up")
            for kind, payload in link["told"]:
                route.ask(kind, bytes.fromhex(payload), f"set up {name}", _CREATE | _REPLACE)


class _Route:
    """A socket to the kernel's routing."""

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )

    def __enter__(self) -> "_Route":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, kind: int, payload: bytes, what: str, flags: int = 0) -> None:
        """One message, and its answer. Raises OSError."""
        head = _HEAD.pack(_HEAD.size + len(payload), kind, _REQUEST | _ACK | flags, 0, 0)
        self._sock.send(head + payload)
        answer = self._sock.recv(65536)
        (code,) = struct.unpack_from("=i", answer, _HEAD.size)
        if _HEAD.unpack_from(answer)[1] != _ERROR or code:
            raise OSError(-code, f"{what}: {os.strerror(-code)}")


def _link(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _number(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _text(kind: int, text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _find(mac: str) -> int:
    for name in os.listdir(_NETWORK):
        if _read(f"{_NETWORK}/{name}/address") == mac:
            return int(_read(f"{_NETWORK}/{name}/ifindex"))
    raise FileNotFoundError(f"the machine has no interface with the address {mac}")


def _trust_addresses(name: str) -> None:
    """Nobody else has them: the host has looked (RFC 4862, 5.4)."""
    try:
        with open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w", encoding="ascii") as file:
            file.write("0")
    except FileNotFoundError:
        pass  # a kernel without IPv6


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
