"""PersistentVolumeClaims of a pod: where the agent keeps their volumes, and the pod with those paths in it.

The task's resources say which volume is for which claim, by the labels of its reservation (`shared.claims`). A volume
is a symbolic link in the sandbox, or (with Mesos' filesystem/linux isolator) a mount there, which the processes of pods
do not see: then its directory below the agent's work directory is taken, of which the sandbox is part.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from shared.claims import CLAIM_LABEL

Json = dict[str, Any]
CLAIM: Final = "gantry.io/claim"
"""Marks a hostPath volume that is a claim's: `fsGroup` is for it, and not for what is the node's own."""


def paths(resources: Iterable[Mapping[str, Any]], sandbox: Path) -> dict[str, Path]:
    """Where the volume of each claim is, by namespace/name."""
    found = {}
    for one in resources:
        disk = one.get("disk") or {}
        if "persistence" not in disk:
            continue
        stack = one.get("reservations") or [{**(one.get("reservation") or {}), "role": one.get("role", "*")}]
        labels = (stack[-1].get("labels") or {}).get("labels") or ()
        claim = next((label.get("value", "") for label in labels if label["key"] == CLAIM_LABEL), "")
        link = sandbox / disk["volume"]["container_path"]
        found[claim] = _directory(link, stack[-1]["role"], disk["persistence"]["id"], sandbox)
    return found


def _directory(link: Path, role: str, volume_id: str, sandbox: Path) -> Path:
    if link.is_symlink():
        return Path(os.path.realpath(link))
    work_dir = str(sandbox).partition("/slaves/")[0]
    below = Path(work_dir, "volumes", "roles", role.replace("/", " "), volume_id)
    return below if below.is_dir() else link


def with_claims(pod: Mapping[str, Any], volumes: Mapping[str, Path]) -> Mapping[str, Any]:
    """The pod with the directories of its claims as hostPath volumes. Raises ValueError for a claim without one."""
    spec, namespace = pod.get("spec") or {}, (pod.get("metadata") or {}).get("namespace", "default")
    if not any("persistentVolumeClaim" in one for one in spec.get("volumes") or ()):
        return pod
    made, read_only = [], set()
    for one in spec["volumes"]:
        source = one.get("persistentVolumeClaim")
        if source is None:
            made.append(one)
            continue
        claim = f"{namespace}/{source['claimName']}"
        if claim not in volumes:
            raise ValueError(f'volume "{one["name"]}": the task has no volume of claim {claim}')
        place = {"path": str(volumes[claim]), "type": "Directory"}
        made.append(
            {"name": one["name"], "hostPath": place, CLAIM: {"readOnly": bool(source.get("readOnly"))}}
        )
        if source.get("readOnly"):
            read_only.add(one["name"])
    changed: Json = {**spec, "volumes": made}
    for key in ("initContainers", "containers"):
        if spec.get(key):
            changed[key] = [_read_only(one, read_only) for one in spec[key]]
    return {**pod, "spec": changed}


def _read_only(container: Mapping[str, Any], names: set[str]) -> Mapping[str, Any]:
    mounts = [
        {**one, "readOnly": True} if one["name"] in names else one
        for one in container.get("volumeMounts") or ()
    ]
    return {**container, "volumeMounts": mounts} if mounts else container
