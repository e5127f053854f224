"""Ports of this machine that lead into a pod, as the `portmap` plugin is told of them (`capabilities`). Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from executor.network.errors import CniError

CAPABILITY: Final = "portMappings"
PROTOCOLS: Final = ("tcp", "udp", "sctp")


@dataclass(frozen=True)
class Forward:
    """host_ip: "" for all addresses of this machine."""

    protocol: str
    host_port: int
    pod_port: int
    host_ip: str = ""

    def conflicts(self, other: "Forward") -> bool:
        """Whether both want the same port of an address."""
        same = (self.protocol, self.host_port) == (other.protocol, other.host_port)
        return same and (not self.host_ip or not other.host_ip or self.host_ip == other.host_ip)

    def __str__(self) -> str:
        return f"{self.protocol}-{self.host_ip or '0.0.0.0'}:{self.host_port}"

    def told(self) -> dict[str, Any]:
        made = {"hostPort": self.host_port, "containerPort": self.pod_port, "protocol": self.protocol}
        return {**made, **({"hostIP": self.host_ip} if self.host_ip else {})}


def read(told: Iterable[Mapping[str, Any]]) -> tuple[Forward, ...]:
    """What `told` has written."""
    return tuple(
        Forward(
            str(one["protocol"]),
            int(one["hostPort"]),
            int(one["containerPort"]),
            str(one.get("hostIP") or ""),
        )
        for one in told
    )


def forwards(manifest: Mapping[str, Any]) -> tuple[Forward, ...]:
    """The `ports` of an appc PodManifest: by the name of an app's port, or with a `podPort` of their own.

    As rkt's common/networking/ports.go, which does not heed `count`. Raises CniError.
    """
    made: list[Forward] = []
    for exposed in manifest.get("ports") or ():
        port = exposed.get("podPort") or _named(manifest, str(exposed["name"]))
        protocol = str(port["protocol"]).lower()
        if protocol not in PROTOCOLS:
            raise CniError(f'port {exposed["name"]}: protocol "{protocol}" is none of {", ".join(PROTOCOLS)}')
        for offset in range(int(port.get("count") or 1)):
            ip = str(exposed.get("hostIP") or "")
            ip = "" if not ip or ip_address(ip).is_unspecified else str(ip_address(ip))
            one = Forward(protocol, int(exposed["hostPort"]) + offset, int(port["port"]) + offset, ip)
            if max(one.host_port, one.pod_port) > 65535:
                raise CniError(f"port {exposed['name']}: {max(one.host_port, one.pod_port)} is no port")
            if (taken := next((other for other in made if one.conflicts(other)), None)) is not None:
                raise CniError(f"port {one} already mapped to pod port {taken.pod_port}")
            made.append(one)
    return tuple(made)


def _named(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = [
        port
        for entry in manifest.get("apps") or ()
        for port in (entry.get("app") or {}).get("ports") or ()
        if port["name"] == name
    ]
    if len(found) > 1:
        raise CniError(f'port name "{name}" defined multiple apps')
    if not found:
        raise CniError(f'port name "{name}" could not be found in any apps')
    return dict(found[0])
