"""What stands between an object's JSON and the bytes a store keeps: Secrets are encrypted, the rest is as it is.

A Secret that was written before there was a key is read as it is, and encrypted when it is next written. That the keys
are the right ones is known even before there is a Secret: an object of our own is encrypted, too (`MARK`).
"""

from __future__ import annotations

from scheduler.store.base import UNCHANGED, Change, Entry, Key, Rewrite, Store, StoreError, Unchanged
from shared.security.atrest import KeyRing, Tampered, UnknownKey, is_sealed, key_of

MARK = Key("meta.gantry.io", "", "encryption")

AUTHORITY = Key("meta.gantry.io", "", "certificate-authority")
"""With a private key in it."""

SECRETS = "secrets"


class Unreadable(Exception):
    """The stored bytes are not what was written; says why in a few words."""


class Vault:
    """`ring` is None where nothing is encrypted."""

    def __init__(self, ring: KeyRing | None = None) -> None:
        self.ring = ring

    def seal(self, key: Key, raw: bytes) -> bytes:
        return self.ring.seal(raw, _context(key)) if self.ring is not None and _secret(key) else raw

    def open(self, key: Key, blob: bytes) -> bytes:
        """The object's JSON. Raises Unreadable; StoreError when the key is missing, because then all is wrong."""
        if not (_secret(key) and is_sealed(blob)):
            return blob
        try:
            if self.ring is None:
                raise UnknownKey(key_of(blob))
            return self.ring.open(blob, _context(key))
        except UnknownKey as error:
            raise StoreError(
                f"the store's Secrets are encrypted with key {error.id}, which is not among those given; "
                "see --encryption-key-file"
            ) from error
        except Tampered as error:
            raise Unreadable(str(error)) from error


def _secret(key: Key) -> bool:
    return key.resource == SECRETS or key in (MARK, AUTHORITY)


def _context(key: Key) -> bytes:
    return "\0".join(key).encode()


async def mark(store: Store, vault: Vault) -> None:
    """Leaves an encrypted object in a store that leads, for whoever opens it with other keys."""
    if vault.ring is not None and store.get(MARK) is None:
        await store.commit(
            (MARK, lambda old: UNCHANGED if old else {"metadata": {"name": MARK.name}}), patient=True
        )


def rewriting(key: Key) -> Change:
    """A change that writes an object again as it is."""

    def same(old: Entry | None) -> Rewrite | Unchanged:
        return UNCHANGED if old is None else Rewrite(old.obj)

    return key, same
