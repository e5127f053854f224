"""Validation of volumes whose files come from the API: configMap, secret, downwardAPI, projected.

Rules and wording: `pkg/apis/core/validation/validation.go`. Objects have their defaults already.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.registry import names
from scheduler.registry.container_validation import validate_field_ref, validate_resource_ref
from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object

_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
_KINDS = ("clusterTrustBundle", "configMap", "downwardAPI", "secret", "serviceAccountToken")


def validate_projection(volume: Object, path: str) -> Iterator[FieldError]:
    """Of one volume; nothing for those of another kind."""
    for kind in ("configMap", "secret", "downwardAPI"):
        if kind in volume:
            yield from _mode(volume[kind], "defaultMode", f"{path}.{kind}")
            yield from _source(kind, volume[kind], f"{path}.{kind}", projected=False)
    if "projected" in volume:
        yield from _mode(volume["projected"], "defaultMode", f"{path}.projected")
        yield from _projected(volume["projected"], f"{path}.projected")


def _projected(projected: Object, path: str) -> Iterator[FieldError]:
    taken: set[str] = set()
    for index, source in enumerate(projected.get("sources") or ()):
        at = f"{path}.sources[{index}]"
        chosen = [kind for kind in _KINDS if kind in source]
        if not chosen:
            yield FieldError.required(at, f"must specify one of: {', '.join(_KINDS)}")
        for kind in chosen[1:]:
            yield FieldError.forbidden(f"{at}.{kind}", "may not specify more than 1 volume type per source")
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind not in source:
                continue
            yield from _source(kind, source[kind], f"{at}.{kind}", projected=True)
            for item in source[kind].get("items") or ():
                file = item.get("path", "")
                if file in taken:
                    yield FieldError.invalid(f"{at}.{kind}", file, "conflicting duplicate paths")
                taken.add(file)


def _source(kind: str, source: Object, path: str, *, projected: bool) -> Iterator[FieldError]:
    if kind == "downwardAPI":
        for index, item in enumerate(source.get("items") or ()):
            yield from _downward(item, f"{path}.items[{index}]")
        return
    name = "secretName" if kind == "secret" and not projected else "name"
    if not source.get(name):
        yield FieldError.required(f"{path}.{name}")
    for index, item in enumerate(source.get("items") or ()):
        at = f"{path}.items[{index}]"
        if not item.get("key"):
            yield FieldError.required(f"{at}.key")
        yield from _file(item, at)


def _downward(item: Object, path: str) -> Iterator[FieldError]:
    yield from _file(item, path)
    if "fieldRef" in item:
        yield from validate_field_ref(item["fieldRef"], f"{path}.fieldRef", _FIELDS)
        if "resourceFieldRef" in item:
            why = "fieldRef and resourceFieldRef can not be specified simultaneously"
            yield FieldError.invalid(path, "resource", why)
    elif "resourceFieldRef" in item:
        if not item["resourceFieldRef"].get("containerName"):
            yield FieldError.required(f"{path}.resourceFieldRef.containerName")
        yield from validate_resource_ref(item["resourceFieldRef"], f"{path}.resourceFieldRef")
    else:
        yield FieldError.required(path, "one of fieldRef and resourceFieldRef is required")


def _file(item: Object, path: str) -> Iterator[FieldError]:
    file = item.get("path")
    if not file:
        yield FieldError.required(f"{path}.path")
    elif complaint := names.relative_path(file):
        yield FieldError.invalid(f"{path}.path", file, complaint)
    elif file.startswith(".."):
        yield FieldError.invalid(f"{path}.path", file, "must not start with '..'")
    yield from _mode(item, "mode", path)


def _mode(holder: Object, field: str, path: str) -> Iterator[FieldError]:
    mode = holder.get(field)
    if mode is not None and not 0 <= mode <= 0o777:
        yield FieldError.invalid(f"{path}.{field}", mode, _MODE)
