"""What plugins answer, in every version of CNI's spec, read into one form. Pure.

0.1.0, 0.2.0   ip4 and ip6, each with an address, a gateway and routes; dns
0.3.0 on       interfaces, ips (up to 0.4.0 with their version), routes, dns
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any, Final

from executor.network.config import FIRST, VERSIONS, at_least, field
from executor.network.errors import CniError

_LISTS: Final = ("nameservers", "search", "options")


@dataclass(frozen=True)
class Address:
    """Of a pod. gateway: of its subnet, which with many plugins is this machine; "" when none is named."""

    ip: IPv4Interface | IPv6Interface
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True)
class Dns:
    """For resolv.conf(5)."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)

    def text(self, comment: str) -> str:
        """The file, as rkt's `common/resolv_conf.go` writes it."""
        lines = [f"# {comment}", ""]
        lines += [f"search {' '.join(self.search)}"] if self.search else []
        lines += [f"nameserver {server}" for server in self.nameservers]
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        lines += [f"domain {self.domain}"] if self.domain else []
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Result:
    """Of ADD, of all plugins of a network together. raw: the last one's, as the next one, and DEL, are told it."""

    addresses: tuple[Address, ...]
    routes: tuple[Mapping[str, Any], ...]
    dns: Dns
    interfaces: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any]

    def address(self, version: int) -> Address | None:
        """The first of a version of IP."""
        return next((one for one in self.addresses if one.ip.version == version), None)

    def told(self, version: str) -> dict[str, Any]:
        """As a `prevResult` of some version, 0.3.0 or newer."""
        ips = []
        for one in self.addresses:
            entry: dict[str, Any] = {"address": str(one.ip)}
            if not at_least(version, "1.0.0"):
                entry["version"] = str(one.ip.version)
            entry |= {"gateway": one.gateway} if one.gateway else {}
            entry |= {"interface": one.interface} if one.interface is not None else {}
            ips.append(entry)
        interfaces = list(map(dict, self.interfaces))
        routes = list(map(dict, self.routes))
        dns = field(self.raw, "dns") or {}
        return {"cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns}


NOTHING: Final = Result((), (), Dns(), (), {})


def parse(data: bytes | Mapping[str, Any]) -> Result:
    """An answer to ADD. Raises CniError."""
    try:
        raw = data if isinstance(data, Mapping) else json.loads(data)
        if not isinstance(raw, Mapping):
            raise ValueError("not a JSON object")
        version = field(raw, "cniVersion") or FIRST
        if version not in VERSIONS:
            raise ValueError(f"cniVersion {version!r} is none of {', '.join(VERSIONS)}")
        old = field(raw, "ips") is None
        addresses, routes = _old(raw) if old else (_addresses(raw), _objects(raw, "routes"))
        interfaces = _objects(raw, "interfaces")
        return Result(addresses, routes, _dns(field(raw, "dns") or {}), interfaces, dict(raw))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CniError(f"it answers with what is no result: {error}") from None


def _old(raw: Mapping[str, Any]) -> tuple[tuple[Address, ...], tuple[Mapping[str, Any], ...]]:
    addresses: list[Address] = []
    routes: list[Mapping[str, Any]] = []
    for name in ("ip4", "ip6"):
        if (part := field(raw, name)) is not None:
            addresses.append(_address(field(part, "ip"), field(part, "gateway"), None))
            routes += _objects(part, "routes")
    return tuple(addresses), tuple(routes)


def _addresses(raw: Mapping[str, Any]) -> tuple[Address, ...]:
    return tuple(
        _address(field(one, "address"), field(one, "gateway"), field(one, "interface"))
        for one in _objects(raw, "ips")
    )


def _address(ip: Any, gateway: Any, interface: Any) -> Address:
    if interface is not None and (not isinstance(interface, int) or interface < 0):
        raise ValueError(f"interface {interface!r} of {ip} is no index")
    return Address(ip_interface(str(ip)), str(ip_address(gateway)) if gateway else "", interface)


def _objects(raw: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    found = field(raw, name) or []
    if not isinstance(found, Sequence) or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"{name} is no list of objects")
    return tuple(found)


def _dns(raw: Mapping[str, Any]) -> Dns:
    lists = {}
    for name in _LISTS:
        found = field(raw, name) or []
        if not isinstance(found, list):
            raise ValueError(f"dns: {name} is no list")
        lists[name] = tuple(_word(name, one) for one in found)
    return Dns(**lists, domain=_word("domain", field(raw, "domain") or ""))


def _word(name: str, text: Any) -> str:
    """What gets into a line of resolv.conf, and makes no other."""
    if not isinstance(text, str) or any(ord(one) < 32 for one in text):
        raise ValueError(f"dns: {name}: {text!r} is no text of one line")
    return text
