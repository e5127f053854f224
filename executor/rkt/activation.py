"""Socket activation: ports of images that say `socketActivated` (appc aci.md), for flavors of ours.

    systemd ─LISTEN_FDS─▶ `run` ─by their port numbers─▶ apps, from descriptor 3 on, LISTEN_FDNAMES: names of the ports

As in rkt (`stage1/init/common/units.go`) a socket is a port's if it has its number on the host, by --port, or else the
port's own; where no such one has come, one is opened in the pod's network.
"""

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from executor.pods import sockets
from executor.pods.launcher import Sockets
from executor.rkt.appstreams import notes_of
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import KVM, flavor_of_pod


@dataclass(frozen=True)
class Port:
    """One that wants a socket. number: on the host; own: in the pod's network."""

    own: sockets.Port
    number: int


def ports_of(manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Port]:
    """Those of an app of a manifest. Failure."""
    hosts = {str(one["name"]): int(one["hostPort"]) for one in manifest.get("ports") or ()}
    app, body = str(entry["name"]), entry.get("app") or {}
    first = {str(one["name"]): int(one["port"]) for one in body.get("ports") or ()}
    try:
        made = sockets.ports_of(app, body)
    except ValueError as error:
        raise Failure(f"app {app}: {error}") from None
    return [Port(one, hosts.get(one.name, first[one.name]) + one.number - first[one.name]) for one in made]


def _refuse_machine(manifest: Mapping[str, Any], ports: list[Port]) -> None:
    if ports and flavor_of_pod(manifest) == KVM:
        first = ports[0].own
        raise Failure(
            f"app {first.app}: port {first.name} is socket-activated: stage1-kvm cannot hand sockets over into a "
            "machine; use another stage1"
        )


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
        _refuse_machine(manifest, wanted)
        if self._handed and not wanted:
            raise Failure("sockets from systemd (LISTEN_FDS): no app of the pod has a socket-activated port")
        mapped = {str(one["name"]) for one in manifest.get("ports") or ()}
        warnings = [
            f"warning: no --port option for socket-activated port {port.own.name!r}, assuming port {port.number} as "
            "specified in the manifest"
            for port in wanted
            if port.own.name not in mapped
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
        ports = ports_of(manifest, entry)
        _refuse_machine(manifest, ports)
        for port in ports:
            if not self._take(port):
                shared = notes_of(manifest).get("gantry.io/host-network") == "true"
                hosts = shared or flavor_of_pod(manifest) == "fly"
                self._taken[port] = sockets.opened(port.own, port.number if hosts else port.own.number, pid)
            one = self._taken[port]
            made.append((port.own.name, one if isinstance(one, int) else one.fileno()))
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
        return inet and self._kind == port.own.kind and self._address[1] == port.number

    def __str__(self) -> str:
        if isinstance(self._address, tuple):
            return f"socket {self._address[0]}:{self._address[1]}"
        return f"socket {self._address!r}"
