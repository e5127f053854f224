"""Group commit: runs change functions at once, makes what they return durable in batches, then publishes.

    commit() ─ functions run on the newest state ─▶ open batch ─▶ write(batch) ─▶ cache.apply ─▶ callers wake
                                                     ▲ everything that arrives while one is written

A disk does some hundred flushes a second, so what arrives during a flush shares the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from scheduler.store.base import (
    OBJECT_LIMIT,
    Change,
    Entry,
    Key,
    Results,
    StoreFailed,
    TooLarge,
    Unchanged,
    WatchEvent,
)
from scheduler.store.cache import Cache


@dataclass
class Batch:
    """Changes that become durable together. `state` is the last word on each key: None deletes."""

    done: asyncio.Future[None]
    events: list[WatchEvent] = field(default_factory=list)
    state: dict[Key, Entry | None] = field(default_factory=dict)
    version: int = 0


class Pipeline:
    """See the module. `write` makes one batch durable or raises StoreFailed, which is final."""

    def __init__(self, cache: Cache, write: Callable[[Batch], Awaitable[None]]) -> None:
        self._cache = cache
        self._write = write
        self._version = cache.version
        self._open: Batch | None = None
        self._in_flight: Batch | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self.failure: StoreFailed | None = None
        self._task = asyncio.create_task(self._run(), name="store writer")

    async def commit(self, *changes: Change) -> Results:
        """As `Store.commit`."""
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise StoreFailed("the store is closed")
        events, results = self._evaluate(changes)
        batch = self._add(events)
        if batch is not None:
            # The shield: when the caller is cancelled its commit goes on, and others share the future.
            await asyncio.shield(batch.done)
        return results

    def _evaluate(self, changes: tuple[Change, ...]) -> tuple[list[WatchEvent], Results]:
        events: list[WatchEvent] = []
        results: Results = []
        mine: dict[Key, Entry | None] = {}
        version = self._version
        for key, update in changes:
            old = mine[key] if key in mine else self._newest(key)
            new = update(old)
            if isinstance(new, Unchanged) or _same(old, new):
                results.append(old)
                continue
            version += 1
            event = _event(key, old, new, version)
            events.append(event)
            mine[key] = None if event.type == "DELETED" else event.entry
            results.append(mine[key])
        return events, results

    def _newest(self, key: Key) -> Entry | None:
        for batch in (self._open, self._in_flight):
            if batch is not None and key in batch.state:
                return batch.state[key]
        return self._cache.get(key)

    def _add(self, events: list[WatchEvent]) -> Batch | None:
        if not events:
            # Nothing to write, but the answer may rest on a commit in flight: wait for that one.
            return self._open or self._in_flight
        if self._open is None:
            self._open = Batch(asyncio.get_running_loop().create_future())
            self._wake.set()
        for event in events:
            self._open.state[event.entry.key] = None if event.type == "DELETED" else event.entry
        self._open.events.extend(events)
        self._open.version = self._version = events[-1].entry.version
        return self._open

    async def _run(self) -> None:
        while not (self._closing and self._open is None):
            if self._open is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._in_flight, self._open = self._open, None
            try:
                await self._write(self._in_flight)
            except StoreFailed as error:
                self._fail(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever broke the writer, nobody may wait for ever
                self._fail(StoreFailed(f"the store's writer broke: {error!r}; no more changes are taken"))
                return
            self._cache.apply(self._in_flight.events, self._in_flight.version)
            self._in_flight.done.set_result(None)
            self._in_flight = None

    def _fail(self, error: StoreFailed) -> None:
        self.failure = error
        for batch in (self._in_flight, self._open):
            if batch is not None:
                batch.done.set_exception(error)
                batch.done.exception()  # marks it as seen: callers may have been cancelled
        self._in_flight = self._open = None

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        await self._task


def _same(old: Entry | None, new: dict[str, Any] | None) -> bool:
    if old is None or new is None:
        return old is None and new is None
    if new is old.obj:
        return True
    if old.obj.keys() != new.keys() | {"metadata"}:
        return False
    if any(new[name] != old.obj[name] for name in new if name != "metadata"):
        return False
    before, after = dict(old.obj["metadata"]), dict(new.get("metadata") or {})
    before.pop("resourceVersion", None)
    after.pop("resourceVersion", None)
    return before == after


def _event(key: Key, old: Entry | None, new: dict[str, Any] | None, version: int) -> WatchEvent:
    if new is not None:
        made = entry(key, new, version)
        if len(made.raw) > OBJECT_LIMIT:
            raise TooLarge(key, len(made.raw))
        return WatchEvent("ADDED" if old is None else "MODIFIED", made, old)
    assert old is not None
    return WatchEvent("DELETED", entry(key, old.obj, version), old)


def entry(key: Key, obj: dict[str, Any], version: int) -> Entry:
    """The object under a new version; `obj` itself is not changed."""
    stamped = {**obj, "metadata": {**(obj.get("metadata") or {}), "resourceVersion": str(version)}}
    return Entry(key, stamped, version, orjson.dumps(stamped))
