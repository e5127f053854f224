"""The durable, watchable truth: one contract, `base.Store`; `open_store` picks the implementation by URL."""

from __future__ import annotations

import argparse
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
    Rewrite,
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
from scheduler.store.vault import Vault
from scheduler.store.zookeeper import ZooKeeperStore
from shared.security.atrest import KeyRing
from shared.zookeeper.settings import settings_from

__all__ = [
    "OBJECT_LIMIT",
    "UNCHANGED",
    "Change",
    "Entry",
    "Expired",
    "Fenced",
    "Key",
    "NotLeading",
    "Rewrite",
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

USAGE = "sqlite:PATH or zk://HOST:PORT,…/PATH"

CLUSTER = "gantry"
"""Of a scheduler that is not told another."""


def open_store(
    url: str,
    *,
    arguments: argparse.Namespace | None = None,
    ring: KeyRing | None = None,
    cluster: str = CLUSTER,
) -> Store:
    """The store a URL names, not yet opened: `sqlite:PATH` or `zk://HOSTS/PATH`. Raises StoreError for anything else.

    `arguments`: with the flags of `shared.zookeeper.settings`; `ring`: what Secrets are encrypted with; `cluster`:
    whose state it is, where several could share a ZooKeeper.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        return SqliteStore(Path(rest), vault=Vault(ring))
    if scheme == "zk":
        try:
            return ZooKeeperStore(settings_from(url, arguments), cluster=cluster, vault=Vault(ring))
        except ValueError as error:
            raise StoreError(f"store: {error}") from error
    if not colon or scheme == "sqlite":
        raise StoreError(f"store {url!r}: not a store URL; use {USAGE}, for example sqlite:gantry.db")
    raise StoreError(f"store {url}: unknown kind {scheme!r}; use {USAGE}")
