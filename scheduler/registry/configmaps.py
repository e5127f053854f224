"""The configmaps resource: configuration for pods.

Rules and wording: `pkg/apis/core/validation/validation.go` (ValidateConfigMap).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_metadata,
    reset_metadata,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.resource import Column, Object, Resource
from scheduler.registry.secrets import decoded, validate_immutable, validate_keys, validate_size
from shared.models.config import ConfigMap


def _prepare_create(obj: Object, _now: datetime) -> Object:
    reset_metadata(obj)
    return obj


def _validate(obj: Object) -> list[FieldError]:
    text, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    errors = validate_metadata(obj, namespaced=True)
    for key in sorted(text.keys() & binary.keys()):
        errors.append(FieldError.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
    errors += validate_keys(text, "data")
    errors += validate_keys(binary, "binaryData")
    values = [*(value.encode() for value in text.values()), *map(decoded, binary.values())]
    errors += validate_size(values, "data")
    return errors


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    keep_metadata(new, old)
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    errors = validate_metadata_update(new, old)
    errors += validate_immutable(new, old, "data", "binaryData")
    return errors + _validate(new)


def _row(obj: Object, now: datetime) -> list[Any]:
    metadata = obj["metadata"]
    count = len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    return [metadata["name"], count, age(metadata.get("creationTimestamp"), now)]


CONFIGMAPS = Resource(
    group="",
    version="v1",
    plural="configmaps",
    singular="configmap",
    kind="ConfigMap",
    namespaced=True,
    short_names=("cm",),
    model=ConfigMap,
    columns=(NAME, Column("Data", type="integer", description="How many values it has."), AGE),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
)
