"""Behind the log: the leader writes what changed into the table, so that the log stays short and a start is quick.

It is never in the way of a commit: commits wait for it only when the log would grow without end (`MUST`). An object
that changed ten times is written once. Every request checks the epoch, as commits do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from kazoo.exceptions import KazooException, NoNodeError

from scheduler.store.base import Entry, Key
from scheduler.store.zookeeper import records
from scheduler.store.zookeeper.bulk import Writes
from scheduler.store.zookeeper.layout import Paths, encode_folded
from scheduler.store.zookeeper.loading import Gap, Loader
from shared.zookeeper.session import Lost, Refused, Session

logger = logging.getLogger(__name__)

RECORDS, BYTES = 2048, 8 << 20
"""Of log beyond the table that start folding at once."""

IDLE = 0.5
"""Seconds without a commit that start it, too."""

MUST = 64 << 20
"""Bytes of log beyond the table at which commits wait."""

KEEP = 512
"""Folded records that stay in the log, for followers that are a little behind."""

CHUNK, CHUNK_BYTES = 50, 256 << 10
"""Objects, and bytes, of one request."""

RETRY = 1.0


class Folder:
    """See the module. `get` and `newest` tell the committed state: an object; the last record's number and version.
    `seal` makes the blob of an object's JSON; `check` is the operation that checks the epoch."""

    def __init__(
        self,
        session: Session,
        paths: Paths,
        loader: Loader,
        *,
        check: Any,
        get: Callable[[Key], Entry | None],
        newest: Callable[[], tuple[int, int]],
        seal: Callable[[Key, bytes], bytes],
    ) -> None:
        self._session, self._paths, self._loader = session, paths, loader
        self._check, self._get, self._newest, self._seal = check, get, newest, seal
        self._dirty: dict[Key, None] = {}
        self._stored: dict[str, set[str]] = {}
        self._records = self._bytes = 0
        self._first: int | None = None
        self._wake, self._full, self._relief = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._relief.set()
        self._lock = asyncio.Lock()
        self._ready = False
        self._task = asyncio.create_task(self._run(), name="store folder")

    def committed(self, keys: Iterable[Key], size: int) -> None:
        """A record with changes of these keys was written."""
        self._dirty.update(dict.fromkeys(keys))
        self._records += 1
        self._bytes += size
        self._wake.set()
        if self._records >= RECORDS or self._bytes >= BYTES:
            self._full.set()
        if self._bytes >= MUST:
            self._relief.clear()

    async def relief(self) -> None:
        """Returns at once, unless the log is far ahead of the table."""
        await self._relief.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._relief.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._due()
            try:
                await self.fold()
            except Lost:
                await self._session.connected()
            except Refused as refused:
                if refused.index == 0:
                    self._relief.set()
                    return  # somebody else leads: whoever commits next will be told
                logger.warning("folding was refused (%r), trying again", refused.error)
                self._stored.clear()
                await asyncio.sleep(RETRY)
            except KazooException as error:
                logger.warning("folding failed (%r), trying again", error)
                await asyncio.sleep(RETRY)

    async def _due(self) -> None:
        """Until nothing is committed for a while, or the log is long."""
        seen = -1
        while seen != self._records and not self._full.is_set():
            seen = self._records
            try:
                async with asyncio.timeout(IDLE):
                    await self._full.wait()
            except TimeoutError:
                continue

    async def fold(self, *, keep: int | None = None) -> None:
        """Brings the table up to the newest record and cuts the log. Raises Lost, Refused, KazooException."""
        async with self._lock:
            if not self._ready:
                await self._begin()
            number, version = self._newest()
            dirty, self._dirty = self._dirty, {}
            folded, self._records, self._bytes = self._bytes, 0, 0
            self._wake.clear()
            self._full.clear()
            try:
                await self._write(dirty)
                await self._session.multi(
                    [self._check, self._session.op_set(self._paths.folded, encode_folded(number, version))]
                )
            except BaseException:
                self._dirty = dirty | self._dirty
                self._bytes += folded
                self._wake.set()
                raise
            self._relief.set()
            await self._cut(number - (KEEP if keep is None else keep))

    async def _begin(self) -> None:
        """What a leader before us left unfolded."""
        after, _ = await self._loader.folded()
        try:
            for read in await self._loader.records(after):
                self._dirty.update(dict.fromkeys(key for key, _, _ in read.changes or ()))
        except Gap as gap:
            raise NoNodeError("a record that is not folded yet is gone from the log") from gap
        self._ready = True

    async def _names(self, resource: str) -> set[str]:
        """Of the objects that have a znode."""
        if resource not in self._stored:
            directory = f"{self._paths.objects}/{resource}"
            try:
                names = set(await self._session.children(directory))
            except NoNodeError:
                await self._session.multi([self._check, self._session.op_create(directory)])
                names = set()
            self._stored[resource] = names
        return self._stored[resource]

    async def _write(self, dirty: Iterable[Key]) -> None:
        writes = Writes(self._paths.epoch, self._check.version, self._session.acl)
        for key in dirty:
            names, name = await self._names(key.resource), records.object_name(key)
            path = f"{self._paths.objects}/{key.resource}/{name}"
            entry = self._get(key)
            if entry is None:
                if name in names:
                    names.discard(name)
                    writes.delete(path)
                continue
            data = records.encode_object(entry.version, self._seal(key, entry.raw))
            if writes.size + len(data) > CHUNK_BYTES and len(writes):
                await writes.send(self._session)
            if name in names:
                writes.set(path, data)
            else:
                names.add(name)
                writes.create(path, data)
            if len(writes) >= CHUNK:
                await writes.send(self._session)
        if len(writes):
            await writes.send(self._session)

    async def _cut(self, last: int) -> None:
        """Removes the records up to number `last`, and their parts."""
        if self._first is None:
            names = await self._session.children(self._paths.log)
            self._first = min((int(name) for name in names if name.isdecimal()), default=1)
        if last < self._first:
            return
        paths = iter([self._paths.record(number) for number in range(self._first, last + 1)])
        while chunk := list(islice(paths, CHUNK)):
            await self._session.multi([self._check, *map(self._session.op_delete, chunk)])
            self._first += len(chunk)
        for name in await self._session.children(self._paths.parts):
            if name[:20].isdecimal() and int(name[:20]) <= last:
                await self._session.multi(
                    [self._check, self._session.op_delete(f"{self._paths.parts}/{name}")]
                )
