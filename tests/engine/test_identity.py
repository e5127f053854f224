"""What of a FrameworkInfo must not change once it is registered."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.framework import records
from scheduler.framework.identity import IdentityChanged, hold
from scheduler.store import Store


@pytest.mark.parametrize(("name", "other"), [("user", "nobody"), ("checkpoint", False)])
async def test_trap_03_what_mesos_would_silently_ignore_is_refused(
    store: Store, name: str, other: Any
) -> None:
    """Another user or checkpoint in a re-subscription changes nothing, and says nothing."""
    info = {"user": "root", "checkpoint": True}
    await hold(store, {**info, name: other})  # never registered: it may still change
    await hold(store, info)
    await store.commit((records.FRAMEWORK, lambda old: {**(old.obj if old else {}), "frameworkId": "F1"}))
    await hold(store, info)
    with pytest.raises(
        IdentityChanged, match=f"registered with {name} .* silently ignore {other!r}: start with"
    ):
        await hold(store, {**info, name: other})
    await hold(store, info)
