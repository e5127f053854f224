"""JSON to Mesos messages, as strict and as lenient as the real parser.

A message is a plain dict that went through `parse`: unknown fields are gone (the real parser ignores them), types
are checked, required fields are there, optional fields that declare a default have it, and what arrives as an
unknown enum value is absent. Not a protobuf library: only JSON is spoken here, and only the fields of
`local.wire.messages` are known.

Source: Mesos 3rdparty/stout/include/stout/protobuf.hpp (`protobuf::parse`, `JSON::protobuf`).
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from local.wire.messages import MESSAGES

Json = dict[str, Any]

_FIELD = re.compile(r"(\w+)([!*%]?)=(\w+)(?:\(([^)]*)\))?(?::(\S+))?")
_JSON_NAMES: dict[type, str] = {str: "string", int: "number", float: "number", bool: "boolean", list: "array"}
_SCALARS = frozenset(("string", "bytes", "bool", "double", "int", "enum", "any"))


class ProtoError(ValueError):
    """The JSON is not such a message; the text is what the real parser says."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `label` is "" (optional), "!" (required), "*" (repeated) or "%" (map with string keys)."""

    name: str
    label: str
    type: str
    values: frozenset[str]  # of an enum
    default: Any


@cache
def fields(message: str) -> dict[str, Field]:
    """The fields of a message in the order of their numbers."""
    result = {}
    for token in MESSAGES[message].split():
        match = _FIELD.fullmatch(token)
        if match is None:
            raise ValueError(f"bad field {token!r} of {message}")
        name, label, kind, values, default = match.groups()
        known = frozenset(values.split("|")) if values else frozenset()
        result[name] = Field(name, label, kind, known, _default(kind, default))
    return result


def _default(kind: str, text: str | None) -> Any:
    if text is None:
        return None
    converters: dict[str, Callable[[str], Any]] = {"bool": lambda t: t == "true", "double": float, "int": int}
    return converters.get(kind, str)(text)


def parse(message: str, obj: Any) -> Json:
    """The message in `obj`. Raises ProtoError."""
    if not isinstance(obj, dict):
        raise ProtoError("Expecting a JSON object")
    missing: list[str] = []
    result = _message(message, obj, "", missing)
    if missing:
        raise ProtoError("Missing required fields: " + ", ".join(missing))
    return result


@cache
def _order(message: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """The place of each field, and those that matter even when they are not there."""
    known = fields(message)
    places = {name: place for place, name in enumerate(known)}
    return places, tuple(name for name, one in known.items() if one.default is not None or one.label == "!")


def _message(message: str, obj: Json, path: str, missing: list[str]) -> Json:
    known, (places, wanted) = fields(message), _order(message)
    names = [name for name in obj if name in places]  # few of those that there may be
    names += [name for name in wanted if name not in obj]
    names.sort(key=places.__getitem__)
    result: Json = {}
    for name in names:
        field, value = known[name], obj.get(name)
        if value is None and name not in obj:
            if field.default is not None:
                result[name] = field.default
            elif field.label == "!":
                missing.append(path + name)
            continue
        parsed = _field(field, value, path + name, missing)
        if parsed is not None:
            result[name] = parsed
        elif field.default is not None:
            result[name] = field.default
        elif field.label == "!":
            missing.append(path + name)
    return result


def _field(field: Field, value: Any, path: str, missing: list[str]) -> Any:
    if field.label == "*":
        items = value if isinstance(value, list) else [value]
        parsed = [_single(field, item, f"{path}[{i}]", missing) for i, item in enumerate(items)]
        return [item for item in parsed if item is not None]
    if field.label == "%":
        if not isinstance(value, dict):
            raise _unexpected(field, value)
        return {str(key): _single(field, item, f"{path}[{key}]", missing) for key, item in value.items()}
    return _single(field, value, path, missing)


def _single(field: Field, value: Any, path: str, missing: list[str]) -> Any:
    kind = field.type
    if kind not in _SCALARS:
        if not isinstance(value, dict):
            raise _unexpected(field, value)
        return _message(kind, value, path + ".", missing)
    if kind == "any":
        return value
    if kind == "enum":
        if not isinstance(value, str):
            raise _unexpected(field, value)
        return value if value in field.values else None
    if kind in ("string", "bytes"):
        if not isinstance(value, str):
            raise _unexpected(field, value)
        if kind == "bytes":
            _check_base64(field, value)
        return value
    if kind == "bool":
        return _boolean(field, value)
    return _number(field, value)


def _check_base64(field: Field, value: str) -> None:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtoError(f"Failed to base64 decode bytes field '{field.name}': {error}") from error


def _boolean(field: Field, value: Any) -> bool:
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise _unexpected(field, value)
    return value


def _number(field: Field, value: Any) -> float | int:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise ProtoError(
                f"Failed to parse '{value}' as a JSON number for field '{field.name}'"
            ) from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unexpected(field, value)
    return float(value) if field.type == "double" else int(value)


def _unexpected(field: Field, value: Any) -> ProtoError:
    name = "null" if value is None else _JSON_NAMES.get(type(value), "object")
    return ProtoError(f"Not expecting a JSON {name} for field '{field.name}'")


def text(message: str, obj: Json, indent: int = 0) -> str:
    """The message as protobuf's DebugString prints it: fields by number, defaults left out, one line a scalar."""
    lines = []
    pad = "  " * indent
    for name, field in fields(message).items():
        if name not in obj:
            continue
        value = obj[name]
        for item in value if field.label == "*" else [value]:
            if isinstance(item, dict):
                inner = text(field.type, item, indent + 1) if field.type not in _SCALARS else ""
                lines.append(f"{pad}{name} {{\n{inner}{pad}}}\n")
            else:
                lines.append(f"{pad}{name}: {_scalar_text(field, item)}\n")
    return "".join(lines)


def _scalar_text(field: Field, value: Any) -> str:
    if field.type in ("string", "bytes"):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)
