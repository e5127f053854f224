"""A network namespace in the place of a pod's that is gone, for DEL.

Plugins of a pod that was killed find neither its namespace nor its interfaces, and so not its addresses: the rules by
which those masquerade would stay (containernetworking/plugins: ptp, bridge). Here they find a namespace with
interfaces of these names and addresses, and nothing else in it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from executor.network.config import field
from executor.network.errors import CniError
from executor.network.namespaces import in_thread
from executor.stage1 import syscalls

LEASES: Final = "/var/lib/cni/networks"
"""Where host-local keeps its leases, unless its configuration says otherwise."""


@contextmanager
def namespace(interface: str, addresses: Sequence[str]) -> Iterator[str]:
    """The path of a namespace with this interface and its addresses. Gone in the end. Raises CniError, OSError."""

    def make() -> int:
        syscalls.unshare(syscalls.CLONE_NEWNET)  # of this thread alone
        with _route() as route:
            # Any kernel that pods have had networks on has these pairs.
            route.link("add", ifname=interface, kind="veth", peer={"ifname": "gantry-peer"})
            (index,) = route.link_lookup(ifname=interface)
            for address in addresses:
                mask = 32 if ip_address(address).version == 4 else 128
                route.addr("add", index=index, address=address, prefixlen=mask)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    fd = in_thread(make)
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def unlink(netns: str, interface: str) -> None:
    """Remove an interface of a namespace, if it is there. Raises CniError, OSError."""

    def remove() -> None:
        with open(netns, "rb", buffering=0) as file:
            syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
        with _route() as route:
            for index in route.link_lookup(ifname=interface):
                route.link("del", index=index)

    in_thread(remove)


@contextmanager
def _route() -> Iterator[Any]:
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise CniError(f"a network to be taken down: {error}") from None


def leased(container: str, network: str, interface: str, conf: Mapping[str, Any]) -> list[str]:
    """The addresses that host-local has given to an interface: for whoever was killed before the plugin answered."""
    ipam = field(conf, "ipam") or {}
    if field(ipam, "type") != "host-local":
        return []
    place = Path(str(field(ipam, "dataDir") or LEASES)) / network
    found = []
    for path in place.iterdir() if place.is_dir() else ():
        try:
            address = str(ip_address(path.name))
            owner = path.read_text().split()
        except (ValueError, OSError):  # its lock and what it notes besides; or it was just given back
            continue
        if owner[:1] == [container] and owner[1:] in ([], [interface]):
            found.append(address)
    return sorted(found)
