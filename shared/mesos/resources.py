"""Arithmetic of Mesos resources: what an offer has, what a task takes, what is left.

Immutable. Amounts are kept by identity: name, allocation role and everything else that tells two resources
apart (reservations, disk, revocable, provider…); only amounts of the same identity add up. Scalars are whole
thousandths, see `values`. Not a policy of placement: nothing here decides which reservation to use.

Source: Mesos src/common/resources.cpp, src/common/values.cpp.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from shared.mesos.values import (
    Range,
    Ranges,
    Value,
    coalesce,
    contains_ranges,
    format_value,
    parse_value,
    subtract_ranges,
    value_from_json,
    value_to_json,
)

Json = dict[str, Any]

_OWN_FIELDS = frozenset(("name", "type", "scalar", "ranges", "set", "allocation_info", "role", "reservation"))
_NAME = re.compile(r"([^():\[\]{};\s]+)(?:\(([^()]+)\))?(\{REV\})?")


class _Key(NamedTuple):
    name: str
    type: str
    allocated: str | None  # the role in allocation_info
    rest: bytes  # canonical JSON of every other field; b"" for a plain resource


def _key(obj: Mapping[str, Any]) -> _Key:
    rest = {k: v for k, v in obj.items() if k not in _OWN_FIELDS}
    role = obj.get("role", "*")
    if role != "*" or "reservation" in obj:
        # The format before reservation refinement: the role beside a ReservationInfo (dynamic) or alone.
        if rest.get("reservations"):
            raise ValueError(f"resource '{obj['name']}' has both 'role' and 'reservations'")
        dynamic = obj.get("reservation")
        kind = "STATIC" if dynamic is None else "DYNAMIC"
        rest["reservations"] = [{"type": kind, "role": role, **(dynamic or {})}]
    if not rest.get("reservations", True):
        del rest["reservations"]
    return _Key(
        obj["name"],
        obj["type"],
        (obj.get("allocation_info") or {}).get("role"),
        orjson.dumps(rest, option=orjson.OPT_SORT_KEYS) if rest else b"",
    )


@lru_cache(maxsize=4096)
def _shape(key: _Key) -> Json:
    """The fields of a resource of this identity, but for its amount."""
    shape: Json = {"name": key.name, "type": key.type}
    if key.allocated is not None:
        shape["allocation_info"] = {"role": key.allocated}
    if key.rest:
        shape.update(orjson.loads(key.rest))
    return shape


def _indivisible(key: _Key) -> bool:
    """A persistent volume, a MOUNT or BLOCK disk: taken whole or not at all (`isArithmetic` and friends)."""
    if not key.rest:
        return False
    disk = orjson.loads(key.rest).get("disk") or {}
    return "persistence" in disk or (disk.get("source") or {}).get("type") in ("MOUNT", "BLOCK")


def _plus(left: Value, right: Value) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    if isinstance(left, frozenset) and isinstance(right, frozenset):
        return left | right
    assert isinstance(left, tuple)  # a key has one type
    assert isinstance(right, tuple)
    return coalesce(left + right)


def _minus(left: Value, right: Value) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        return left - right
    if isinstance(left, frozenset) and isinstance(right, frozenset):
        return left - right
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    return subtract_ranges(left, right)


def _covers(left: Value, right: Value) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left >= right
    if isinstance(left, frozenset) and isinstance(right, frozenset):
        return left >= right
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    return contains_ranges(left, right)


def _positive(value: Value) -> bool:
    return value > 0 if isinstance(value, int) else bool(value)


class Resources:
    """A bag of resources. Equality ignores order; `str()` and `to_json()` keep the order of arrival."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[_Key, Value] | None = None) -> None:
        self._items: dict[_Key, Value] = dict(items or {})

    # ---- in and out

    @classmethod
    def from_json(cls, resources: Iterable[Mapping[str, Any]]) -> "Resources":
        """From `Resource` messages (v1 JSON). ValueError for a type that is unknown, a value that is missing,
        negative or empty, in Mesos' words."""
        items: dict[_Key, Value] = {}
        for obj in resources:
            if "name" not in obj or "type" not in obj:
                raise ValueError(f"a resource needs 'name' and 'type': {dict(obj)!r}")
            key = _key(obj)
            if key.type == "TEXT":
                raise ValueError(f"Resource '{key.name}' is invalid: Unsupported resource type")
            value = value_from_json(key.type, dict(obj))
            if not _positive(value):
                shown = str(cls({key: value}))
                detail = "Invalid scalar resource: value <= 0" if key.type == "SCALAR" else "empty"
                raise ValueError(f"Resource '{shown}' is invalid: {detail}")
            items[key] = _plus(items[key], value) if key in items else value
        return cls(items)

    @classmethod
    def scalars(cls, **amounts: int) -> "Resources":
        """Plain scalars from thousandths: `Resources.scalars(cpus=100, mem=32_000)`; zeros are left out."""
        return cls({_Key(n, "SCALAR", None, b""): v for n, v in amounts.items() if v})

    @classmethod
    def port_ranges(cls, ranges: Iterable[Range], name: str = "ports") -> "Resources":
        """A plain resource of ranges, both ends included."""
        value = coalesce(ranges)
        return cls({_Key(name, "RANGES", None, b""): value} if value else None)

    @classmethod
    def parse(cls, text: str, default_role: str = "*") -> "Resources":
        """From the text of an agent's --resources: `cpus:4;mem(role):512;ports:[1-2]`, or a JSON array.

        `name(role)` is a static reservation, `{REV}` revocable; amounts of zero are left out. ValueError says
        which item is wrong and why.
        """
        if text.lstrip().startswith("["):
            try:
                parsed = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"resources are not valid JSON: {error}") from error
            return cls.from_json(parsed)
        total = cls()
        for item in filter(None, (part.strip() for part in re.split(r"[;\n]", text))):
            total += cls._parse_item(item, default_role)
        return total

    @classmethod
    def _parse_item(cls, item: str, default_role: str) -> "Resources":
        label, colon, rest = item.partition(":")
        match = _NAME.fullmatch(label.replace(" ", ""))
        if not colon or match is None:
            raise ValueError(f"bad resource '{item}': expecting name:value or name(role):value")
        try:
            type_name, value = parse_value(rest)
        except ValueError as error:
            raise ValueError(f"bad resource '{item}': {error}") from error
        if type_name == "TEXT":
            raise ValueError(f"bad resource '{item}': '{value}' is neither a number, [ranges] nor a {{set}}")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"bad resource '{item}': a scalar cannot be negative")
        if not _positive(value):
            return cls()
        obj: Json = {"name": match[1], "type": type_name, "role": match[2] or default_role}
        if match[3]:
            obj["revocable"] = {}
        return cls({_key(obj): value})

    def to_json(self) -> list[Json]:
        """`Resource` messages in the format with refined reservations."""
        result = []
        for key, value in self._items.items():
            obj: Json = {"name": key.name, "type": key.type, **value_to_json(key.type, value)}
            if key.allocated is not None:
                obj["allocation_info"] = {"role": key.allocated}
            if key.rest:
                obj.update(orjson.loads(key.rest))
            result.append(obj)
        return result

    # ---- arithmetic

    def __add__(self, other: "Resources") -> "Resources":
        items = dict(self._items)
        for key, value in other._items.items():
            items[key] = _plus(items[key], value) if key in items else value
        return Resources(items)

    def __sub__(self, other: "Resources") -> "Resources":
        """What is left. As in Mesos nothing goes below zero: ask `contains()` first when that matters."""
        items = dict(self._items)
        for key, value in other._items.items():
            if key not in items or (_indivisible(key) and items[key] != value):
                continue
            rest = _minus(items[key], value)
            if _positive(rest):
                items[key] = rest
            else:
                del items[key]
        return Resources(items)

    def contains(self, other: "Resources") -> bool:
        """Whether `other` can be taken out of this, identity by identity."""
        items = self._items
        return all(
            key in items and (items[key] == value if _indivisible(key) else _covers(items[key], value))
            for key, value in other._items.items()
        )

    # ---- views

    def scalar(self, name: str) -> int:
        """Thousandths of a scalar over all identities of that name; 0 when there is none."""
        return sum(v for k, v in self._items.items() if k.name == name and isinstance(v, int))

    def ranges(self, name: str) -> Ranges:
        """Ranges of that name over all identities, both ends included."""
        found = [v for k, v in self._items.items() if k.name == name and isinstance(v, tuple)]
        return coalesce(r for value in found for r in value)

    def names(self) -> frozenset[str]:
        """The names there is something of."""
        return frozenset(key.name for key in self._items)

    def allocated_roles(self) -> frozenset[str]:
        """The roles in `allocation_info`."""
        return frozenset(key.allocated for key in self._items if key.allocated is not None)

    def split(self) -> "Iterator[Resources]":
        """One `Resources` for each identity, in order."""
        return (Resources({key: value}) for key, value in self._items.items())

    def reservations(self) -> list[Json]:
        """The reservations, outermost first, of a single identity (see `split`); [] when unreserved."""
        if len(self._items) != 1:
            raise ValueError("reservations() is asked of one identity; use split()")
        (key,) = self._items
        return list(orjson.loads(key.rest).get("reservations", [])) if key.rest else []

    def filter(self, keep: Callable[[Json], bool]) -> "Resources":
        """Those identities of which `keep` says so, given their `Resource` message without the amount. It is not
        a copy, so it may not be changed."""
        return Resources({key: value for key, value in self._items.items() if keep(_shape(key))})

    def capped(self, limits: Mapping[str, int]) -> "Resources":
        """As much of each scalar as `limits` allow, in thousandths by name, over all its identities; what has no limit
        is left as it is, what cannot be divided and is too large is left out (`shrinkResources`)."""
        left, items = dict(limits), {}
        for key, value in self._items.items():
            if not isinstance(value, int) or key.name not in left:
                items[key] = value
                continue
            share = min(value, left[key.name])
            if share <= 0 or (share < value and _indivisible(key)):
                continue
            items[key] = share
            left[key.name] -= share
        return Resources(items)

    # ---- other identities

    def allocate(self, role: str) -> "Resources":
        """The same, with `allocation_info.role` set."""
        return self._rekey(lambda key: key._replace(allocated=role))

    def unallocate(self) -> "Resources":
        """The same without `allocation_info`."""
        return self._rekey(lambda key: key._replace(allocated=None))

    def flatten(self) -> "Resources":
        """The same without allocation and reservations: bare quantities (disk, revocable… stay)."""
        return self._rekey(lambda key: key._replace(allocated=None, rest=_without_reservations(key.rest)))

    def _rekey(self, change: Any) -> "Resources":
        items: dict[_Key, Value] = {}
        for key, value in self._items.items():
            new = change(key)
            items[new] = _plus(items[new], value) if new in items else value
        return Resources(items)

    # ---- Python

    def __bool__(self) -> bool:
        return bool(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Resources) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __str__(self) -> str:
        """Mesos' wording: `cpus(allocated: gantry):3.6; mem(allocated: gantry):8064`."""
        return "; ".join(_label(key) + ":" + format_value(value) for key, value in self._items.items())

    def __repr__(self) -> str:
        return f"Resources({str(self)!r})"


def _without_reservations(rest: bytes) -> bytes:
    if not rest:
        return rest
    fields = orjson.loads(rest)
    fields.pop("reservations", None)
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS) if fields else b""


def _label(key: _Key) -> str:
    """`operator<<(ostream&, const Resource&)` up to the colon."""
    rest: Json = orjson.loads(key.rest) if key.rest else {}
    label = key.name
    if "provider_id" in rest:
        label += f"(provider_id: {rest['provider_id'].get('value')})"
    if key.allocated is not None:
        label += f"(allocated: {key.allocated})"
    if rest.get("reservations"):
        label += f"(reservations: [{','.join(map(_reservation, rest['reservations']))}])"
    if "disk" in rest:
        label += f"[{_disk(rest['disk'])}]"
    return label + ("{REV}" if "revocable" in rest else "") + ("<SHARED>" if "shared" in rest else "")


def _reservation(info: Json) -> str:
    parts = [info.get("type", "UNKNOWN"), info.get("role", "*")]
    if "principal" in info:
        parts.append(info["principal"])
    if "labels" in info:
        pairs = (f"{label['key']}: {label.get('value', '')}" for label in info["labels"].get("labels", ()))
        parts.append("{" + ", ".join(pairs) + "}")
    return f"({','.join(parts)})"


def _disk(disk: Json) -> str:
    text = ""
    if "source" in disk:
        source = disk["source"]
        root = (source.get(source.get("type", "").lower()) or {}).get("root", "")
        text += source.get("type", "") + (f":{root}" if root else "")
    if "persistence" in disk:
        text += ("," if text else "") + str(disk["persistence"].get("id", ""))
    if "volume" in disk:
        text += ":" + str(disk["volume"].get("container_path", ""))
    return text


def parse_attributes(text: str) -> list[Json]:
    """`Attribute` messages from the text of an agent's --attributes, `rack:r1;level:10;ports:[1-2]`.

    ValueError says which attribute is wrong. Source: Mesos src/common/attributes.cpp.
    """
    attributes: list[Json] = []
    for item in filter(None, (part.strip() for part in re.split(r"[;\n]", text))):
        name, colon, rest = item.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"bad attribute '{item}': expecting name:value")
        try:
            type_name, value = parse_value(rest)
        except ValueError as error:
            raise ValueError(f"bad attribute '{item}': {error}") from error
        if type_name == "SET":
            raise ValueError(f"bad attribute '{item}': sets are not supported in attributes")
        attributes.append({"name": name.strip(), "type": type_name, **value_to_json(type_name, value)})
    return attributes
