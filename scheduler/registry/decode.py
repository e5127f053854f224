"""Parsed JSON -> a Kubernetes object of the right types, or a 400 that names the place.

Types are checked by the pydantic model; the object itself stays the plain dict it was. Unknown and duplicate
fields are errors, warnings or dropped, as the client's `fieldValidation` asks (kube-apiserver's strict decoding).
What is not here: whether the values make sense (each resource's validation, 422).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scheduler.registry.errors import BadRequest
from scheduler.registry.resource import Object, Resource
from shared.models.base import KubeModel, patch_schema

Location = tuple[str | int, ...]

FIELD_VALIDATIONS = ("Ignore", "Warn", "Strict")


def decode(
    resource: Resource, obj: Any, field_validation: str = "Warn", duplicates: Sequence[str] = ()
) -> tuple[Object, list[str]]:
    """Check the types of `obj`, drop unknown fields and empty values, fill in apiVersion and kind.

    `obj` is parsed JSON and may be changed; `duplicates` are paths of keys that appeared twice
    (`duplicate_fields`). Returns the object and the warnings for the client. Raises BadRequest.
    """
    if field_validation not in FIELD_VALIDATIONS:
        listed = ", ".join(FIELD_VALIDATIONS)
        raise BadRequest(
            f'fieldValidation: Unsupported value: "{field_validation}": supported values: {listed}'
        )
    if not isinstance(obj, dict):
        raise BadRequest(f"the body must be a JSON object of kind {resource.kind}, not {_json_type(obj)}")
    _check_kind(resource, obj)
    unknown = _check_types(
        resource.model, obj, f'{resource.kind} in version "{resource.version}"', resource.kind
    )
    problems = [f'duplicate field "{path}"' for path in duplicates]
    problems += [f'unknown field "{path}"' for path in unknown]
    if problems and field_validation == "Strict":
        raise BadRequest(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"strict decoding error: {', '.join(problems)}"
        )
    if obj.get("metadata"):
        # Field ownership is not tracked; what clients send back of it must not be stored as if it were.
        obj["metadata"].pop("managedFields", None)
    tidy(obj, resource.model)
    return obj, (problems if field_validation == "Warn" else [])


def duplicate_fields(raw: bytes | str) -> list[str]:
    """Paths of the keys that occur more than once in one JSON object of `raw` (valid JSON)."""
    found = False

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        made = dict(pairs)
        if len(made) == len(pairs):
            return made
        found = True
        counts = Counter(key for key, _ in pairs)
        return _Repeating(made, [key for key, count in counts.items() if count > 1])

    try:
        parsed = json.loads(raw, object_pairs_hook=note)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    return list(_repeats(parsed, ())) if found else []


class _Repeating(dict[str, Any]):
    """An object in which some keys occurred twice."""

    def __init__(self, values: dict[str, Any], repeated: list[str]) -> None:
        super().__init__(values)
        self.repeated = repeated


def _repeats(value: Any, at: Location) -> Iterable[str]:
    if isinstance(value, dict):
        if isinstance(value, _Repeating):
            yield from (_path((*at, key)) for key in value.repeated)
        for key, inner in value.items():
            yield from _repeats(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _repeats(inner, (*at, index))


def _check_kind(resource: Resource, obj: Object) -> None:
    kind, version = obj.get("kind"), obj.get("apiVersion")
    if kind in (None, ""):
        obj["kind"] = kind = resource.kind
    if version in (None, ""):
        obj["apiVersion"] = version = resource.api_version
    if version != resource.api_version:
        raise BadRequest(
            f"the API version in the data ({version}) does not match the expected API version "
            f"({resource.api_version})"
        )
    if kind != resource.kind:
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {resource.kind}): it is a {kind}"
        )


def _check_types(model: type[KubeModel], obj: Object, what: str, kind: str) -> list[str]:
    try:
        model.__pydantic_validator__.validate_python(obj)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    else:
        return []
    unknown: list[str] = []
    for detail in details:
        path = field_path(model, detail["loc"])
        if detail["type"] != "extra_forbidden":
            raise BadRequest(f"{what} cannot be handled as a {kind}: {_complaint(path, detail)}")
        unknown.append(path)
    for detail in details:
        _remove(obj, detail["loc"])
    return unknown


def _complaint(path: str, detail: ErrorDetails) -> str:
    wanted = _WANTED.get(detail["type"])
    given = detail["input"]
    if wanted:
        return f'json: cannot unmarshal {_json_type(given)} into field "{path}" of type {wanted}'
    if detail["type"] in ("string_pattern_mismatch", "time"):
        return f'field "{path}": parsing time {json.dumps(given)}: not of the form 2006-01-02T15:04:05Z'
    if detail["type"] in ("greater_than_equal", "less_than_equal"):
        return f'json: cannot unmarshal number {given} into field "{path}": out of range'
    return f'field "{path}": {detail["msg"]}'


_WANTED = {
    "string_type": "string",
    "int_type": "integer",
    "int_from_float": "integer",
    "float_type": "number",
    "bool_type": "boolean",
    "list_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
    "int_or_string": "integer or string",
}


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def field_path(model: type[KubeModel], location: Sequence[str | int]) -> str:
    """A location within `model` as Kubernetes writes it: `spec.containers[0].resources.limits[cpu]`."""
    path, shapes = "", patch_schema(model)
    in_map = False
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif in_map:
            path += f"[{part}]"
            in_map = False
        else:
            path += f".{part}" if path else part
            shape = shapes.get(part)
            in_map = shape is not None and shape.container == "map"
            shapes = patch_schema(shape.model) if shape is not None and shape.model is not None else {}
    return path


def _path(location: Location) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else part)
    return path


def _remove(obj: Any, location: Sequence[str | int]) -> None:
    for part in location[:-1]:
        obj = obj[part]
    del obj[location[-1]]


def tidy(obj: Object, model: type[KubeModel]) -> None:
    """Remove what says nothing, in place: nulls, empty lists, maps and strings, and false where it is the default.

    Go's `omitempty` does the same to an object on its way through kube-apiserver; without it a field that is left
    out of a manifest would differ from the same field written as empty.
    """
    shapes = patch_schema(model)
    for key in list(obj):
        value, shape = obj[key], shapes[key]
        if value is None or (value is False and key in _FALSE_BY_DEFAULT):
            del obj[key]
        elif isinstance(value, dict):
            if shape.container and not value:
                del obj[key]
            elif shape.model is not None and not shape.container:
                tidy(value, shape.model)
        elif isinstance(value, list):
            if not value:
                del obj[key]
            elif shape.model is not None:
                for item in value:
                    tidy(item, shape.model)
        elif value == "" and key not in _EMPTY_MEANS_SOMETHING:
            del obj[key]


_FALSE_BY_DEFAULT = frozenset(
    {"hostIPC", "hostNetwork", "hostPID", "readOnly", "stdin", "stdinOnce", "tty", "unschedulable"}
)
_EMPTY_MEANS_SOMETHING = frozenset({"storageClassName"})
