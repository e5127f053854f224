"""A commit, or the trial of one (`dryRun=All`): every check is made, nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.api.context import Api
from scheduler.store import Change, Entry, Unchanged


class _DryRun(Exception):
    """Aborts a commit that was only to be tried."""


async def commit(api: Api, changes: Sequence[Change], *, dry_run: bool) -> Entry | None:
    """The entry the last change led to; None when it deleted, or when nothing was stored."""
    if not dry_run:
        return (await api.store.commit(*changes))[-1]
    try:
        await api.store.commit(*changes, (changes[-1][0], _abort))
    except _DryRun:
        return None
    raise AssertionError("the trial's last change aborts")


def _abort(entry: Entry | None) -> Unchanged:
    raise _DryRun
