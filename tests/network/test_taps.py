"""What of a network namespace is given to a machine, and what is refused. (Its traffic: tests/kvm.)"""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.network.namespaces import within
from executor.network.taps import NetworkError, attach

pytestmark = pytest.mark.root

Ip = Callable[..., None]


def names(pid: int) -> set[str]:
    return {name for _, name in within(pid, socket.if_nameindex)}


def test_loopback_alone_is_no_network(namespace: int) -> None:
    assert attach(namespace, 1000) == ()
    assert names(namespace) == {"lo"}


def test_interfaces_that_are_up_get_taps(namespace: int, ip: Ip) -> None:
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    ip("link", "add", "eth2", "type", "veth", "peer", "name", "down")
    for name in ("eth0", "eth1", "eth2"):
        ip("link", "set", name, "up", "mtu", "1300")
    ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
    ip("route", "add", "default", "via", "192.0.2.1")
    ip("route", "add", "192.0.2.77", "dev", "eth2")
    links = {link.name: link for link in attach(namespace, 1000)}
    assert set(links) == {"eth0", "eth1", "eth2"}
    assert {link.tap for link in links.values()} == {"gantry0", "gantry1", "gantry2"}
    assert names(namespace) >= {"gantry0", "gantry1", "gantry2"}
    assert links["eth0"].mtu == 1300
    kinds = [kind for kind, _ in links["eth0"].told]
    assert kinds[-1] == 24, "RTM_NEWROUTE, after the addresses"
    assert socket.inet_aton("192.0.2.1") in links["eth0"].told[-1][1]
    assert socket.inet_aton("192.0.2.77") in links["eth2"].told[-1][1]


def test_routes_by_several_interfaces_are_refused(namespace: int, ip: Ip) -> None:
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    for name, address in (("eth0", "192.0.2.2/24"), ("eth1", "198.51.100.2/24")):
        ip("link", "set", name, "up")
        ip("addr", "add", address, "dev", name)
    hops = ("nexthop", "via", "192.0.2.1", "nexthop", "via", "198.51.100.1")
    ip("route", "add", "203.0.113.0/24", *hops)
    with pytest.raises(NetworkError, match=r"a route of the pod to 203\.0\.113\.0 is not by one interface"):
        attach(namespace, 1000)


def test_what_is_no_ethernet_is_refused(namespace: int, ip: Ip) -> None:
    ip("tuntap", "add", "vpn0", "mode", "tun")
    ip("link", "set", "vpn0", "up")
    with pytest.raises(NetworkError, match="interface vpn0 of the pod is no Ethernet"):
        attach(namespace, 1000)


def test_a_namespace_that_has_gone() -> None:
    with pytest.raises(NetworkError, match="No such file or directory"):
        attach(2**22 + 1, 1000)


def test_work_in_a_namespace_leaves_this_one_alone(namespace: int) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    assert within(namespace, lambda: os.readlink("/proc/thread-self/ns/net")) == os.readlink(
        f"/proc/{namespace}/ns/net"
    )
    assert os.readlink("/proc/thread-self/ns/net") == before != os.readlink(f"/proc/{namespace}/ns/net")
    with pytest.raises(ZeroDivisionError):
        within(namespace, lambda: Path(str(1 // 0)))
