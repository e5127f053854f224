"""What parent and child tell one another: JSON, one datagram a message. And what a candidate tells everybody.

parent → child   `session` (how to close it), `lead` (with the epoch), `follow` (the leader, or null), `cut off`
                 (whether ZooKeeper is out of reach), `tick`
child → parent   `candidate` (it may lead: it serves and its store follows), `withdraw`, `tick`
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

Message = dict[str, Any]

LARGEST = 64 * 1024
"""Bytes of a message; they have some hundred."""

TICK = 1.0
"""Seconds between two signs of life, in both directions."""

VARIABLE = "GANTRY_SUPERVISOR_FD"
"""Where a child finds its end of the socket."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance, as its znode describes it to the others.

    `url`: where its API is. `fingerprint`: SHA-256 of the certificate that it serves, hexadecimal; "" without TLS.
    `instance` is another one after each start.
    """

    instance: str
    url: str
    fingerprint: str = ""
    version: str = ""
    pid: int = 0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Candidate | None:
        """None for what no Gantry wrote. What a newer one adds is left aside."""
        try:
            told = json.loads(data)
            return cls(**{name: told[name] for name in cls.__slots__ if name in told})
        except (ValueError, TypeError, KeyError):
            return None


def pair() -> tuple[socket.socket, socket.socket]:
    """The parent's end and the child's. Closed by the kernel when its last holder dies: nothing is noticed sooner."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(kind: str, **facts: Any) -> bytes:
    return json.dumps({"kind": kind, **facts}).encode()


def decode(data: bytes) -> Message:
    """The inverse of `encode`; both ends are of the same program, so anything else is a bug."""
    message = json.loads(data)
    assert isinstance(message, dict)
    return message
