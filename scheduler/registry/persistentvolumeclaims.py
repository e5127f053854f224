"""The persistentvolumeclaims resource: storage that outlives pods, on the disk of one Mesos agent.

A Mesos volume is used by one task at a time, so of the access modes those of a single user are done: ReadWriteOnce
means what ReadWriteOncePod does. Rules and wording: `pkg/apis/core/validation/validation.go`,
`pkg/registry/core/persistentvolumeclaim`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_all_but_status,
    keep_metadata,
    reset_metadata,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.persistentvolumes import phase_of, short_modes
from scheduler.registry.resource import Column, Object, Resource
from shared.claims import PROTECTION, STORAGE_CLASS
from shared.models.quantities import quantity_bytes
from shared.models.storage import PersistentVolumeClaim

_ALL_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_OUR_MODES = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})
_SPEC = frozenset({"accessModes", "resources", "storageClassName", "volumeMode", "volumeName"})
_NOT_YET = "not supported by Gantry yet"
_IMMUTABLE = "spec is immutable after creation"
_GROWTH = (
    "a volume of a Mesos agent neither grows nor shrinks (its class has allowVolumeExpansion false): create another "
    "claim and copy the data"
)
_CHOICE = "a volume is made for each claim; one cannot be chosen"
_REFUSED = {
    "selector": _CHOICE,
    "dataSource": "a volume starts empty: there is nothing to clone it from",
    "dataSourceRef": "a volume starts empty: there is nothing to clone it from",
    "volumeAttributesClassName": "there are no VolumeAttributesClasses",
}


def _prepare_create(claim: Object, _now: datetime) -> Object:
    metadata = reset_metadata(claim)
    finalizers = metadata.setdefault("finalizers", [])
    if PROTECTION not in finalizers:
        finalizers.append(PROTECTION)
    spec = claim.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")
    spec.setdefault("storageClassName", STORAGE_CLASS)
    claim["status"] = {"phase": "Pending"}
    return claim


def _validate_create(claim: Object) -> list[FieldError]:
    spec = claim.get("spec") or {}
    errors = validate_metadata(claim, namespaced=True)
    errors += _validate_modes(spec.get("accessModes"))
    errors += _validate_size(spec.get("resources") or {})
    mode = spec.get("volumeMode")
    if mode not in ("Filesystem", "Block"):
        errors.append(FieldError.not_supported("spec.volumeMode", mode, ("Block", "Filesystem")))
    elif mode == "Block":
        errors.append(FieldError.forbidden("spec.volumeMode", f"Block: {_NOT_YET}"))
    if spec.get("storageClassName") != STORAGE_CLASS:
        errors.append(
            FieldError.not_supported("spec.storageClassName", spec.get("storageClassName"), (STORAGE_CLASS,))
        )
    if spec.get("volumeName"):
        errors.append(FieldError.forbidden("spec.volumeName", _CHOICE))
    for key in sorted(spec.keys() - _SPEC):
        errors.append(FieldError.forbidden(f"spec.{key}", _REFUSED.get(key, _NOT_YET)))
    return errors


def _validate_modes(modes: list[str] | None) -> Iterator[FieldError]:
    path = "spec.accessModes"
    if not modes:
        yield FieldError.required(path, "at least 1 access mode is required")
    for mode in modes or ():
        if mode not in _ALL_MODES:
            yield FieldError.not_supported(path, mode, _ALL_MODES)
        elif mode not in _OUR_MODES:
            yield FieldError.forbidden(path, f"{mode}: a volume of a Mesos agent has one user at a time")
    if modes and "ReadWriteOncePod" in modes and len(modes) > 1:
        yield FieldError.forbidden(path, "may not use ReadWriteOncePod with other access modes")


def _validate_size(resources: Object) -> Iterator[FieldError]:
    path = "spec.resources"
    if resources.get("limits"):
        yield FieldError.forbidden(f"{path}.limits", _NOT_YET)
    requests = resources.get("requests") or {}
    storage = requests.get("storage")
    if storage is None:
        yield FieldError.required(f"{path}[storage]")
    elif quantity_bytes(storage) <= 0:
        yield FieldError.invalid(f"{path}[storage]", storage, "must be greater than zero")
    for name in sorted(requests.keys() - {"storage"}):
        yield FieldError.not_supported(f"{path}.requests[{name}]", name, ("storage",))


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    if status:
        return keep_all_but_status(new, old)
    keep_metadata(new, old)
    spec, before = new.setdefault("spec", {}), old["spec"]
    for key in ("volumeName", "volumeMode", "storageClassName"):
        if key in before:
            spec.setdefault(key, before[key])
    new["status"] = old.get("status") or {}
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    errors = validate_metadata_update(new, old)
    if new["metadata"] != old["metadata"]:
        errors += validate_metadata(new, namespaced=True)
    size, before = (_size(one.get("spec") or {}) for one in (new, old))
    if size != before:
        errors.append(FieldError.forbidden("spec.resources.requests.storage", _GROWTH))
    if _without_size(new) != _without_size(old):
        errors.append(FieldError.forbidden("spec", _IMMUTABLE))
    return errors


def _size(spec: Object) -> Any:
    return ((spec.get("resources") or {}).get("requests") or {}).get("storage")


def _without_size(claim: Object) -> Object:
    spec: Object = claim.get("spec") or {}
    resources = spec.get("resources") or {}
    requests = {name: value for name, value in (resources.get("requests") or {}).items() if name != "storage"}
    return {**spec, "resources": {**resources, "requests": requests}}


def _row(claim: Object, now: datetime) -> list[Any]:
    spec, status, meta = claim.get("spec") or {}, claim.get("status") or {}, claim["metadata"]
    bound = bool(spec.get("volumeName"))
    return [
        meta["name"],
        phase_of(claim),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        short_modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName", ""),
        "<unset>",
        age(meta.get("creationTimestamp"), now),
        spec.get("volumeMode") or "<unset>",
    ]


PERSISTENTVOLUMECLAIMS = Resource(
    group="",
    version="v1",
    plural="persistentvolumeclaims",
    singular="persistentvolumeclaim",
    kind="PersistentVolumeClaim",
    namespaced=True,
    short_names=("pvc",),
    subresources=("status",),
    model=PersistentVolumeClaim,
    columns=(
        NAME,
        Column("Status", description="Pending, Bound or Lost."),
        Column("Volume", description="The volume it is bound to."),
        Column("Capacity", description="How much that holds."),
        Column("Access Modes", description="How it may be used."),
        Column("StorageClass", description="Its class."),
        Column("VolumeAttributesClass", description="None."),
        AGE,
        Column("VolumeMode", description="Filesystem.", priority=1),
    ),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate_create,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
)
