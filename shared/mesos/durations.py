"""Durations as Mesos writes them: "2mins", "1.5hrs" in flags and environments, {"nanoseconds": n} in JSON.

Seconds as float everywhere in Python. Not Kubernetes' or Go's durations.

Source: Mesos 3rdparty/stout/include/stout/duration.hpp (`Duration::parse`, `operator<<`).
"""

import re
from collections.abc import Mapping
from typing import Any

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "secs": 1_000_000_000,
    "mins": 60_000_000_000,
    "hrs": 3_600_000_000_000,
    "days": 86_400_000_000_000,
    "weeks": 604_800_000_000_000,
}
_TEXT = re.compile(r"(-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)([a-z]+)")
_MAX_NANOSECONDS = 2**63 - 1


def _nanoseconds(text: str) -> int:
    match = _TEXT.fullmatch(text.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"not a duration: {text!r} (a number and one of {', '.join(_UNITS)}, as in '2mins')")
    nanoseconds = round(float(match[1]) * _UNITS[match[2]])
    if abs(nanoseconds) > _MAX_NANOSECONDS:
        raise ValueError(f"duration {text!r} does not fit 64 bits of nanoseconds (some 292 years)")
    return nanoseconds


def parse_duration(text: str) -> float:
    """Seconds of a Mesos duration such as "2mins" or "500ms"; ValueError names what is wrong."""
    return _nanoseconds(text) / 1e9


def format_duration(seconds: float) -> str:
    """A Mesos duration, in the unit Mesos itself would choose: the largest one not above the value, or the
    next smaller one when only that gives a whole number (90 s is "90secs", not "1.5mins")."""
    nanoseconds = round(seconds * 1e9)
    units = list(_UNITS.items())
    index = max((i for i, (_, size) in enumerate(units) if abs(nanoseconds) >= size), default=0)
    if nanoseconds % units[index][1] and index and not nanoseconds % units[index - 1][1]:
        index -= 1
    unit, size = units[index]
    return f"{nanoseconds / size:.15g}{unit}"


def duration_from_json(value: Mapping[str, Any]) -> float:
    """Seconds of a DurationInfo, {"nanoseconds": n}."""
    nanoseconds = value.get("nanoseconds")
    if not isinstance(nanoseconds, int) or isinstance(nanoseconds, bool):
        raise ValueError(f"not a DurationInfo: {dict(value)!r} (needs an integer 'nanoseconds')")
    return nanoseconds / 1e9


def duration_to_json(seconds: float) -> dict[str, int]:
    """A DurationInfo, {"nanoseconds": n}."""
    return {"nanoseconds": round(seconds * 1e9)}
