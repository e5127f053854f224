"""Ports of images that are `socketActivated` (appc aci.md): their apps find them open, as systemd hands sockets over
(sd_listen_fds(3)).
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from executor.pods import netns
from executor.pods.launcher import LaunchError, Sandbox, Sockets

_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_BACKLOG: Final = 4096  # systemd.socket(5), Backlog=; the kernel's own bound is lower


@dataclass(frozen=True)
class Port:
    """One of an app. kind: of socket(2)."""

    app: str
    name: str
    kind: int
    number: int


def ports_of(app: str, body: Mapping[str, Any]) -> list[Port]:
    """Those of an app's part of a manifest. Raises ValueError."""
    made = []
    for port in body.get("ports") or ():
        if not port.get("socketActivated"):
            continue
        name, protocol, first = str(port["name"]), str(port["protocol"]), int(port["port"])
        if protocol not in _KINDS:
            raise ValueError(f"port {name}: {protocol!r} cannot be socket-activated: tcp or udp")
        count = int(port.get("count") or 1)
        made += [Port(app, name, _KINDS[protocol], number) for number in range(first, first + count)]
    return made


def opened(port: Port, number: int, pid: int) -> socket.socket:
    """A socket for a port, on all addresses of the network of a process, IPv6 where there is such a thing.
    LaunchError."""
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


@contextmanager
def handed(ports: Sequence[Port], sandbox: object) -> Iterator[dict[str, Sockets]]:
    """Arguments for one start of an app: it has them to itself, and they end with it. A stage1 of somebody else's opens
    such ports itself. LaunchError."""
    if not ports or not isinstance(sandbox, Sandbox):
        yield {}
        return
    with ExitStack() as stack:
        made = [stack.enter_context(opened(port, port.number, sandbox.pid)) for port in ports]
        yield {"sockets": [(port.name, one.fileno()) for port, one in zip(ports, made, strict=True)]}
