"""The contract of a store: versioned JSON objects, atomic durable commits, watches.

A store is the truth of the control plane. It keeps every object in memory as well, so reads never wait; a
write returns when it is durable. What it is not: it knows no Kubernetes kinds, no defaults, no validation.

One growing integer, the version, numbers every change of every object. It is what Kubernetes calls the
resourceVersion (concepts: "Resource Versions" in the Kubernetes API reference).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson


class StoreError(Exception):
    """A store cannot be opened or used; the message is one line that says what to do."""


class StoreFailed(StoreError):
    """A write could not be made durable. The store takes no more writes; what it has can still be read."""


class Fenced(StoreFailed):
    """Somebody else leads now: the write was refused, and so will all others be. Nothing of it was done."""


class NotLeading(StoreError):
    """A write to a store that only follows: `lead` was not called yet. Nothing of it was done."""


class Unavailable(StoreError):
    """The write could not be made durable in time; what keeps the state does not answer. It will pass.

    A write that was refused at once was not done. Of one that had to wait nobody knows until the store is back.
    """


class TooLarge(StoreError):
    """An object is larger than a store can keep. Nothing of the commit was done."""

    def __init__(self, key: Key, size: int, limit: int) -> None:
        super().__init__(f"{key}: the object is {size} bytes of JSON, the limit is {limit} bytes")
        self.size = size


OBJECT_LIMIT = (1 << 20) - (64 << 10)
"""Bytes of JSON. What a ZooKeeper takes at once is 1 MiB (jute.maxbuffer)."""

HARD_LIMIT = (1 << 20) - (2 << 10)
"""For patient callers: the status of what a user could create must find room, too."""


class Expired(Exception):
    """The history no longer reaches back to the version asked for: list again and watch from there."""


class SlowReader(Expired):
    """A watch was closed because its reader let too many changes pile up."""


class Key(NamedTuple):
    """Where an object lives. `resource` is "pods" or "deployments.apps"; `namespace` may be ""."""

    resource: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Entry:
    """One version of one object; never changes. `obj` is shared by all readers and must never be changed.

    `raw` is `obj` as JSON (UTF-8); `obj["metadata"]["resourceVersion"]` is `str(version)`. Parsed, an object takes some
    ten times as much memory, so that is kept only of those that were looked at last.
    """

    __slots__ = ("_obj", "key", "raw", "version")

    def __init__(self, key: Key, obj: dict[str, Any] | None, version: int, raw: bytes) -> None:
        """`obj` None: to be parsed when it is asked for."""
        self.key = key
        self.version = version
        self.raw = raw
        self._obj = obj
        if obj is not None:
            self._remember()

    @property
    def obj(self) -> dict[str, Any]:
        found = self._obj
        if found is None:
            found = self._obj = orjson.loads(self.raw)
            self._remember()
        return found

    def _remember(self) -> None:
        if len(_parsed) == PARSED:
            _parsed.popleft()._obj = None
        _parsed.append(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return (self.key, self.version, self.raw) == (other.key, other.version, other.raw)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Entry({self.key}, {self.version})"


PARSED = 2048
"""Entries that are kept parsed, of all stores in the process."""

_parsed: deque[Entry] = deque()


class Unchanged(Enum):
    """What a change function returns to keep the object as it is."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


class Rewrite(dict[str, Any]):
    """What a change function returns to have an object written even though it is equal to the old one."""


Update = Callable[[Entry | None], dict[str, Any] | Unchanged | None]
"""Given the newest entry (None: no such object) returns the new object, None to delete, UNCHANGED to keep."""

Change = tuple[Key, Update]

Entries = list[Entry]
Results = list[Entry | None]
"""Named, because inside a class that has a method `list` that word no longer means the type."""

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change that is committed. For DELETED, `entry` is the last object under the version of its deletion.

    `encoded` belongs to the readers: bytes they made of this event, so that the next reader need not.
    """

    type: EventType
    entry: Entry
    previous: Entry | None
    encoded: dict[object, bytes] = field(default_factory=dict, compare=False, repr=False)


class Watch(Protocol):
    """A stream of changes in the order of their versions. Ends when it or the store is closed."""

    def __aiter__(self) -> AsyncIterator[WatchEvent]: ...

    async def __anext__(self) -> WatchEvent:
        """The next change. Raises StopAsyncIteration when closed, SlowReader when too much piled up."""
        ...

    async def batch(self) -> list[WatchEvent]:
        """Waits for a change, returns all there are; [] when closed. Raises SlowReader. Safe to cancel."""
        ...

    def take(self) -> list[WatchEvent]:
        """All changes there are, without waiting. Raises SlowReader."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """See the module. All calls belong to the event loop that called `open`."""

    @property
    def version(self) -> int:
        """The version of the newest committed change."""
        ...

    @property
    def failure(self) -> StoreFailed | None:
        """Why the store takes no more writes, once it does not."""
        ...

    @property
    def trouble(self) -> str:
        """One line on what is the matter and will pass by itself: no connection to the servers. "" when all is well."""
        ...

    @property
    def quarantined(self) -> Mapping[Key, str]:
        """Objects that cannot be read, and why. They are in no list, and are repaired by writing or deleting them."""
        ...

    @property
    def writable(self) -> bool:
        """Whether `commit` may be called: the store leads and has not failed."""
        ...

    async def open(self) -> None:
        """Loads everything; waits for servers that are not there yet. From then on the store follows: what another
        writer commits appears in get, list and watch, in order. Raises StoreError."""
        ...

    async def lead(self, epoch: int) -> None:
        """Catches up with all that was ever committed; from then on `commit` works, and no other store's with a lower
        epoch does. Raises StoreError; Fenced when `epoch` is not the newest."""
        ...

    async def close(self) -> None:
        """Finishes the commits in flight, ends all watches."""
        ...

    async def compact(self) -> None:
        """Leaves nothing behind of what was overwritten or deleted, as far as it can. Raises StoreError."""
        ...

    async def exists(self) -> bool:
        """Whether there is anything to open; without, `open` begins a new store. Raises StoreError."""
        ...

    async def destroy(self) -> None:
        """Closes an open store and removes all that it kept. Only uninstalling does that. Raises StoreError."""
        ...

    def get(self, key: Key) -> Entry | None:
        """The committed object."""
        ...

    def list(self, resource: str, namespace: str = "") -> tuple[Entries, int]:
        """Committed objects by (namespace, name), all namespaces when "", and the version of the list."""
        ...

    async def lead_alone(self) -> None:
        """For a command that writes while no scheduler runs: leads, unless one does. Raises StoreError."""
        ...

    async def commit(self, *changes: Change, patient: bool = False) -> Results:
        """Applies all changes or none; durable when it returns.

        The functions are called at once, in order, with the newest state, commits in flight included; they
        must not change what they are given. An exception from one aborts the commit and propagates. An object
        that comes back equal (its resourceVersion aside) is not written. Returns what each change led to: the
        entry, or None when it is gone. Cancelling the caller does not undo a commit. A `patient` caller waits for as
        long as the store is away. Raises TooLarge, NotLeading, Unavailable, and StoreFailed, which is final.
        """
        ...

    def watch(self, resource: str, namespace: str = "", since: int | None = None) -> Watch:
        """Changes after version `since` (None: after now). Raises Expired when the history is too short."""
        ...
