"""The persistentvolumes resource: the volumes we made on Mesos agents. Gantry makes and removes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import keep_all_but_status
from scheduler.registry.resource import Column, Object, Resource
from shared.models.storage import PersistentVolume

_WHY = "persistent volumes are made and removed by Gantry; create or delete a claim instead"

MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _created(obj: Object, _now: datetime) -> Object:
    return obj


def _updated(new: Object, old: Object, *, status: bool) -> Object:
    return keep_all_but_status(new, old) if status else new


def _refused(*_: object) -> list[FieldError]:
    return [FieldError.forbidden("metadata.name", _WHY)]


def short_modes(modes: list[str] | None) -> str:
    """`RWO,RWOP`."""
    return ",".join(MODES.get(one, one) for one in modes or ())


def phase_of(obj: Object) -> str:
    """The word in the Status column."""
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    return str((obj.get("status") or {}).get("phase") or "")


def _row(obj: Object, now: datetime) -> list[Any]:
    spec, meta = obj.get("spec") or {}, obj["metadata"]
    claim = spec.get("claimRef") or {}
    return [
        meta["name"],
        (spec.get("capacity") or {}).get("storage", ""),
        short_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        phase_of(obj),
        f"{claim['namespace']}/{claim['name']}" if claim else "",
        spec.get("storageClassName", ""),
        "<unset>",
        (obj.get("status") or {}).get("reason", ""),
        age(meta.get("creationTimestamp"), now),
        spec.get("volumeMode") or "<unset>",
    ]


PERSISTENTVOLUMES = Resource(
    group="",
    version="v1",
    plural="persistentvolumes",
    singular="persistentvolume",
    kind="PersistentVolume",
    namespaced=False,
    short_names=("pv",),
    verbs=("get", "list", "watch"),
    model=PersistentVolume,
    columns=(
        NAME,
        Column("Capacity", description="How much it holds."),
        Column("Access Modes", description="How it may be used."),
        Column("Reclaim Policy", description="What becomes of it when its claim is deleted."),
        Column("Status", description="Whether it is there, and for whom."),
        Column("Claim", description="Namespace and name of its claim."),
        Column("StorageClass", description="Its class."),
        Column("VolumeAttributesClass", description="None."),
        Column("Reason", description="Why it is in its phase."),
        AGE,
        Column("VolumeMode", description="Filesystem.", priority=1),
    ),
    row=_row,
    prepare_create=_created,
    validate_create=_refused,
    prepare_update=_updated,
    validate_update=_refused,
)
