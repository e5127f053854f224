"""The runtimeclasses resource: which stage1 flavor (`handler`) runs a pod. What a pod gets of it: `admission`.

Rules and wording: `pkg/apis/node/validation/validation.go`. Whether an executor knows a handler is the executor's to
say, when a pod comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from scheduler.registry import names
from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.container_validation import validate_resources
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_metadata,
    reset_metadata,
    validate_labels,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.pod_validation import validate_tolerations
from scheduler.registry.resource import Column, Object, Resource
from shared.models.annotations import DEDICATED, EXECUTOR, SHARED
from shared.models.quantities import canonical_quantity
from shared.models.runtime_class import RuntimeClass

FLAVORS = ("fly", "kvm", "linux", "nspawn")
"""Those of Gantry, for which there is a class of the same name from the start."""

POD_FIXED = {"kvm": {"cpu": "250m", "memory": "320Mi"}}
"""What a flavor takes beside its pod's containers (executor/kvm/machine.py: the guest's own, QEMU's, virtiofsd's)."""

_OVERHEAD = frozenset({"cpu", "ephemeral-storage", "memory"})


def built_in() -> list[Object]:
    """The classes that are made at the start when they are missing."""
    return [
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": flavor},
            "handler": flavor,
            **({"overhead": {"podFixed": dict(POD_FIXED[flavor])}} if flavor in POD_FIXED else {}),
        }
        for flavor in FLAVORS
    ]


def _canonical(obj: Object) -> None:
    fixed = (obj.get("overhead") or {}).get("podFixed")
    if fixed:
        obj["overhead"]["podFixed"] = {name: canonical_quantity(value) for name, value in fixed.items()}


def _prepare_create(obj: Object, _now: datetime) -> Object:
    reset_metadata(obj)
    _canonical(obj)
    return obj


def _validate_create(obj: Object) -> list[FieldError]:
    return [
        *validate_metadata(obj, namespaced=False),
        *_validate_annotation(obj),
        *_validate_handler(obj),
        *_validate_overhead(obj.get("overhead") or {}),
        *_validate_scheduling(obj.get("scheduling") or {}),
    ]


def _validate_annotation(obj: Object) -> Iterator[FieldError]:
    asked = (obj["metadata"].get("annotations") or {}).get(EXECUTOR)
    if asked not in (None, SHARED, DEDICATED):
        yield FieldError.not_supported(f"metadata.annotations[{EXECUTOR}]", asked, (SHARED, DEDICATED))


def _validate_handler(obj: Object) -> Iterator[FieldError]:
    handler = obj.get("handler", "")
    complaint = names.dns_label(handler)
    if complaint:
        yield FieldError.invalid("handler", handler, complaint)


def _validate_overhead(overhead: Object) -> Iterator[FieldError]:
    fixed = overhead.get("podFixed") or {}
    for error in validate_resources({"limits": fixed}, "overhead"):
        yield FieldError(
            error.field.replace("overhead.limits", "overhead.podFixed"), error.reason, error.message
        )
    for name in sorted(fixed.keys() - _OVERHEAD):
        yield FieldError.forbidden(f"overhead.podFixed[{name}]", "not supported by Gantry yet")


def _validate_scheduling(scheduling: Object) -> Iterator[FieldError]:
    yield from validate_labels(scheduling.get("nodeSelector"), "scheduling.nodeSelector")
    yield from validate_tolerations(scheduling.get("tolerations"), "scheduling.tolerations")


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    keep_metadata(new, old)
    _canonical(new)
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    errors = validate_metadata_update(new, old) + _validate_create(new)
    if new.get("handler") != old.get("handler"):
        errors.append(FieldError.invalid("handler", new.get("handler", ""), "field is immutable"))
    return errors


def _row(obj: Object, now: datetime) -> list[Any]:
    metadata = obj["metadata"]
    return [metadata["name"], obj.get("handler", ""), age(metadata.get("creationTimestamp"), now)]


RUNTIMECLASSES = Resource(
    group="node.k8s.io",
    version="v1",
    plural="runtimeclasses",
    singular="runtimeclass",
    kind="RuntimeClass",
    namespaced=False,
    model=RuntimeClass,
    columns=(NAME, Column("Handler", description="The stage1 flavor that runs its pods."), AGE),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate_create,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
)
