"""Many znodes at once: reading them a hundred a request, some requests under way at any time, and writing them.

ZooKeeper has it as MultiRead since 3.6 (org.apache.zookeeper.MultiOperationRecord, OpCode.multiRead); kazoo does not
know it, so the wire format is here. An older server is read znode by znode.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

from kazoo.exceptions import NoNodeError, UnimplementedError
from kazoo.protocol.serialization import Transaction
from kazoo.security import ACL

from shared.zookeeper.session import Lost, Session, raise_refused

CHUNK = 64
"""Znodes a request. Each may be a MiB."""

WINDOW = 6
"""Requests under way."""

_HEADER = struct.Struct("!iBi")
_INT = struct.Struct("!i")
_STAT = 68
_GET_DATA = 4
_CREATE, _DELETE, _SET, _CHECK = 1, 2, 5, 13
_ERROR = -1
_OPEN, _END = _HEADER.pack(0, 0, -1)[4:], _HEADER.pack(-1, 1, -1)


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


class Writes:
    """A multi that checks the epoch and writes many znodes, in kazoo's wire format; kazoo's own way of making one takes
    several times as long. It may be filled and sent again and again."""

    type = Transaction.type

    def __init__(self, epoch_path: str, epoch: int, acl: Sequence[ACL]) -> None:
        self._begin = _op(_CHECK) + _text(epoch_path) + _INT.pack(epoch)
        self._acl = _INT.pack(len(acl)) + b"".join(
            _INT.pack(one.perms) + _text(one.id.scheme) + _text(one.id.id) for one in acl
        )
        self._parts: list[bytes] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self._parts)

    def _add(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)

    def create(self, path: str, data: bytes) -> None:
        body = (_op(_CREATE), _text(path), _INT.pack(len(data)), data, self._acl, _INT.pack(0))
        self._add(b"".join(body))

    def set(self, path: str, data: bytes) -> None:
        self._add(b"".join((_op(_SET), _text(path), _INT.pack(len(data)), data, _INT.pack(-1))))

    def delete(self, path: str) -> None:
        self._add(_op(_DELETE) + _text(path) + _INT.pack(-1))

    def serialize(self) -> bytes:
        return b"".join((self._begin, *self._parts, _END))

    def deserialize(self, data: bytes, offset: int) -> list[Any]:
        """What was refused, by index, in kazoo's words; nothing when all was done."""
        kind, _, _ = _HEADER.unpack_from(data, offset)
        return list(Transaction.deserialize(data, offset)) if kind == _ERROR else []

    async def send(self, session: Session) -> None:
        """Raises Refused; one of `Lost`; and forgets what it had."""
        await session.connected()
        results = await session.send(self)
        self._parts, self.size = [], 0
        raise_refused(results)


def _op(kind: int) -> bytes:
    return _INT.pack(kind) + _OPEN


def _text(text: str) -> bytes:
    data = text.encode()
    return _INT.pack(len(data)) + data
