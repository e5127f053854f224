"""Ports for the servers of tests, each lent to one test process until that ends.

A port that the kernel picks (bind to 0, then close) may be somebody else's a moment later: that of a connection, or
what the next probe is told. These are below the kernel's own range (/proc/sys/net/ipv4/ip_local_port_range), above
well-known services, apart from the ports that test agents offer (31000 up), and locked.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 20000, 30999
_PLACE = Path(tempfile.gettempdir()) / "gantry-test-ports"
_held: list[int] = []  # open files; the kernel unlocks them when this process ends


def free_port() -> int:
    """A TCP port of this host that nobody listens on, and that no other test asks for."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """All different."""
    _PLACE.mkdir(exist_ok=True)
    found: list[int] = []
    for port in random.sample(range(FIRST, LAST + 1), LAST + 1 - FIRST):
        if len(found) == count:
            return found
        if _take(port):
            found.append(port)
    raise AssertionError(f"no {count} free ports from {FIRST} to {LAST}")


def _take(port: int) -> bool:
    file = os.open(_PLACE / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError:
        os.close(file)
        return False
    _held.append(file)
    return True
