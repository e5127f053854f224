"""Gives the interfaces of a network namespace to a virtual machine that runs in it.

    network ◀── eth0 ◀─ redirect ─▶ gantry0 (tap) ◀── QEMU ── virtio ──▶ eth0 of the guest

Each Ethernet interface that is up gets a tap; whatever comes in on one of the two goes out on the other (tc's mirred),
so that the kernel of the host sees none of it, and the guest has the interface's own MAC address. (Kata Containers'
"tcfilter" model.) The guest gets addresses, routes and neighbours as rtnetlink(7) tells them here: its interface has
the same index, so that the messages can be played to its kernel as they are (as `ip route restore` does).
"""

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from executor.network.namespaces import within

TUN: Final = "/dev/net/tun"
# include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_UP = 0x0002, 0x1000, 0x1
_ARPHRD_ETHER: Final = 1
_INGRESS: Final = 0xFFFF0000
_ETH_P_ALL: Final = 3
_MAIN_TABLE: Final = 254
_RTPROT_KERNEL, _RTPROT_RA = 2, 9
_NUD_PERMANENT: Final = 0x80
_HEADER: Final = 16  # struct nlmsghdr


class NetworkError(Exception):
    """The pod's network cannot be given to a machine; one line."""


@dataclass(frozen=True)
class Link:
    """An interface. tap: the name of its tap. told: (type, payload) of rtnetlink messages, in an order to play them."""

    name: str
    index: int
    mac: str
    mtu: int
    tap: str
    told: tuple[tuple[int, bytes], ...]


def attach(pid: int, owner: int) -> tuple[Link, ...]:
    """Make the taps in the network namespace of a process. owner: the host's uid that may open them without privileges.

    Blocks for some milliseconds for each interface. () when there is none but loopback. Raises NetworkError.
    """
    try:
        if len(within(pid, socket.if_nameindex)) < 2:
            return ()
        return within(pid, lambda: _attach(owner))
    except OSError as error:
        raise NetworkError(f"the network of the pod: {error}") from None


def _attach(owner: int) -> tuple[Link, ...]:
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as route:
            links = [link for link in route.get_links() if _wanted(link)]
            told = _told(route)
            made = []
            for number, link in enumerate(sorted(links, key=lambda link: int(link["index"]))):
                made.append(_link(link, f"gantry{number}", told.get(link["index"], [])))
                _tap(route, made[-1], owner)
            return tuple(made)
    except NetlinkError as error:
        raise NetworkError(f"the network of the pod: {error}") from None


def _wanted(link: Any) -> bool:
    """Raises NetworkError for what a machine cannot have."""
    name = link.get_attr("IFLA_IFNAME")
    if not link["flags"] & _IFF_UP or name == "lo":
        return False
    if link["ifi_type"] != _ARPHRD_ETHER:
        raise NetworkError(f"interface {name} of the pod is no Ethernet: a virtual machine cannot have it")
    return True


def _link(link: Any, tap: str, told: list[tuple[int, bytes]]) -> Link:
    attr = link.get_attr
    return Link(
        attr("IFLA_IFNAME"), int(link["index"]), attr("IFLA_ADDRESS"), int(attr("IFLA_MTU")), tap, tuple(told)
    )


def _told(route: Any) -> dict[int, list[tuple[int, bytes]]]:
    """Addresses, routes and neighbours that were given to interfaces, by index; not what the kernel makes of them."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for address in route.get_addr():
        found.setdefault(address["index"], []).append(_raw(address))
    routes = [
        one for one in route.get_routes(table=_MAIN_TABLE) if one["proto"] not in (_RTPROT_KERNEL, _RTPROT_RA)
    ]
    # Gateways are looked for among the routes that are there.
    for one in sorted(routes, key=lambda one: one.get_attr("RTA_GATEWAY") is not None):
        index = one.get_attr("RTA_OIF")
        if index is None:
            raise NetworkError(
                f"a route of the pod to {one.get_attr('RTA_DST') or 'anywhere'} is not by one interface: "
                "a virtual machine cannot have it"
            )
        found.setdefault(index, []).append(_raw(one))
    for neighbour in route.get_neighbours():
        if neighbour["state"] & _NUD_PERMANENT:
            found.setdefault(neighbour["ifindex"], []).append(_raw(neighbour))
    return found


def _raw(message: Any) -> tuple[int, bytes]:
    header = message["header"]
    start, end = message.offset + _HEADER, message.offset + header["length"]
    return int(header["type"]), bytes(message.data[start:end])


def _tap(route: Any, link: Link, owner: int) -> None:
    fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", link.tap.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        fcntl.ioctl(fd, _TUNSETOWNER, owner)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)  # as long as the namespace
    finally:
        os.close(fd)
    (tap,) = route.link_lookup(ifname=link.tap)
    route.link("set", index=tap, mtu=link.mtu, state="up")
    for source, target in ((link.index, tap), (tap, link.index)):
        redirect = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": target}
        route.tc("add", "ingress", source, _INGRESS)
        route.tc(
            *("add-filter", "u32", source),
            parent=_INGRESS,
            protocol=_ETH_P_ALL,
            prio=1,
            target=0,
            keys=["0x0/0x0+0"],  # everything
            action=redirect,
        )
