"""The embedded store: one SQLite file in write-ahead-log mode, every commit flushed to the disk.

One scheduler at a time: the file stays locked exclusively while it is open (which also spares SQLite its
shared-memory index). One thread writes; a batch costs a handful of calls however many objects it has,
because every call is a chance to wait for the interpreter lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import orjson

from scheduler.store.base import Change, Entries, Entry, Key, Results, StoreError, StoreFailed
from scheduler.store.cache import BACKLOG, HISTORY, Cache, CachedWatch
from scheduler.store.pipeline import Batch, Pipeline
from scheduler.store.vault import Unreadable, Vault, mark

logger = logging.getLogger(__name__)

LAYOUT = 1
"""Of the tables below, kept in the file's user_version. A newer one is refused, an older one migrated."""

APPLICATION_ID = 0x47414E54
"""Marks the file as ours ("GANT")."""

ROWS = 500
"""Rows a statement; SQLite allows 32,766 parameters, we use at most five a row."""

CHECKPOINT_IDLE = 1 << 20
CHECKPOINT_MUST = 64 << 20
"""Bytes of log after which it is folded into the file: when nothing is written, and in any case."""

IDLE = 0.5
"""Seconds without a write that count as nothing being written."""

SCHEMA = f"""
CREATE TABLE objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    version INTEGER NOT NULL, raw BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
);
CREATE TABLE state (only INTEGER PRIMARY KEY CHECK (only = 1), version INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT};
"""

T = TypeVar("T")


class SqliteStore:
    """`base.Store` on a file. `history` and `backlog` are counts of events, see `cache`."""

    def __init__(
        self, path: Path, *, vault: Vault | None = None, history: int = HISTORY, backlog: int = BACKLOG
    ) -> None:
        self.path = path
        self._vault = vault or Vault()
        self._cache = Cache(history=history, backlog=backlog)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._file: _File | None = None
        self._pipeline: Pipeline | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._quarantined: dict[Key, str] = {}

    @property
    def version(self) -> int:
        return self._cache.version

    @property
    def failure(self) -> StoreFailed | None:
        return self._pipeline.failure if self._pipeline else None

    @property
    def trouble(self) -> str:
        return ""

    @property
    def quarantined(self) -> Mapping[Key, str]:
        return self._quarantined

    @property
    def writable(self) -> bool:
        return self._pipeline is not None and self.failure is None

    async def lead(self, epoch: int) -> None:
        """Whoever has the file open is its one writer, so there is nothing to catch up with and no epoch."""
        if self._pipeline is None:
            raise StoreError(f"store {self.path} is not open")
        await mark(self, self._vault)

    async def lead_alone(self) -> None:
        await self.lead(0)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        file = _File(self.path, self._vault)
        try:
            entries, version, self._quarantined = await loop.run_in_executor(self._thread, file.open)
        except StoreError:
            self._thread.shutdown()
            raise
        self._file = file
        for key, why in self._quarantined.items():
            logger.error("%s is damaged and left out: %s", key, why)
        self._cache.load(entries, version)
        self._pipeline = Pipeline(self._cache, self._write, quarantined=self._quarantined)

    async def _write(self, batch: Batch) -> None:
        assert self._file is not None
        loop = asyncio.get_running_loop()
        if self._idle is not None:
            self._idle.cancel()
        if self._file.logged > CHECKPOINT_MUST:
            self._thread.submit(self._file.checkpoint)
        await loop.run_in_executor(self._thread, self._file.write, batch)
        if self._file.logged > CHECKPOINT_IDLE:
            self._idle = loop.call_later(IDLE, self._thread.submit, self._file.checkpoint)

    async def compact(self) -> None:
        if self._file is None:
            raise StoreError(f"store {self.path} is not open")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.compact)

    async def exists(self) -> bool:
        return self.path.exists()

    async def destroy(self) -> None:
        """The log file goes first: a database without its log is an old state, a log without its database is none."""
        await self.close()
        for path in (Path(f"{self.path}-wal"), Path(f"{self.path}-shm"), self.path):
            path.unlink(missing_ok=True)

    async def close(self) -> None:
        if self._pipeline is None or self._file is None:
            return
        await self._pipeline.close()
        if self._idle is not None:
            self._idle.cancel()
        self._cache.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._file = None
        self._thread.shutdown()

    def get(self, key: Key) -> Entry | None:
        return self._cache.get(key)

    def list(self, resource: str, namespace: str = "") -> tuple[Entries, int]:
        return self._cache.list(resource, namespace)

    async def commit(self, *changes: Change, patient: bool = False) -> Results:
        if self._pipeline is None:
            raise StoreFailed(f"store {self.path} is not open")
        return await self._pipeline.commit(*changes, patient=patient)

    def watch(self, resource: str, namespace: str = "", since: int | None = None) -> CachedWatch:
        return self._cache.watch(resource, namespace, since)


class _File:
    """The connection. All but the constructor runs in the store's thread."""

    def __init__(self, path: Path, vault: Vault) -> None:
        self._path = path
        self._vault = vault
        self._db: sqlite3.Connection | None = None
        self.logged = 0
        """About how many bytes the log holds that the file does not."""

    def open(self) -> tuple[list[Entry], int, dict[Key, str]]:
        try:
            return self._load()
        except StoreError:
            self.close()
            raise
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise _explain(self._path, error) from error

    def _load(self) -> tuple[list[Entry], int, dict[Key, str]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:  # it will hold secrets; O_EXCL, because closing an open file would drop SQLite's locks on it
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        self._db = db = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        self._check_layout(db)
        problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise _damaged(self._path, problem)
        db.execute("BEGIN IMMEDIATE")  # takes the lock now, not at the first write
        db.execute("COMMIT")
        self._fold()
        version = int(db.execute("SELECT version FROM state").fetchone()[0])
        # Closed in any case: while a cursor lives, in some traceback, the file stays locked.
        with closing(db.execute("SELECT resource, namespace, name, version, raw FROM objects")) as rows:
            entries, quarantined = self._entries(rows)
        return entries, version, quarantined

    def _entries(self, rows: Iterable[tuple[Any, ...]]) -> tuple[list[Entry], dict[Key, str]]:
        """What can be read, and why the rest cannot. Raises StoreError when an encryption key is missing."""
        entries: list[Entry] = []
        quarantined: dict[Key, str] = {}
        for resource, namespace, name, number, blob in rows:
            key = Key(resource, namespace, name)
            try:
                raw = self._vault.open(key, blob)
                orjson.loads(raw)
            except (Unreadable, orjson.JSONDecodeError, TypeError) as error:
                quarantined[key] = str(error)
            else:
                entries.append(Entry(key, None, number, raw))
        return entries, quarantined

    def _check_layout(self, db: sqlite3.Connection) -> None:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        layout = db.execute("PRAGMA user_version").fetchone()[0]
        empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if empty and not application:
            db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
        elif application != APPLICATION_ID:
            raise StoreError(f"store {self._path}: an SQLite file of another program; choose another path")
        elif layout > LAYOUT:
            raise StoreError(
                f"store {self._path}: has layout {layout}, this version of gantry knows up to {LAYOUT}; "
                "run the gantry that wrote it, or a newer one"
            )

    def write(self, batch: Batch) -> None:
        assert self._db is not None
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            for chunk in _chunks(_rows(batch, self._vault)):
                marks = ",".join(["(?,?,?,?,?)"] * len(chunk))
                db.execute(
                    f"INSERT OR REPLACE INTO objects VALUES {marks}", [v for row in chunk for v in row]
                )
            for keys in _chunks(key for key, entry in batch.state.items() if entry is None):
                marks = ",".join(["(?,?,?)"] * len(keys))
                where = f"(resource, namespace, name) IN (VALUES {marks})"
                db.execute(f"DELETE FROM objects WHERE {where}", [v for key in keys for v in key])
            db.execute("UPDATE state SET version = ?", (batch.version,))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreFailed(
                f"store {self._path}: cannot write: {error}; no more changes are taken until the scheduler is "
                "started again"
            ) from error
        self.logged += sum(len(e.raw) + 4096 for e in batch.state.values() if e is not None) + 8192

    def checkpoint(self) -> None:
        """Folds the log into the file."""
        if self._db is None:
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error:
            return  # the log still holds everything; the next write will say what is wrong
        self.logged = 0

    def _fold(self) -> None:
        """Folds what a killed process has left in the log, and gives its space back: a disk that the log has filled
        has room again."""
        assert self._db is not None
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            logger.warning("%s: its log is not folded into it yet: %s", self._path, error)

    def compact(self) -> None:
        """Writes the file anew: free pages still hold what was there. Raises StoreError."""
        assert self._db is not None
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise StoreError(f"store {self._path}: cannot be compacted: {error}") from error

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _rows(batch: Batch, vault: Vault) -> Iterator[tuple[str, str, str, int, bytes]]:
    for key, entry in batch.state.items():
        if entry is not None:
            yield (*key, entry.version, vault.seal(key, entry.raw))


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, ROWS)):
        yield chunk


def _damaged(path: Path, detail: object) -> StoreError:
    return StoreError(f"store {path}: the file is damaged ({detail}); restore a copy of it, or move it away")


def _explain(path: Path, error: Exception) -> StoreError:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return StoreError(f"store {path}: in use by another scheduler; stop that one or choose another path")
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return _damaged(path, error)
    return StoreError(f"store {path}: cannot be opened: {error}")
