"""The certificate authority that all schedulers of a store share, so that clients which trust one trust them all.

It is kept in the store, key and all: who may write there may do anything with the cluster as it is. A scheduler with a
store of its own needs none: it makes one for its one certificate and throws the key away (see `serving`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scheduler.store import UNCHANGED, Entry, Store, StoreError, Unchanged, Watch
from scheduler.store.vault import AUTHORITY
from shared.security.certificates import Authority, make_authority


def find(store: Store) -> Authority | None:
    """Raises StoreError for what is none."""
    entry = store.get(AUTHORITY)
    return None if entry is None else _read(entry.obj)


def watch(store: Store) -> Watch:
    """Changes when there may be one."""
    return store.watch(AUTHORITY.resource)


async def make(store: Store, now: datetime) -> Authority:
    """The one there is, or a new one. Raises StoreFailed."""
    made = make_authority(now)
    obj = {
        "metadata": {"name": AUTHORITY.name},
        "certificate": made.certificate.decode(),
        "privateKey": made.key.decode(),
    }

    def keep(old: Entry | None) -> dict[str, Any] | Unchanged:
        return obj if old is None else UNCHANGED

    (entry,) = await store.commit((AUTHORITY, keep), patient=True)
    assert entry is not None
    return _read(entry.obj)


def _read(obj: dict[str, Any]) -> Authority:
    try:
        return Authority(obj["certificate"].encode(), obj["privateKey"].encode())
    except (KeyError, AttributeError) as error:
        raise StoreError(f"the certificate authority in the store cannot be read: {error!r}") from error
