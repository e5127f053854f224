"""The durable, watchable truth: one contract, `base.Store`; `open_store` picks the implementation by URL."""

from __future__ import annotations

from pathlib import Path

from scheduler.store.base import (
    OBJECT_LIMIT,
    UNCHANGED,
    Change,
    Entry,
    Expired,
    Fenced,
    Key,
    NotLeading,
    SlowReader,
    Store,
    StoreError,
    StoreFailed,
    TooLarge,
    Unavailable,
    Unchanged,
    Update,
    Watch,
    WatchEvent,
)
from scheduler.store.sqlite import SqliteStore

__all__ = [
    "OBJECT_LIMIT",
    "UNCHANGED",
    "Change",
    "Entry",
    "Expired",
    "Fenced",
    "Key",
    "NotLeading",
    "SlowReader",
    "Store",
    "StoreError",
    "StoreFailed",
    "TooLarge",
    "Unavailable",
    "Unchanged",
    "Update",
    "Watch",
    "WatchEvent",
    "open_store",
]


def open_store(url: str) -> Store:
    """The store a URL names, not yet opened: `sqlite:PATH`. Raises StoreError for anything else."""
    scheme, colon, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        return SqliteStore(Path(rest))
    if scheme == "zk":
        raise StoreError(f"store {url}: ZooKeeper stores are not available yet; use sqlite:PATH")
    if not colon or scheme == "sqlite":
        raise StoreError(f"store {url!r}: not a store URL; use sqlite:PATH, for example sqlite:gantry.db")
    raise StoreError(f"store {url}: unknown kind {scheme!r}; use sqlite:PATH")
