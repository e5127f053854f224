"""The storageclasses resource. There is one class, built in: disk of Mesos agents."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from scheduler.registry.cells import AGE, age
from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Column, Object, Resource
from shared.claims import PROVISIONER, STORAGE_CLASS
from shared.models.storage import StorageClass

DEFAULT_ANNOTATION: Final = "storageclass.kubernetes.io/is-default-class"

_WHY = "the storage classes are Gantry's own"


def built_in() -> Object:
    """The one class, as it is made at the first start."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {DEFAULT_ANNOTATION: "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": False,
    }


def _created(obj: Object, _now: datetime) -> Object:
    return obj


def _validate_create(obj: Object) -> list[FieldError]:
    return (
        [] if obj["metadata"].get("name") == STORAGE_CLASS else [FieldError.forbidden("metadata.name", _WHY)]
    )


def _updated(new: Object, old: Object, *, status: bool) -> Object:
    return new


def _refused(_new: Object, _old: Object) -> list[FieldError]:
    return [FieldError.forbidden("metadata.name", _WHY)]


def _row(obj: Object, now: datetime) -> list[Any]:
    meta = obj["metadata"]
    default = (meta.get("annotations") or {}).get(DEFAULT_ANNOTATION) == "true"
    return [
        meta["name"] + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        age(meta.get("creationTimestamp"), now),
    ]


STORAGECLASSES = Resource(
    group="storage.k8s.io",
    version="v1",
    plural="storageclasses",
    singular="storageclass",
    kind="StorageClass",
    namespaced=False,
    short_names=("sc",),
    verbs=("get", "list", "watch"),
    model=StorageClass,
    columns=(
        Column("Name", format="name", description="Name of the class."),
        Column("Provisioner", description="Who makes its volumes."),
        Column("ReclaimPolicy", description="What becomes of a volume whose claim is deleted."),
        Column("VolumeBindingMode", description="When a volume is made."),
        Column("AllowVolumeExpansion", type="boolean", description="Whether claims may grow."),
        AGE,
    ),
    row=_row,
    prepare_create=_created,
    validate_create=_validate_create,
    prepare_update=_updated,
    validate_update=_refused,
)
