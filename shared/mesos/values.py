"""Values of Mesos resources and attributes: scalars in thousandths, ranges, sets, and their text form.

Scalars are whole thousandths (int): Mesos itself rounds every scalar to three decimals before it adds or
compares, so floats and an epsilon would come to other answers than the master does.

Source: Mesos src/common/values.cpp.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

Range = tuple[int, int]  # both ends included
Ranges = tuple[Range, ...]  # sorted, apart by at least one
Value = int | Ranges | frozenset[str] | str

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def milli(value: float) -> int:
    """Thousandths of a scalar, halves away from zero as C's llround() has it."""
    if not math.isfinite(value):
        raise ValueError(f"not a scalar: {value!r}")
    return math.floor(abs(value) * 1000 + 0.5) * (1 if value >= 0 else -1)


def coalesce(ranges: Iterable[Range]) -> Ranges:
    """Sorted ranges, touching and overlapping ones joined."""
    result: list[Range] = []
    for begin, end in sorted(ranges):
        if result and begin <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return tuple(result)


def subtract_ranges(left: Ranges, right: Ranges) -> Ranges:
    """What of `left` is not in `right`; both coalesced."""
    result: list[Range] = []
    for first, last in left:
        begin = first
        for taken_begin, taken_end in right:
            if taken_end < begin or taken_begin > last:
                continue
            if taken_begin > begin:
                result.append((begin, taken_begin - 1))
            begin = taken_end + 1
        if begin <= last:
            result.append((begin, last))
    return tuple(result)


def contains_ranges(left: Ranges, right: Ranges) -> bool:
    """Whether every range of `right` lies within one of `left`; both coalesced."""
    return all(any(begin <= b and e <= end for begin, end in left) for b, e in right)


def parse_value(text: str) -> tuple[str, Value]:
    """The type and value of "4", "[1-2, 5-6]", "{a, b}" or "anything else"; spaces do not count."""
    text = text.replace(" ", "")
    if not text:
        raise ValueError("expecting a non-empty value")
    if text[0] == "[":
        if text[-1] != "]":
            raise ValueError(f"'{text}': brackets do not match")
        return "RANGES", coalesce(_parse_range(text, item) for item in text[1:-1].split(",") if item)
    if text[0] == "{":
        if text[-1] != "}":
            raise ValueError(f"'{text}': brackets do not match")
        return "SET", frozenset(item for item in text[1:-1].split(",") if item)
    if _NUMBER.fullmatch(text):
        return "SCALAR", milli(float(text))
    if any(c in text for c in "[]{}()"):
        raise ValueError(f"'{text}': unexpected bracket")
    return "TEXT", text


def _parse_range(text: str, item: str) -> Range:
    begin, dash, end = item.partition("-")
    if not (dash and begin.isascii() and begin.isdigit() and end.isascii() and end.isdigit()):
        raise ValueError(f"'{text}': '{item}' is not a range of non-negative integers such as 31000-32000")
    if int(begin) > int(end):
        raise ValueError(f"'{text}': the range '{item}' ends before it begins")
    return int(begin), int(end)


def value_from_json(type_name: str, obj: dict[str, Any]) -> Value:
    """The value in a Resource or Attribute message of that type."""
    try:
        if type_name == "SCALAR":
            return milli(float(obj["scalar"]["value"]))
        if type_name == "RANGES":
            return coalesce((int(r["begin"]), int(r["end"])) for r in obj["ranges"].get("range", ()))
        if type_name == "SET":
            return frozenset(obj["set"].get("item", ()))
        if type_name == "TEXT":
            return str(obj["text"]["value"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{obj.get('name', '?')}' has no {type_name} value: {error}") from error
    raise ValueError(f"'{obj.get('name', '?')}' has the unknown type {type_name!r}")


def value_to_json(type_name: str, value: Value) -> dict[str, Any]:
    """The field of a Resource or Attribute message that holds the value."""
    if isinstance(value, int):
        return {"scalar": {"value": value / 1000}}
    if isinstance(value, frozenset):
        return {"set": {"item": sorted(value)}}
    if isinstance(value, str):
        return {"text": {"value": value}}
    return {"ranges": {"range": [{"begin": begin, "end": end} for begin, end in value]}}


def format_value(value: Value) -> str:
    """The value in Mesos' wording (fifteen significant digits, no trailing zeros)."""
    if isinstance(value, int):
        return f"{value / 1000:.15g}"
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(value)) + "}"
    if isinstance(value, str):
        return value
    return "[" + ", ".join(f"{begin}-{end}" for begin, end in value) + "]"
