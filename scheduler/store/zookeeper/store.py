"""`base.Store` on ZooKeeper: what every scheduler follows and one of them, the leader, writes.

    commit ─▶ batch ─▶ one multi: check the epoch, create the next record of the log ─▶ memory, watches
                                                        │
    followers ◀── a watch on the next record ───────────┘         later: folding writes the table, cuts the log

Numbers of records have no gaps and each is created once, so a batch whose answer was lost is found again by its number
and id, and is written once whatever the connection does. A leader that was replaced cannot write: the epoch, a znode's
version, was raised before its successor began to read.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from kazoo.exceptions import AuthFailedError, KazooException, NodeExistsError, NoNodeError

from scheduler.store.base import (
    Change,
    Entries,
    Entry,
    Fenced,
    Key,
    NotLeading,
    Results,
    StoreError,
    StoreFailed,
    WatchEvent,
)
from scheduler.store.cache import BACKLOG, HISTORY, Cache, CachedWatch
from scheduler.store.pipeline import Batch, Pipeline, deletion
from scheduler.store.vault import Unreadable, Vault, mark
from scheduler.store.zookeeper import layout, records
from scheduler.store.zookeeper.folding import Folder
from scheduler.store.zookeeper.loading import LOG, Gap, Loaded, Loader, Read
from shared.zookeeper.session import Lost, Refused, Session, State
from shared.zookeeper.settings import ZooKeeperSettings

logger = logging.getLogger(__name__)

PART = 1_000_000
"""Bytes of one znode, so that a request stays below jute.maxbuffer (1 MiB)."""

PATIENCE = 5.0
"""Seconds a commit waits for a ZooKeeper that does not answer."""

VISIT = 15.0
"""Seconds within which a command must reach ZooKeeper."""

CLOSING = 2.0
"""Seconds that closing waits for one."""


class ZooKeeperStore:
    """`cluster`: whose state this is; a store of another cluster is refused. `history`, `backlog`: see `cache`."""

    def __init__(
        self,
        settings: ZooKeeperSettings,
        *,
        cluster: str = "gantry",
        vault: Vault | None = None,
        history: int = HISTORY,
        backlog: int = BACKLOG,
        patience: float = PATIENCE,
    ) -> None:
        self._settings = settings
        self.location = settings.location
        self._cluster = cluster
        self._vault = vault or Vault()
        self._patience = patience
        self._cache = Cache(history=history, backlog=backlog)
        self._session = Session(settings, on_state=self._heard)
        self._paths = layout.Paths(settings.location)
        self._loader = Loader(self._session, self._paths, self._vault)
        self._quarantined: dict[Key, str] = {}
        self._record = 0
        self._epoch: int | None = None
        self._failure: StoreFailed | None = None
        self._pipeline: Pipeline | None = None
        self._folder: Folder | None = None
        self._tailing: asyncio.Task[None] | None = None
        self._check: Any = None
        self._interrupted = False
        """Watches may have been lost since we last looked at the whole log."""
        self._closed = False

    # ---- what it is like

    @property
    def version(self) -> int:
        return self._cache.version

    @property
    def failure(self) -> StoreFailed | None:
        return self._failure or (self._pipeline.failure if self._pipeline else None)

    @property
    def trouble(self) -> str:
        return self._session.trouble

    @property
    def quarantined(self) -> Mapping[Key, str]:
        return self._quarantined

    @property
    def writable(self) -> bool:
        return self._pipeline is not None and self.failure is None

    def _heard(self, state: State) -> None:
        if state != "CONNECTED":
            self._interrupted = True

    # ---- opening and following

    async def open(self) -> None:
        if self._closed:
            raise StoreError(f"store {self.location}: was closed")
        self._session.start()
        try:
            await self._retrying()
        except BaseException:
            await self._session.stop()
            raise
        self._tailing = asyncio.create_task(self._tail(), name="store tail")

    async def _retrying(self) -> None:
        while True:
            try:
                await self._session.connected()
                await layout.check(self._session, self._paths, self._cluster)
                self._take(await self._loader.load())
            except AuthFailedError as error:
                raise StoreError(f"store {self.location}: {self._session.trouble}") from error
            except Lost:
                await asyncio.sleep(0.1)  # connected() waits for the next connection
            except KazooException as error:
                raise StoreError(f"store {self.location}: cannot be read: {error!r}") from error
            else:
                return

    def _take(self, loaded: Loaded) -> None:
        self._cache.load(loaded.entries.values(), loaded.version)
        self._record = loaded.record
        self._quarantined.clear()
        self._quarantined.update(loaded.quarantined)
        for key, why in loaded.quarantined.items():
            logger.error("%s is damaged and left out: %s", key, why)

    async def _tail(self) -> None:
        """Follows the log, until cancelled."""
        while True:
            try:
                try:
                    await self._follow()
                except Gap:
                    logger.warning("the log was cut before it was read here; loading everything again")
                    self._take(await self._loader.load())
            except StoreError as error:
                self._failure = StoreFailed(str(error))
                logger.error("%s", error)
                return
            except AuthFailedError:
                self._failure = StoreFailed(f"store {self.location}: {self._session.trouble}")
                return
            except Lost:
                await asyncio.sleep(0.05)
            except KazooException as error:
                logger.warning("cannot follow the log: %r; trying again", error)
                await asyncio.sleep(1)

    async def _follow(self) -> None:
        """Until the connection is lost, or the next record. Raises Gap, Lost, StoreError."""
        self._interrupted = False
        for read in await self._loader.records(self._record):
            self._apply(read)
        while not self._interrupted:
            path = self._paths.record(self._record + 1)
            try:
                data = (await self._session.get(path)).data
            except NoNodeError:
                changed = asyncio.Event()
                if await self._session.exists(path, changed.set) is None:
                    await changed.wait()
                continue
            self._apply(await self._loader.read(self._record + 1, data))

    def _apply(self, read: Read) -> None:
        """Makes another's record visible. Raises StoreError for a Secret whose key we don't have."""
        events: list[WatchEvent] = []
        latest: dict[Key, Entry | None] = {}
        if read.changes is None:
            logger.error("record %d of the log is lost: %s", read.number, read.why)
            self._quarantined[LOG._replace(name=str(read.number))] = (
                f"a record of the log is lost: {read.why}"
            )
        for key, version, blob in read.changes or ():
            old = latest[key] if key in latest else self._cache.get(key)
            self._quarantined.pop(key, None)
            if blob is None:
                if old is not None:
                    events.append(WatchEvent("DELETED", deletion(old, version), old))
                latest[key] = None
                continue
            try:
                new = Entry(key, None, version, self._vault.open(key, blob))
            except Unreadable as error:
                self._quarantined[key] = str(error)
                continue
            events.append(WatchEvent("ADDED" if old is None else "MODIFIED", new, old))
            latest[key] = new
        self._record = read.number
        self._cache.apply(events, max(read.last, self._cache.version))

    # ---- leading

    async def lead(self, epoch: int) -> None:
        if self._tailing is None:
            raise StoreError(f"store {self.location} is not open")
        if self._pipeline is not None:
            raise StoreError(f"store {self.location}: leads already, with epoch {self._epoch}")
        await _cancelled(self._tailing)
        while True:
            try:
                await self._session.sync(self._paths.root)
                await self._check_epoch(epoch)
                try:
                    for read in await self._loader.records(self._record):
                        self._apply(read)
                except Gap:
                    self._take(await self._loader.load())
                    continue
            except AuthFailedError as error:
                raise StoreError(f"store {self.location}: {self._session.trouble}") from error
            except Lost:
                await asyncio.sleep(0.05)
            except KazooException as error:
                raise StoreError(f"store {self.location}: cannot be read: {error!r}") from error
            else:
                break
        if self._failure is not None:
            raise self._failure
        self._epoch = epoch
        self._check = self._session.op_check(self._paths.epoch, epoch)
        self._folder = Folder(
            self._session,
            self._paths,
            self._loader,
            check=self._check,
            get=self._cache.get,
            newest=lambda: (self._record, self._cache.version),
            seal=self._vault.seal,
        )
        self._pipeline = Pipeline(
            self._cache,
            self._write,
            patience=self._patience,
            why=lambda: self.trouble,
            quarantined=self._quarantined,
        )
        await mark(self, self._vault)

    async def lead_alone(self) -> None:
        leader = self.location.child(layout.LEADER)
        try:
            try:
                running = await self._session.children(leader)
            except NoNodeError:
                running = []
            if running:
                raise StoreError(
                    f"store {self.location}: {len(running)} scheduler{'s run' if len(running) > 1 else ' runs'} on it; "
                    "stop them first"
                )
            epoch = (await self._session.set(self._paths.epoch, b"")).version
        except KazooException as error:
            raise StoreError(f"store {self.location}: {self.trouble or repr(error)}") from error
        await self.lead(epoch)

    async def _check_epoch(self, epoch: int) -> None:
        found = await self._session.exists(self._paths.epoch)
        if found is None or found.version != epoch:
            newest = "none" if found is None else found.version
            raise Fenced(f"store {self.location}: epoch {epoch} is over, the newest is {newest}")

    async def commit(self, *changes: Change, patient: bool = False) -> Results:
        if self._pipeline is None:
            if self._closed:
                raise StoreFailed("the store is closed")
            raise NotLeading("this scheduler does not lead, so it cannot write")
        return await self._pipeline.commit(*changes, patient=patient)

    async def _write(self, batch: Batch) -> None:
        assert self._folder is not None
        await self._folder.relief()
        number, identity = self._record + 1, os.urandom(16)
        payload = records.encode_changes(self._changes(batch))
        data, parts = records.encode_record(batch.first, batch.version, identity, payload, PART)
        again = False
        while True:
            try:
                await self._session.connected()
                if again and await self._written(number, identity):
                    break
                for index, part in enumerate(parts):
                    await self._create(self._paths.part(number, identity, index), part)
                try:
                    await self._create(self._paths.record(number), data)
                except StoreFailed:
                    if not (again and await self._written(number, identity)):
                        raise
                break
            except AuthFailedError as error:
                raise StoreFailed(f"store {self.location}: {self._session.trouble}") from error
            except Lost:
                again = True
            except KazooException as error:
                raise StoreFailed(f"store {self.location}: cannot write: {error!r}") from error
        self._record = number
        self._folder.committed(batch.state, len(data) + sum(map(len, parts)))

    def _changes(self, batch: Batch) -> list[records.Change]:
        """In the order of their versions; what was quarantined and is deleted comes first, it has no event."""
        keys = {event.entry.key for event in batch.events}
        changes = [records.Change(key, batch.first, None) for key in batch.state if key not in keys]
        for event in batch.events:
            key, version, raw = event.entry.key, event.entry.version, event.entry.raw
            blob = None if event.type == "DELETED" else self._vault.seal(key, raw)
            changes.append(records.Change(key, version, blob))
        return changes

    async def _create(self, path: str, data: bytes) -> None:
        """Raises Fenced, StoreFailed, Lost. A znode that is there already is the one we meant."""
        try:
            await self._session.multi([self._check, self._session.op_create(path, data)])
        except Refused as refused:
            if refused.index == 0:
                raise Fenced(
                    f"store {self.location}: another scheduler leads; epoch {self._epoch} is over"
                ) from refused
            if not isinstance(refused.error, NodeExistsError) or path.startswith(self._paths.log):
                raise StoreFailed(
                    f"store {self.location}: cannot write {path}: {refused.error!r}"
                ) from refused

    async def _written(self, number: int, identity: bytes) -> bool:
        """Whether a batch whose answer was lost is in the log. Raises Lost."""
        await self._session.sync(self._paths.root)
        try:
            found = records.decode_record((await self._session.get(self._paths.record(number))).data)
        except (NoNodeError, records.Damaged):
            return False
        return found.id == identity

    # ---- the end

    async def compact(self) -> None:
        if self._folder is None:
            raise NotLeading(f"store {self.location}: only who leads can compact it")
        try:
            await self._folder.fold(keep=1)
        except (*Lost, Refused, KazooException) as error:
            raise StoreError(f"store {self.location}: cannot be compacted: {error!r}") from error

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Session]:
        """A session of its own, for when the store is not open. Raises StoreError when there is no connection."""
        session = Session(self._settings)
        session.start()
        try:
            async with asyncio.timeout(VISIT):
                await session.connected()
            yield session
        except (TimeoutError, KazooException) as error:
            raise StoreError(f"store {self.location}: {session.trouble or repr(error)}") from error
        finally:
            await session.stop()

    async def exists(self) -> bool:
        async with self._visit() as session:
            return await session.exists(self._paths.layout) is not None

    async def destroy(self) -> None:
        await self.close()
        async with self._visit() as session:
            await layout.remove(session, self._paths.root)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._tailing is not None:
            await _cancelled(self._tailing)
        if self._pipeline is not None:
            await self._pipeline.close(CLOSING)
        if self._folder is not None:
            await self._folder.close()
        self._cache.close()
        await self._session.stop()

    # ---- reading

    def get(self, key: Key) -> Entry | None:
        return self._cache.get(key)

    def list(self, resource: str, namespace: str = "") -> tuple[Entries, int]:
        return self._cache.list(resource, namespace)

    def watch(self, resource: str, namespace: str = "", since: int | None = None) -> CachedWatch:
        return self._cache.watch(resource, namespace, since)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
