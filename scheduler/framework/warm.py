"""What a scheduler that may come to lead has read ahead: pods and tasks, as the engine will want them.

Reading 100,000 pods takes seconds. A follower does it beforehand, a few at a time and behind the changes; what it has
not read again since an object changed is read when it is wanted. So it is never wrong, only more or less of use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import orjson

from scheduler.framework import records
from scheduler.framework.core.entities import Pod, Task
from scheduler.framework.core.pods import pod_from_object
from scheduler.store import Entry, Expired, Key, Store, StoreError

PAUSE = 0.5
"""Seconds between two looks at what changed: an object that changes several times is read once."""

AT_ONCE = 50
"""Objects read before others have their turn: about a millisecond."""

BREATH = 0.005
"""Seconds that others have then."""

T = TypeVar("T")


class Shelf(Generic[T]):
    """Objects of one kind by key, each with the version it was read from."""

    def __init__(self, resource: str, read: Callable[[bytes], T]) -> None:
        self.resource = resource
        self._read = read
        self._kept: dict[Key, tuple[int, T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, entry: Entry) -> T:
        """As it is in this entry. Raises what reading raises."""
        kept = self._kept.get(entry.key)
        return kept[1] if kept is not None and kept[0] == entry.version else self._read(entry.raw)

    def take(self, entry: Entry) -> T:
        """As `get`, for the last time: what is kept of it makes room."""
        found = self.get(entry)
        self._kept.pop(entry.key, None)
        return found

    async def keep(self, entries: Iterable[Entry]) -> None:
        """Reads what is not read yet, in small steps."""
        count = 0
        for entry in entries:
            kept = self._kept.get(entry.key)
            if kept is None or kept[0] != entry.version:
                try:
                    self._kept[entry.key] = (entry.version, self._read(entry.raw))
                except StoreError:
                    self._kept.pop(entry.key, None)  # whoever wants it is told
                count += 1
                if count % AT_ONCE == 0:
                    await asyncio.sleep(BREATH)

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._kept.pop(key, None)

    async def follow(self, store: Store) -> None:
        """Until the store closes."""
        while True:
            watch = store.watch(self.resource)
            try:
                entries = store.list(self.resource)[0]
                await self.keep(entries)
                self.drop(self._kept.keys() - {entry.key for entry in entries})
                while batch := await watch.batch():
                    keys = {event.entry.key for event in batch}
                    found = {key: entry for key in keys if (entry := store.get(key)) is not None}
                    self.drop(keys - found.keys())
                    await self.keep(found.values())
                    await asyncio.sleep(PAUSE)
                return
            except Expired:
                continue  # it fell behind: what did not change is kept
            finally:
                watch.close()


class Warm:
    """See the module. `follow` it until it is wanted."""

    def __init__(self) -> None:
        self.pods: Shelf[Pod] = Shelf("pods", lambda raw: pod_from_object(orjson.loads(raw)))
        self.tasks: Shelf[Task] = Shelf(
            records.TASKS, lambda raw: records.task_from_object(orjson.loads(raw))
        )

    async def follow(self, store: Store) -> None:
        """Until cancelled, or the store closes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.follow(store), name="reading pods ahead")
            group.create_task(self.tasks.follow(store), name="reading tasks ahead")
