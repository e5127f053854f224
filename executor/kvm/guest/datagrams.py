"""Sockets for datagrams that are the host's, as sd_notify(3)'s: what an app says to one goes over the wire.

Imported when there are some. A socket in a volume connects processes on the same side of the wire only.
"""

import os
import select
import socket
from functools import partial
from typing import Final

from executor.kvm.guest import frames
from executor.kvm.guest.agent import Agent

PLACE: Final = "/run/datagrams"
_LONGEST: Final = 4096


def listen(agent: Agent, names: list[str]) -> None:
    """In `PLACE`, one by each name. Raises OSError."""
    os.mkdir(PLACE, 0o755)
    for name in names:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(f"{PLACE}/{name}")
        os.chmod(f"{PLACE}/{name}", 0o777)  # whoever the app is
        agent.watch(sock.fileno(), select.EPOLLIN, partial(_heard, agent, sock, name))


def _heard(agent: Agent, sock: socket.socket, name: str, _events: int) -> None:
    try:
        data = sock.recv(_LONGEST)
    except OSError:
        return  # it was meant for somebody who has gone
    agent.send(frames.message({"event": "datagram", "name": name, "text": data.decode("latin-1")}))
