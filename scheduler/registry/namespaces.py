"""The namespaces resource. Emptying and removing a deleted one is the api's business."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scheduler.registry import names
from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_all_but_status,
    keep_metadata,
    reset_metadata,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.resource import Column, Object, Resource
from shared.models.namespace import Namespace

_NAME_LABEL = "kubernetes.io/metadata.name"


def _label(namespace: Object) -> None:
    metadata = namespace["metadata"]
    if metadata.get("name"):
        metadata.setdefault("labels", {})[_NAME_LABEL] = metadata["name"]


def _prepare_create(namespace: Object, _now: datetime) -> Object:
    reset_metadata(namespace)
    _label(namespace)
    namespace["spec"] = {"finalizers": ["kubernetes"]}
    namespace["status"] = {"phase": "Active"}
    return namespace


def _validate_create(namespace: Object) -> list[FieldError]:
    return validate_metadata(namespace, namespaced=False, name=names.dns_label)


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    if status:
        return keep_all_but_status(new, old)
    keep_metadata(new, old)
    _label(new)
    for key in ("spec", "status"):  # finalizers change only when the namespace is removed
        if key in old:
            new[key] = old[key]
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    return validate_metadata_update(new, old) + _validate_create(new)


def _phase(namespace: Object) -> str:
    return str((namespace.get("status") or {}).get("phase", ""))


def _row(namespace: Object, now: datetime) -> list[Any]:
    metadata = namespace["metadata"]
    return [metadata.get("name", ""), _phase(namespace), age(metadata.get("creationTimestamp"), now)]


NAMESPACES = Resource(
    group="",
    version="v1",
    plural="namespaces",
    singular="namespace",
    kind="Namespace",
    namespaced=False,
    short_names=("ns",),
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    subresources=("status",),
    model=Namespace,
    columns=(NAME, Column("Status", description="Active or Terminating."), AGE),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate_create,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
    fields={
        "status.phase": _phase,
    },
)
