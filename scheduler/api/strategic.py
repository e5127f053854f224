"""Strategic merge patch: a merge patch that knows which lists are sets of named things.

    field: value                                replaces, an object merges, null deletes
    list of objects with a merge key            items with the same key merge, others are appended
    {<merge key>: v, $patch: delete}            deletes that item
    $patch: replace | delete                    in an object: its patch replaces it | empties it; as an item of a
                                                list: the other items replace the list
    $deleteFromPrimitiveList/<list>: [...]      removes values
    $setElementOrder/<list>: [...]              the order wanted; items not named keep their place
    $retainKeys: [...]                          of this object only these fields stay

What merges how stands in the models (`patch_schema`). Source: apimachinery's `util/strategicpatch/patch.go`
and the "strategic-merge-patch" document of sig-api-machinery.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.models.base import KubeModel, Shape, patch_schema

DIRECTIVE = "$patch"
RETAIN = "$retainKeys"
ORDER = "$setElementOrder/"
REMOVE = "$deleteFromPrimitiveList/"

Object = dict[str, Any]
Schema = Mapping[str, Shape]

UNKNOWN = Shape("", "", False, "", None, "object", "", "", frozenset())
"""Fields that no model describes merge as objects and are replaced as lists."""


class StrategicError(ValueError):
    """The patch contradicts itself or the model."""


def merge(original: Object, patch: Object, model: type[KubeModel] | None) -> Object:
    """`original` with `patch` applied, as a new object; both are left alone. Raises StrategicError."""
    return _merge_object(original, patch, _schema(model))


def _schema(model: type[KubeModel] | None) -> Schema:
    return patch_schema(model) if model is not None else {}


def _merge_object(original: Object, patch: Object, schema: Schema) -> Object:
    directive = patch.get(DIRECTIVE)
    if directive == "delete":
        return {}
    if directive == "replace":
        return _merge_object({}, {key: value for key, value in patch.items() if key != DIRECTIVE}, schema)
    if directive not in (None, "merge"):
        raise StrategicError(f"{DIRECTIVE}: unknown directive {directive!r}")
    merged = _retain(original, patch)
    orders = {key.removeprefix(ORDER): value for key, value in patch.items() if key.startswith(ORDER)}
    for key, value in patch.items():
        if key.startswith(REMOVE):
            _remove_values(merged, key.removeprefix(REMOVE), value)
    for key, value in patch.items():
        if key in (DIRECTIVE, RETAIN) or key.startswith((ORDER, REMOVE)):
            continue
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(merged.get(key), value, schema.get(key, UNKNOWN), key)
    for key, order in orders.items():
        if key in merged:
            before = original.get(key) or []
            merged[key] = _reorder(merged[key], before, order, schema.get(key, UNKNOWN), key)
    return merged


def _retain(original: Object, patch: Object) -> Object:
    if RETAIN not in patch:
        return dict(original)
    keep = patch[RETAIN]
    if not isinstance(keep, list):
        raise StrategicError(f"{RETAIN} must be a list of field names")
    for key, value in patch.items():
        if not key.startswith("$") and value is not None and key not in keep:
            raise StrategicError(f"the patch sets {key!r}, which its {RETAIN} list does not name")
    return {key: value for key, value in original.items() if key in keep}


def _remove_values(merged: Object, key: str, values: Any) -> None:
    if not isinstance(values, list):
        raise StrategicError(f"{REMOVE}{key} must be a list")
    if isinstance(merged.get(key), list):
        merged[key] = [item for item in merged[key] if item not in values]


def _merge_value(old: Any, new: Any, shape: Shape, name: str) -> Any:
    if isinstance(new, dict):
        base = old if isinstance(old, dict) and "replace" not in shape.strategies else {}
        # A map of objects holds them under keys of the user's choice: no schema of fields.
        return _merge_object(base, new, {} if shape.container == "map" else _schema(shape.model))
    if isinstance(new, list):
        if not shape.merges:
            return new
        return _merge_list(old if isinstance(old, list) else [], new, shape, name)
    return new


def _merge_list(old: list[Any], new: list[Any], shape: Shape, name: str) -> list[Any]:
    if not shape.merge_key:
        return (
            list(dict.fromkeys([*old, *new])) if all(isinstance(one, str | int) for one in old + new) else new
        )
    key, schema = shape.merge_key, _schema(shape.model)
    plain = [item for item in new if not (isinstance(item, dict) and DIRECTIVE in item)]
    merged = list(old)
    for item in new:
        if isinstance(item, dict) and DIRECTIVE in item:
            match item[DIRECTIVE]:
                case "replace":
                    merged = []
                    break
                case "delete":
                    wanted = _key_of(item, key, name)
                    merged = [one for one in merged if not _has(one, key, wanted)]
                case directive:
                    raise StrategicError(
                        f"{name}: {DIRECTIVE}: {directive!r} is none that a list item may have"
                    )
    for item in plain:
        wanted = _key_of(item, key, name)
        at = next((i for i, one in enumerate(merged) if _has(one, key, wanted)), None)
        if at is None:
            merged.append(_merge_object({}, item, schema))
        else:
            merged[at] = _merge_object(merged[at], item, schema)
    return merged


def _key_of(item: Any, key: str, name: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise StrategicError(f"{name}: an item of the patch does not have the merge key {key!r}")
    return item[key]


def _has(item: Any, key: str, value: Any) -> bool:
    return isinstance(item, dict) and item.get(key) == value


def _reorder(items: Any, before: Any, order: Any, shape: Shape, name: str) -> Any:
    """Items the order names stand in that order; the others keep their place relative to where they were."""
    if not isinstance(order, list):
        raise StrategicError(f"{ORDER}{name} must be a list")
    if not shape.merges or not isinstance(items, list) or not isinstance(before, list):
        raise StrategicError(f"{ORDER}{name}: this field is not a list that is merged")
    wanted = _positions(order, shape.merge_key)
    live = _positions(before, shape.merge_key)

    def identity(item: Any) -> str:
        return _identity(item, shape.merge_key)

    named = sorted((one for one in items if identity(one) in wanted), key=lambda one: wanted[identity(one)])
    others = sorted(
        (one for one in items if identity(one) not in wanted),
        key=lambda one: live.get(identity(one), len(live)),
    )
    return _interleave(others, named, live, shape.merge_key)


def _positions(items: list[Any], key: str) -> dict[str, int]:
    return {_identity(item, key): i for i, item in reversed(list(enumerate(items)))}


def _identity(item: Any, key: str) -> str:
    return repr(item.get(key)) if key and isinstance(item, dict) else repr(item)


def _interleave(left: list[Any], right: list[Any], live: Mapping[str, int], key: str) -> list[Any]:
    """Merges two lists that keep their orders: a left item goes before the first right one it preceded."""
    merged = []
    i = j = 0
    while i < len(left) and j < len(right):
        one, other = live.get(_identity(left[i], key)), live.get(_identity(right[j], key))
        if one is not None and other is not None and one < other:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]
