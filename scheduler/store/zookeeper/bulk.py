"""Reading many znodes at once: one request for a hundred of them, some requests under way at any time.

ZooKeeper has it as MultiRead since 3.6 (org.apache.zookeeper.MultiOperationRecord, OpCode.multiRead); kazoo does not
know it, so the wire format is here. An older server is read znode by znode.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence

from kazoo.exceptions import NoNodeError, UnimplementedError

from shared.zookeeper.session import Lost, Session

CHUNK = 64
"""Znodes a request. Each may be a MiB."""

WINDOW = 6
"""Requests under way."""

_HEADER = struct.Struct("!iBi")
_INT = struct.Struct("!i")
_STAT = 68
_GET_DATA = 4


class _MultiRead:
    """A request of kazoo's wire format."""

    type = 22

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def serialize(self) -> bytes:
        parts: list[bytes] = []
        for path in self.paths:
            encoded = path.encode()
            parts += (_HEADER.pack(_GET_DATA, 0, -1), _INT.pack(len(encoded)), encoded, b"\0")
        parts.append(_HEADER.pack(-1, 1, -1))
        return b"".join(parts)

    @classmethod
    def deserialize(cls, data: bytes, offset: int) -> list[bytes | None]:
        """The data of each, None where there is no such znode."""
        found: list[bytes | None] = []
        while True:
            kind, done, _ = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            if done:
                return found
            (length,) = _INT.unpack_from(data, offset)
            offset += _INT.size
            if kind == _GET_DATA:
                found.append(data[offset : offset + max(length, 0)])
                offset += max(length, 0) + _STAT
            else:  # an ErrorResult: `length` is its code
                found.append(None)


class BulkReader:
    """See the module."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._multi = True

    async def read(self, paths: Sequence[str]) -> AsyncIterator[tuple[Sequence[str], list[bytes | None]]]:
        """Some of the paths and what is in them (None: no such znode), until all are through. Raises one of `Lost`."""
        waiting: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]] = []
        try:
            for at in range(0, len(paths), CHUNK):
                chunk = paths[at : at + CHUNK]
                waiting.append((chunk, asyncio.ensure_future(self._get(chunk))))
                if len(waiting) >= WINDOW:
                    done, future = waiting.pop(0)
                    yield done, await future
            while waiting:
                done, future = waiting.pop(0)
                yield done, await future
        finally:
            for _, future in waiting:
                future.cancel()

    async def read_all(self, paths: Sequence[str]) -> list[bytes | None]:
        return [data async for _, found in self.read(paths) for data in found]

    async def _get(self, paths: Sequence[str]) -> list[bytes | None]:
        if self._multi:
            await self._session.connected()
            try:
                found: list[bytes | None] = await self._session.send(_MultiRead(paths))
            except UnimplementedError:
                self._multi = False
            except Lost:
                self._multi = False  # what a server does that does not know the request
                raise
            else:
                return found
        return list(await asyncio.gather(*(self._one(path) for path in paths)))

    async def _one(self, path: str) -> bytes | None:
        try:
            return (await self._session.get(path)).data
        except NoNodeError:
            return None
