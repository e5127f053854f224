"""What of a FrameworkInfo can never change, and is therefore kept beside the framework id.

Mesos silently ignores another `user` or `checkpoint` in a re-subscription (`preserveImmutableFields`,
src/master/validation.cpp): a scheduler started with another one would believe what is not so. It does not start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scheduler.framework import records
from scheduler.store import UNCHANGED, Entry, Store, Unchanged

Json = dict[str, Any]

IMMUTABLE: Final = ("user", "checkpoint")


class IdentityChanged(Exception):
    """One line: which field, from what to what, and what to do."""


async def hold(store: Store, info: Mapping[str, Any]) -> None:
    """Compares a FrameworkInfo with the one that was registered; keeps it when there is none yet.

    Raises IdentityChanged and StoreFailed.
    """
    wanted = {name: info[name] for name in IMMUTABLE}

    def keep(old: Entry | None) -> Json | Unchanged:
        obj = dict(old.obj) if old else {"metadata": {"name": records.FRAMEWORK.name}}
        known = obj.get("immutable")
        if known is not None and obj.get("frameworkId"):
            _compare(known, wanted)
            return UNCHANGED
        return {**obj, "immutable": wanted}

    await store.commit((records.FRAMEWORK, keep), patient=True)


def check(store: Store, info: Mapping[str, Any]) -> None:
    """As `hold`, but only looks: for who may come to lead, and should not wait until then. Raises IdentityChanged."""
    record = store.get(records.FRAMEWORK)
    if record is not None and record.obj.get("frameworkId"):
        _compare(record.obj.get("immutable") or {}, {name: info[name] for name in IMMUTABLE})


def _compare(known: Json, wanted: Json) -> None:
    for name in IMMUTABLE:
        if name in known and known[name] != wanted[name]:
            raise IdentityChanged(
                f"the framework is registered with {name} {known[name]!r}, and Mesos would silently ignore "
                f"{wanted[name]!r}: start with {_flag(name, known[name])}"
            )


def _flag(name: str, value: object) -> str:
    return f"--{name} {value}" if name == "user" else f"a Gantry that has {name} {value!r}"
