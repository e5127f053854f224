"""`gantry rotate-keys`: every Secret in the store is encrypted anew, with the first of the keys that are given.

Not a part of the scheduler: it runs while none does, because a scheduler that does not have the new key yet could not
go on.
"""

from __future__ import annotations

import argparse
import asyncio
import os

from scheduler import exitcodes, oneshot
from scheduler.config import ring_of
from scheduler.flags import UsageError, rotation_parser, zookeeper_of
from scheduler.store import StoreError, open_store
from scheduler.store.vault import AUTHORITY, MARK, SECRETS, rewriting
from shared.zookeeper.location import hide

ABOUT = (
    "Encrypt every Secret in the store anew, with the first key of --encryption-key-file. Put the new key first and "
    "keep the old ones until this is done; then they can go. Secrets that were never encrypted are encrypted, too. "
    "Stop the schedulers first: what runs is not touched."
)
EPILOG = "exit codes: 0 done; 2 bad flags or files; 4 the store cannot be used"

AT_ONCE = 100
"""Secrets a commit."""


def main(argv: list[str]) -> int:
    """Returns the exit code (see EPILOG)."""

    def work() -> str:
        return asyncio.run(_rotate(rotation_parser(ABOUT, EPILOG).parse_args(argv)))

    return oneshot.run(work, {UsageError: exitcodes.USAGE, StoreError: exitcodes.STORE})


async def _rotate(args: argparse.Namespace) -> str:
    ring = ring_of(args, os.environ)
    if ring is None:
        raise UsageError("--encryption-key-file: give the keys, the new one first")
    zookeeper_of(args)  # or UsageError
    store = open_store(args.store, arguments=args, ring=ring, cluster=args.cluster_id)
    if not await store.exists():
        raise StoreError(
            f"store {hide(args.store)}: there is none; is it the one that the scheduler was given?"
        )
    await store.open()
    try:
        await store.lead_alone()
        keys = [entry.key for entry in store.list(SECRETS)[0]]
        for at in range(0, len(keys), AT_ONCE):
            await store.commit(*map(rewriting, keys[at : at + AT_ONCE]))
        await store.commit(rewriting(MARK), rewriting(AUTHORITY))
        await store.compact()
    finally:
        await store.close()
    return f"{len(keys)} Secrets are encrypted with key {ring.first}; no other key is needed any more"
