"""The committed state in memory: what readers see, its recent history, and the watches on it.

Stores share it: they differ only in how a commit becomes durable. It lives on one event loop, so a reader
that lists and then watches without awaiting in between misses nothing.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncIterator, Iterable

from scheduler.store.base import Entries, Entry, Expired, Key, SlowReader, WatchEvent

HISTORY = 10_000
"""Events kept for watches that resume."""

BACKLOG = 20_000
"""Events a watch may be behind before it is closed; above HISTORY, so a resumed watch always starts."""


class CachedWatch:
    """One reader's queue (implements `base.Watch`)."""

    def __init__(self, cache: Cache, resource: str, namespace: str, limit: int) -> None:
        self._cache = cache
        self.resource = resource
        self.namespace = namespace
        self._limit = limit
        self._events: deque[WatchEvent] = deque()
        self._ready = asyncio.Event()
        self._closed = False
        self._overflowed = False

    def push(self, event: WatchEvent) -> None:
        if self.namespace and event.entry.key.namespace != self.namespace:
            return
        if len(self._events) >= self._limit:
            self.expire()
            return
        self._events.append(event)
        self._ready.set()

    def expire(self) -> None:
        """The reader has missed changes; it is told so."""
        self._events.clear()
        self._overflowed = True
        self.close()

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        return self

    async def __anext__(self) -> WatchEvent:
        await self._wait()
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    async def batch(self) -> list[WatchEvent]:
        await self._wait()
        return self.take()

    def take(self) -> list[WatchEvent]:
        self._check()
        events = list(self._events)
        self._events.clear()
        return events

    async def _wait(self) -> None:
        while not self._events and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        self._check()

    def _check(self) -> None:
        if self._overflowed:
            raise SlowReader(
                f"the reader of {self.resource} was more than {self._limit} changes behind, or all was read anew"
            )

    def close(self) -> None:
        self._closed = True
        self._cache.forget(self)
        self._ready.set()


class Cache:
    """See the module. `load` once, then `apply` what was committed."""

    def __init__(self, *, history: int = HISTORY, backlog: int = BACKLOG) -> None:
        self.version = 0
        self._objects: dict[str, dict[tuple[str, str], Entry]] = {}
        self._order: dict[str, list[tuple[str, str]]] = {}
        self._history: deque[WatchEvent] = deque()
        self._history_limit = history
        self._backlog = backlog
        self._horizon = 0
        self._watches: dict[str, dict[CachedWatch, None]] = {}

    def load(self, entries: Iterable[Entry], version: int) -> None:
        """Everything, instead of what there was. Watches that were there have missed something: they expire."""
        for watches in tuple(self._watches.values()):
            for watch in tuple(watches):
                watch.expire()
        self._objects.clear()
        self._history.clear()
        for entry in entries:
            self._objects.setdefault(entry.key.resource, {})[entry.key[1:]] = entry
        self._order = {resource: sorted(objects) for resource, objects in self._objects.items()}
        self.version = self._horizon = version

    def get(self, key: Key) -> Entry | None:
        return self._objects.get(key.resource, {}).get(key[1:])

    def list(self, resource: str, namespace: str = "") -> tuple[Entries, int]:
        objects, order = self._objects.get(resource, {}), self._order.get(resource, [])
        if namespace:
            # The next possible string after a namespace is that with "\0" added: this cuts out its names.
            order = order[bisect_left(order, (namespace, "")) : bisect_left(order, (namespace + "\0", ""))]
        return [objects[name] for name in order], self.version

    def apply(self, events: Iterable[WatchEvent], version: int) -> None:
        """Makes a commit visible, all of it before any reader runs."""
        for event in events:
            self._put(event)
            self._history.append(event)
            if len(self._history) > self._history_limit:
                self._horizon = self._history.popleft().entry.version
            for watch in tuple(self._watches.get(event.entry.key.resource, ())):
                watch.push(event)
        self.version = version

    def _put(self, event: WatchEvent) -> None:
        key = event.entry.key
        objects = self._objects.setdefault(key.resource, {})
        order = self._order.setdefault(key.resource, [])
        if event.type == "DELETED":
            del objects[key[1:]]
            del order[bisect_left(order, key[1:])]
            return
        if key[1:] not in objects:
            insort(order, key[1:])
        objects[key[1:]] = event.entry

    def watch(self, resource: str, namespace: str = "", since: int | None = None) -> CachedWatch:
        if since is not None and since < self._horizon:
            raise Expired(f"too old resource version: {since} ({self._horizon})")
        if since is not None and since > self.version:
            raise Expired(f"resource version {since} was never reached, the newest is {self.version}")
        watch = CachedWatch(self, resource, namespace, self._backlog)
        for event in self._after(self.version if since is None else since):
            if event.entry.key.resource == resource:
                watch.push(event)
        self._watches.setdefault(resource, {})[watch] = None
        return watch

    def _after(self, since: int) -> deque[WatchEvent]:
        events: deque[WatchEvent] = deque()
        for event in reversed(self._history):
            if event.entry.version <= since:
                break
            events.appendleft(event)
        return events

    def forget(self, watch: CachedWatch) -> None:
        self._watches.get(watch.resource, {}).pop(watch, None)

    def close(self) -> None:
        for watches in tuple(self._watches.values()):
            for watch in tuple(watches):
                watch.close()
