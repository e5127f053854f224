"""What goes from a store into a file and from a file into a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.store import Key

BUMP = 1_000_000_000
"""By how much the version of a restored store is above that of its backup. Clients may have seen versions that were
given out after the backup was made; none of them may come again and mean another object."""


class Row(NamedTuple):
    """An object as a store keeps it: `blob` is its JSON, or what that was encrypted to."""

    key: Key
    version: int
    blob: bytes


@dataclass(frozen=True)
class Snapshot:
    """A store at one moment. `rows` can be gone through once. `cluster`: whose it is, "" when the store does not say.
    `damaged`: objects that cannot be read even as bytes, and are missing."""

    rows: Iterator[Row]
    count: int
    version: int
    cluster: str = ""
    damaged: tuple[str, ...] = ()
