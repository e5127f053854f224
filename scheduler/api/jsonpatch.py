"""JSON Patch (RFC 6902) with JSON Pointer (RFC 6901)."""

from __future__ import annotations

import copy
from typing import Any

MOST = 10_000
"""Operations a patch may have, as in kube-apiserver."""


class PatchMalformed(ValueError):
    """It is no patch."""


class PatchFailed(ValueError):
    """It is a patch, but does not apply to this object."""


def apply(document: Any, patch: Any) -> Any:
    """The patched document; `document` may be changed. Raises PatchMalformed, PatchFailed."""
    if not isinstance(patch, list):
        raise PatchMalformed("a JSON patch is a list of operations")
    if len(patch) > MOST:
        raise PatchMalformed(f"a JSON patch may have at most {MOST} operations, this one has {len(patch)}")
    for i, operation in enumerate(patch):
        try:
            document = _apply_one(document, operation)
        except PatchMalformed as error:
            raise PatchMalformed(f"operation {i}: {error}") from None
        except PatchFailed as error:
            raise PatchFailed(f"operation {i} ({operation['op']} {operation['path']}): {error}") from None
    return document


def _apply_one(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict):
        raise PatchMalformed("must be an object")
    path = _pointer(operation, "path")
    match operation.get("op"):
        case "add":
            return _add(document, path, _value(operation))
        case "remove":
            return _remove(document, path)
        case "replace":
            _find(document, path)
            return _value(operation) if not path else _add(_remove(document, path), path, _value(operation))
        case "move":
            source = _pointer(operation, "from")
            if path[: len(source)] == source and path != source:
                raise PatchFailed("an object cannot be moved into itself")
            moved = _find(document, source)
            return _add(_remove(document, source), path, moved)
        case "copy":
            return _add(document, path, copy.deepcopy(_find(document, _pointer(operation, "from"))))
        case "test":
            if not _equal(_find(document, path), _value(operation)):
                raise PatchFailed("the value differs")
            return document
    raise PatchMalformed(f"unknown op {operation.get('op')!r}")


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchMalformed(f"{operation['op']} needs a value")
    return operation["value"]


def _pointer(operation: dict[str, Any], name: str) -> list[str]:
    text = operation.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchMalformed(f"{name} must be a JSON pointer, it is {text!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _find(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, dict):
            if part not in document:
                raise PatchFailed(f"there is no {part!r}")
            document = document[part]
        elif isinstance(document, list):
            document = document[_index(document, part, len(document) - 1)]
        else:
            raise PatchFailed(f"{part!r} lies in a value that is neither object nor list")
    return document


def _index(items: list[Any], part: str, last: int) -> int:
    if not (part.isascii() and part.isdigit()) or (part != "0" and part.startswith("0")):
        raise PatchFailed(f"{part!r} is not an index")
    if len(part) > 9 or int(part) > last:
        raise PatchFailed(f"index {part} is beyond the list of {len(items)}")
    return int(part)


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _find(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        at = len(parent) if path[-1] == "-" else _index(parent, path[-1], len(parent))
        parent.insert(at, value)
    else:
        raise PatchFailed(f"{path[-1]!r} lies in a value that is neither object nor list")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        return None
    parent = _find(document, path[:-1])
    _find(parent, path[-1:])
    del parent[path[-1] if isinstance(parent, dict) else int(path[-1])]
    return document


def _equal(one: Any, other: Any) -> bool:
    """JSON equality: unlike Python's, true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
