"""The `conditions` list of a status: find one, set one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from shared.models.times import rfc3339


def find_condition(conditions: Iterable[Mapping[str, Any]] | None, kind: str) -> Mapping[str, Any] | None:
    """The condition of that type, or None."""
    return next((one for one in conditions or () if one.get("type") == kind), None)


def is_true(conditions: Iterable[Mapping[str, Any]] | None, kind: str) -> bool:
    """Whether the condition is there with status True."""
    found = find_condition(conditions, kind)
    return found is not None and found.get("status") == "True"


def set_condition(
    conditions: Iterable[Mapping[str, Any]] | None,
    kind: str,
    status: str,
    now: datetime,
    *,
    reason: str = "",
    message: str = "",
) -> list[dict[str, Any]]:
    """A new list with the condition set; lastTransitionTime moves only when `status` changes."""
    kept = [dict(one) for one in conditions or ()]
    condition: dict[str, Any] = {"type": kind, "status": status, "lastTransitionTime": rfc3339(now)}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    for index, old in enumerate(kept):
        if old.get("type") == kind:
            if old.get("status") == status and old.get("lastTransitionTime"):
                condition["lastTransitionTime"] = old["lastTransitionTime"]
            kept[index] = condition
            return kept
    return [*kept, condition]
