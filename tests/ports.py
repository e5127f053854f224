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
_PLACE = Path(tempfile.gettempdir()) / f"gantry-test-ports-{os.getuid()}"
"""Its bytes are the ports, each locked by who has it (fcntl(2): until that process ends, and not its children)."""
_ours: set[int] = set()
_opened: list[int] = []


def free_port() -> int:
    """A TCP port of this host that nobody listens on, and that no other test asks for."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """All different."""
    found: list[int] = []
    for port in random.sample(range(FIRST, LAST + 1), LAST + 1 - FIRST):
        if len(found) == count:
            return found
        if _take(port):
            found.append(port)
    raise AssertionError(f"no {count} free ports from {FIRST} to {LAST}")


def _take(port: int) -> bool:
    if not _opened:
        _opened.append(os.open(_PLACE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    if port in _ours:
        return False
    try:
        fcntl.lockf(_opened[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError:
        return False
    _ours.add(port)
    return True
