"""v1 PersistentVolumeClaims and PersistentVolumes: what the engine reads of them, and what it writes.

The PersistentVolume is the record of a volume of ours; users cannot write it. Of a claim the engine writes the
status, spec.volumeName and the removal of the finalizer that protects it while it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scheduler.framework.core import effects as fx
from scheduler.framework.core.claims import Claim, Volume, VolumeState
from scheduler.framework.core.pods import megabytes
from scheduler.framework.core.status import rfc3339
from scheduler.store import UNCHANGED, Change, Entry, Key, StoreError, Unchanged
from shared.claims import PROTECTION, PROVISIONER, STORAGE_CLASS

Json = dict[str, Any]

CLAIMS = "persistentvolumeclaims"
VOLUMES = "persistentvolumes"


def claim_from_object(obj: Mapping[str, Any]) -> Claim:
    """`obj` is a validated v1 PersistentVolumeClaim. Less than a MB is a whole one: Mesos counts in those."""
    meta, spec = obj["metadata"], obj["spec"]
    return Claim(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        size=max(megabytes(spec["resources"]["requests"]["storage"]), 1000),
        modes=tuple(spec.get("accessModes") or ()),
        deleted="deletionTimestamp" in meta,
        phase=(obj.get("status") or {}).get("phase") or "Pending",
    )


def volume_from_object(obj: Mapping[str, Any]) -> Volume:
    """A PersistentVolume that `volume_object` wrote. Raises StoreError for another."""
    try:
        spec, claim = obj["spec"], obj["spec"]["claimRef"]
        facts = spec["csi"]["volumeAttributes"]
        return Volume(
            id=spec["csi"]["volumeHandle"],
            claim_uid=claim["uid"],
            namespace=claim["namespace"],
            claim=claim["name"],
            size=int(facts["size"]),
            node=facts["node"],
            role=facts["role"],
            modes=tuple(spec["accessModes"]),
            state=VolumeState(obj["status"]["phase"]),
            lost=obj["status"].get("reason") == "NodeLost",
        )
    except (KeyError, TypeError, ValueError) as error:
        name = (obj.get("metadata") or {}).get("name")
        raise StoreError(f"the record of volume {name} cannot be read ({error!r})") from error


def capacity(volume: Volume) -> str:
    """Thousandths of a MB as a quantity."""
    kibis = volume.size * 1024 // 1000
    for unit in ("Ki", "Mi", "Gi", "Ti"):
        if kibis % 1024 or unit == "Ti":
            return f"{kibis}{unit}"
        kibis //= 1024
    raise AssertionError("the last unit returns")


def volume_object(old: Json | None, volume: Volume, *, uid: str, now: float) -> Json:
    """The PersistentVolume of a volume; `uid` for one that does not exist yet."""
    meta = dict((old or {}).get("metadata") or {})
    meta = meta or {"name": volume.id, "uid": uid, "creationTimestamp": rfc3339(now)}
    meta["annotations"] = {
        **(meta.get("annotations") or {}),
        "pv.kubernetes.io/provisioned-by": PROVISIONER,
    }
    status: Json = {"phase": volume.state.value}
    if volume.lost:
        status |= {"reason": "NodeLost", "message": f"node {volume.node} is gone"}
    before = (old or {}).get("status") or {}
    moved = before.get("phase") != status["phase"]
    status["lastPhaseTransitionTime"] = rfc3339(now) if moved else before["lastPhaseTransitionTime"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": meta,
        "spec": _spec(volume),
        "status": status,
    }


def _spec(volume: Volume) -> Json:
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [volume.node]}
    return {
        "accessModes": list(volume.modes),
        "capacity": {"storage": capacity(volume)},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": volume.namespace,
            "name": volume.claim,
            "uid": volume.claim_uid,
        },
        "csi": {
            "driver": PROVISIONER,
            "volumeHandle": volume.id,
            "volumeAttributes": {"node": volume.node, "role": volume.role, "size": str(volume.size)},
        },
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": STORAGE_CLASS,
        "volumeMode": "Filesystem",
    }


def bound_claim(old: Json, volume: Volume, phase: str) -> Json:
    """A claim with its volume, and whether that is there (Bound) or not (Lost)."""
    status = {
        **(old.get("status") or {}),
        "phase": phase,
        "accessModes": list(volume.modes),
        "capacity": {"storage": capacity(volume)},
    }
    return {**old, "spec": {**old["spec"], "volumeName": volume.id}, "status": status}


def released_claim(old: Json) -> Json | None:
    """A deleted claim that nobody uses any more; None when nothing else keeps it."""
    meta = old["metadata"]
    if "deletionTimestamp" not in meta:
        return old
    rest = [one for one in meta.get("finalizers") or () if one != PROTECTION]
    if not rest:
        return None
    return {**old, "metadata": {**meta, "finalizers": rest}}


# ---- saves


def storage_change(
    effect: fx.SaveVolume | fx.DropVolume | fx.SaveClaim | fx.ReleaseClaim,
    now: float,
    new_uid: Callable[[], str],
) -> Change:
    """One change of the store's commit. A claim of that name with another uid is somebody else's."""
    if isinstance(effect, fx.SaveVolume):
        volume = effect.volume
        key = Key(VOLUMES, "", volume.id)
        return key, lambda old: volume_object(old.obj if old else None, volume, uid=new_uid(), now=now)
    if isinstance(effect, fx.DropVolume):
        return Key(VOLUMES, "", effect.volume_id), lambda old: UNCHANGED if old is None else None
    claim = effect

    def change(old: Entry | None) -> Json | Unchanged | None:
        if old is None or old.obj["metadata"].get("uid") != claim.uid:
            return UNCHANGED
        if isinstance(claim, fx.ReleaseClaim):
            return released_claim(old.obj)
        return bound_claim(old.obj, claim.volume, claim.phase)

    return Key(CLAIMS, claim.namespace, claim.name), change
