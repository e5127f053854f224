"""Socket activation: ports of images that say `socketActivated` (appc aci.md), for flavors of ours.

    systemd ─LISTEN_FDS─▶ `run` ─by their port numbers─▶ apps, from descriptor 3 on, LISTEN_FDNAMES: names of the ports

As in rkt (`stage1/init/common/units.go`) a socket is a port's if it has its number on the host, by --port, or else the
port's own; where no such one has come, one is opened in the pod's network.
"""

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from executor.pods import netns
from executor.pods.launcher import LaunchError, Sockets
from executor.rkt.appstreams import notes_of
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import KVM, flavor_of_pod

_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_BACKLOG: Final = 4096  # systemd.socket(5), Backlog=; the kernel's own bound is lower


@dataclass(frozen=True)
class Port:
    """One that wants a socket. number: on the host; own: in the pod's network."""

    app: str
    name: str
    kind: int
    number: int
    own: int


def ports_of(manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Port]:
    """Those of an app of a manifest. Failure."""
    hosts = {str(one["name"]): int(one["hostPort"]) for one in manifest.get("ports") or ()}
    made = []
    for port in (entry.get("app") or {}).get("ports") or ():
        if not port.get("socketActivated"):
            continue
        name, protocol, first = str(port["name"]), str(port["protocol"]), int(port["port"])
        if protocol not in _KINDS:
            raise Failure(
                f"app {entry['name']}: port {name}: {protocol!r} cannot be socket-activated: tcp or udp"
            )
        for number in range(int(port.get("count") or 1)):
            host = hosts.get(name, first) + number
            made.append(Port(str(entry["name"]), name, _KINDS[protocol], host, first + number))
    return made


class Activation:
    """The sockets of a pod's apps. handed: descriptors that systemd gave us; whoever has them keeps them."""

    def __init__(self, handed: Iterable[int]) -> None:
        """Failure for what is no socket."""
        self._handed = {fd: _Handed(fd) for fd in handed}
        self._taken: dict[Port, socket.socket | int] = {}

    def check(self, manifest: Mapping[str, Any]) -> list[str]:
        """Warnings, of a pod whose apps are all there. Failure when nobody wants the sockets that have come, or there
        are none to be had for who does."""
        wanted = [port for entry in manifest["apps"] for port in ports_of(manifest, entry)]
        if wanted and flavor_of_pod(manifest) == KVM:
            raise Failure(
                f"app {wanted[0].app}: port {wanted[0].name} is socket-activated: stage1-kvm cannot hand sockets over "
                "into a machine; use another stage1"
            )
        if self._handed and not wanted:
            raise Failure("sockets from systemd (LISTEN_FDS): no app of the pod has a socket-activated port")
        mapped = {str(one["name"]) for one in manifest.get("ports") or ()}
        warnings = [
            f"warning: no --port option for socket-activated port {port.name!r}, assuming port {port.own} as specified "
            "in the manifest"
            for port in wanted
            if port.name not in mapped
        ]
        for port in wanted:
            self._take(port)
        return warnings + [
            f"warning: {one} from systemd is for no socket-activated port of the pod's, and not handed on"
            for one in self._handed.values()
        ]

    def of(self, manifest: Mapping[str, Any], entry: Mapping[str, Any], pid: int) -> Sockets:
        """An app's sockets, the same at each start; those that nobody has given us are opened in the network of `pid`.
        Failure, LaunchError."""
        made = []
        for port in ports_of(manifest, entry):
            if not self._take(port):
                shared = notes_of(manifest).get("gantry.io/host-network") == "true"
                hosts = shared or flavor_of_pod(manifest) == "fly"
                self._taken[port] = _open(port, port.number if hosts else port.own, pid)
            one = self._taken[port]
            made.append((port.name, one if isinstance(one, int) else one.fileno()))
        return made

    def _take(self, port: Port) -> bool:
        """Whether there is one for a port, which is its from now on."""
        if port not in self._taken:
            fd = next((fd for fd, one in self._handed.items() if one.fits(port)), None)
            if fd is None:
                return False
            self._taken[port] = fd
            del self._handed[fd]
        return True

    def close(self) -> None:
        """Those that we have opened."""
        for one in self._taken.values():
            if isinstance(one, socket.socket):
                one.close()
        self._taken.clear()


class _Handed:
    """What a socket is that somebody else has made."""

    def __init__(self, fd: int) -> None:
        """Failure when it is none."""
        try:
            with socket.socket(fileno=fd) as one:
                self._kind, self._family = one.type, one.family
                self._address = one.getsockname()
                one.detach()
        except OSError as error:
            raise Failure(f"LISTEN_FDS: descriptor {fd}: {error.strerror}") from None

    def fits(self, port: Port) -> bool:
        inet = self._family in {socket.AF_INET, socket.AF_INET6}
        return inet and self._kind == port.kind and self._address[1] == port.number

    def __str__(self) -> str:
        if isinstance(self._address, tuple):
            return f"socket {self._address[0]}:{self._address[1]}"
        return f"socket {self._address!r}"


def _open(port: Port, number: int, pid: int) -> socket.socket:
    """On all addresses, IPv6 where there is such a thing. LaunchError."""
    problem = OSError()
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        made: socket.socket | None = None
        try:
            made = netns.make_socket(pid, family, port.kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind((address, number))
            if port.kind == socket.SOCK_STREAM:
                made.listen(_BACKLOG)
            return made
        except OSError as error:
            problem = error
            if made is not None:
                with suppress(OSError):
                    made.close()
    raise LaunchError(f"app {port.app}: listen on port {number} ({port.name}): {problem.strerror}")
