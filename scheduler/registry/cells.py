"""Cells of a Table: durations, ages, names, as kube-apiserver prints them."""

from __future__ import annotations

from datetime import datetime

from scheduler.registry.resource import Column
from shared.models.times import parse_time

NAME = Column("Name", format="name", description="Name of the object.")
AGE = Column("Age", description="Time since its creation.")

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def age(timestamp: str | None, now: datetime) -> str:
    """`5s`, `3m20s`, `2d4h`; `<unknown>` without a timestamp."""
    if not timestamp:
        return "<unknown>"
    return human_duration((now - parse_time(timestamp)).total_seconds())


def human_duration(seconds: float) -> str:
    """Two units at most, coarser the longer it is. Source: apimachinery's `util/duration`."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 2 * _MINUTE:
        return f"{total}s"
    if total < 10 * _MINUTE:
        return _two(total, _MINUTE, "m", 1, "s")
    if total < 3 * _HOUR:
        return f"{total // _MINUTE}m"
    if total < 8 * _HOUR:
        return _two(total, _HOUR, "h", _MINUTE, "m")
    if total < 2 * _DAY:
        return f"{total // _HOUR}h"
    if total < 8 * _DAY:
        return _two(total, _DAY, "d", _HOUR, "h")
    if total < 2 * _YEAR:
        return f"{total // _DAY}d"
    if total < 8 * _YEAR:
        return _two(total, _YEAR, "y", _DAY, "d")
    return f"{total // _YEAR}y"


def _two(total: int, unit: int, name: str, smaller: int, smaller_name: str) -> str:
    rest = total % unit // smaller
    return f"{total // unit}{name}{rest}{smaller_name}" if rest else f"{total // unit}{name}"


def or_none(text: str | None) -> str:
    """What stands in a cell for nothing."""
    return text or "<none>"
