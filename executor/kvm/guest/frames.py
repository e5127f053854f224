"""What travels on the one wire between host and guest: messages of the launcher's protocol, and streams of bytes.

A frame is a kind, a number and a length, then so many bytes. Descriptors cannot cross: where the protocol has one there
is a stream, by a number of the host's choice. A sender may be WINDOW bytes ahead of what the receiver has given away
(CREDIT), so that a stream nobody reads stops nothing else.
"""

import json
import struct
from typing import Any, Final, NamedTuple

MESSAGE, DATA, END, CREDIT = range(4)
WINDOW: Final = 256 * 1024
CHUNK: Final = 32 * 1024
OWN: Final = 1 << 31
"""From here on the numbers of streams are the guest's choice."""
_HEAD: Final = struct.Struct("<BIII")
_MAGIC: Final = 0x47544B56


class Frame(NamedTuple):
    """`stream` is 0 for messages. END: nothing more comes that way. CREDIT: `data` is a number of bytes."""

    kind: int
    stream: int
    data: bytes

    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found

    def credit(self) -> int:
        return int.from_bytes(self.data, "little")


class FrameError(ValueError):
    """What came is no frame: the other side is broken."""


def pack(kind: int, stream: int = 0, data: bytes = b"") -> bytes:
    """A frame."""
    return _HEAD.pack(kind, stream, len(data), _MAGIC) + data


def message(content: dict[str, Any]) -> bytes:
    """A frame with a message."""
    return pack(MESSAGE, 0, json.dumps(content).encode())


def credit(stream: int, count: int) -> bytes:
    """A frame that lets the other side send `count` bytes more."""
    return pack(CREDIT, stream, count.to_bytes(4, "little"))


class Decoder:
    """Bytes in, frames out. limit: of what one frame may hold, for the guest is not to be believed."""

    def __init__(self, limit: int = 16 * 1024 * 1024) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[Frame]:
        """Raises FrameError."""
        self._buffer += data
        found, at = [], 0
        while len(self._buffer) - at >= _HEAD.size:
            kind, stream, length, magic = _HEAD.unpack_from(self._buffer, at)
            if magic != _MAGIC or kind > CREDIT or length > self._limit:
                raise FrameError(f"no frame: kind {kind}, length {length}")
            end = at + _HEAD.size + length
            if len(self._buffer) < end:
                break
            found.append(Frame(kind, stream, bytes(self._buffer[at + _HEAD.size : end])))
            at = end
        del self._buffer[:at]
        return found
