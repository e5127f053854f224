"""Group commit: runs change functions at once, makes what they return durable in batches, then publishes.

    commit() ─ functions run on the newest state ─▶ open batch ─▶ write(batch) ─▶ cache.apply ─▶ callers wake
                                                     ▲ everything that arrives while one is written

A disk does some hundred flushes a second, so what arrives during a flush shares the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from scheduler.store.base import (
    HARD_LIMIT,
    OBJECT_LIMIT,
    Change,
    Entry,
    Key,
    Results,
    Rewrite,
    StoreError,
    StoreFailed,
    TooLarge,
    Unavailable,
    Unchanged,
    WatchEvent,
)
from scheduler.store.cache import Cache

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """Changes that become durable together. `state` is the last word on each key: None deletes."""

    first: int
    events: list[WatchEvent] = field(default_factory=list)
    state: dict[Key, Entry | None] = field(default_factory=dict)
    version: int = 0
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _patient: list[asyncio.Future[None]] = field(default_factory=list)
    _stalled: StoreError | None = None
    _settled: bool = False
    _error: StoreError | None = None

    async def settled(self, *, patient: bool = False) -> None:
        """Waits until the batch is through, or, unless `patient`, stalled. A future for each caller: one that is
        cancelled does not bother the others."""
        if not self._settled and (patient or self._stalled is None):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._patient if patient else self._waiting).append(future)
            await future
        if self._settled and self._error is not None:
            raise self._error
        if not self._settled and self._stalled is not None:
            raise self._stalled

    def stall(self, error: StoreError) -> None:
        """Tells those who don't want to wait any longer."""
        self._stalled = error
        _wake(self._waiting)

    def settle(self, error: StoreError | None = None) -> None:
        """Tells everybody, once."""
        if self._settled:
            return
        self._settled, self._error = True, error
        _wake(self._waiting)
        _wake(self._patient)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
    futures.clear()


class Pipeline:
    """See the module. `write` makes one batch durable or raises StoreFailed, which is final. When that takes more than
    `patience` seconds, callers are told Unavailable (with `why`), and all others at once, until it is through.
    `quarantined` are keys whose stored objects cannot be read: there they are none, but deleting them is a change."""

    def __init__(
        self,
        cache: Cache,
        write: Callable[[Batch], Awaitable[None]],
        *,
        patience: float | None = None,
        why: Callable[[], str] = lambda: "",
        quarantined: dict[Key, str] | None = None,
    ) -> None:
        self._cache = cache
        self._write = write
        self._patience = patience
        self._why = why
        self._quarantined = {} if quarantined is None else quarantined
        self._version = cache.version
        self._open: Batch | None = None
        self._in_flight: Batch | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._stalled = False
        self.failure: StoreFailed | None = None
        self._task = asyncio.create_task(self._run(), name="store writer")

    async def commit(self, *changes: Change, patient: bool = False) -> Results:
        """As `Store.commit`."""
        while True:
            if self.failure is not None:
                raise self.failure
            if self._closing:
                raise StoreFailed("the store is closed")
            if self._stalled:
                if not patient:
                    raise self._unavailable()
                assert self._in_flight is not None
                await self._in_flight.settled(patient=True)
                continue
            batch, results = self._evaluate(changes, HARD_LIMIT if patient else OBJECT_LIMIT)
            if batch is None:
                return results
            try:
                await batch.settled(patient=patient)
            except Unavailable:
                if not patient:
                    raise
                continue  # it was given up before it was sent
            return results

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"nothing can be written at the moment: {self._why() or 'the store does not answer'}"
        )

    def _evaluate(self, changes: tuple[Change, ...], limit: int) -> tuple[Batch | None, Results]:
        events: list[WatchEvent] = []
        results: Results = []
        mine: dict[Key, Entry | None] = {}
        version = self._version
        for key, update in changes:
            old = mine[key] if key in mine else self._newest(key)
            new = update(old)
            if old is None and new is None and key in self._quarantined and key not in mine:
                version += 1
                mine[key] = None
                results.append(None)
                continue
            if isinstance(new, Unchanged) or _same(old, new):
                results.append(old)
                continue
            version += 1
            event = _event(key, old, new, version)
            if len(event.entry.raw) > limit and event.type != "DELETED":
                raise TooLarge(key, len(event.entry.raw), limit)
            events.append(event)
            mine[key] = None if event.type == "DELETED" else event.entry
            results.append(mine[key])
        return self._add(events, mine, version), results

    def _newest(self, key: Key) -> Entry | None:
        for batch in (self._open, self._in_flight):
            if batch is not None and key in batch.state:
                return batch.state[key]
        return self._cache.get(key)

    def _add(self, events: list[WatchEvent], state: dict[Key, Entry | None], version: int) -> Batch | None:
        if not state:
            # Nothing to write, but the answer may rest on a commit in flight: wait for that one.
            return self._open or self._in_flight
        if self._open is None:
            self._open = Batch(self._version + 1)
            self._wake.set()
        self._open.state |= state
        self._open.events.extend(events)
        self._open.version = self._version = version
        return self._open

    async def _run(self) -> None:
        while not (self._closing and self._open is None):
            if self._open is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._in_flight, self._open = self._open, None
            timer = self._patience and asyncio.get_running_loop().call_later(self._patience, self._stall)
            try:
                await self._write(self._in_flight)
            except StoreFailed as error:
                logger.error("%s", error)
                self._fail(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever broke the writer, nobody may wait for ever
                self._fail(StoreFailed(f"the store's writer broke: {error!r}; no more changes are taken"))
                return
            finally:
                if timer:
                    timer.cancel()
            self._publish(self._in_flight)
            self._in_flight, self._stalled = None, False

    def _publish(self, batch: Batch) -> None:
        for key in self._quarantined.keys() & batch.state.keys():
            del self._quarantined[key]
        self._cache.apply(batch.events, batch.version)
        batch.settle()

    def _stall(self) -> None:
        """What is with the writer may still come true; what waits behind it is given up and never was."""
        self._stalled = True
        error = self._unavailable()
        if self._open is not None:
            self._open.settle(error)
            self._open = None
        if self._in_flight is not None:
            self._in_flight.stall(error)
            self._version = self._in_flight.version

    def _fail(self, error: StoreFailed) -> None:
        self.failure = error
        for batch in (self._in_flight, self._open):
            if batch is not None:
                batch.settle(error)
        self._in_flight = self._open = None

    async def close(self, limit: float | None = None) -> None:
        """Finishes what is in flight; after `limit` seconds gives it up."""
        self._closing = True
        self._wake.set()
        done, _ = await asyncio.wait([self._task], timeout=limit)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._fail(StoreFailed("the store is closed"))


def _same(old: Entry | None, new: dict[str, Any] | None) -> bool:
    if old is None or new is None:
        return old is None and new is None
    if new is old.obj:
        return True
    if isinstance(new, Rewrite):
        return False
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
        return WatchEvent("ADDED" if old is None else "MODIFIED", entry(key, new, version), old)
    assert old is not None
    return WatchEvent("DELETED", deletion(old, version), old)


def deletion(old: Entry, version: int) -> Entry:
    """The last object, under the version of its deletion."""
    return entry(old.key, old.obj, version)


def entry(key: Key, obj: dict[str, Any], version: int) -> Entry:
    """The object under a new version; `obj` itself is not changed."""
    stamped = {**obj, "metadata": {**(obj.get("metadata") or {}), "resourceVersion": str(version)}}
    # Copied, because what orjson returns keeps half again of its memory from others.
    return Entry(key, stamped, version, bytes(memoryview(orjson.dumps(stamped))))
