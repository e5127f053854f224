"""The nodes resource: Mesos agents. Gantry makes and removes them; users cordon, taint, label and annotate."""

from __future__ import annotations

from collections.abc import Iterator
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
from shared.models.conditions import find_condition
from shared.models.node import Node

_ROLE_PREFIX = "node-role.kubernetes.io/"
_ROLE = "kubernetes.io/role"
_EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_MUTABLE = ("taints", "unschedulable")


def _prepare_create(node: Object, _now: datetime) -> Object:
    reset_metadata(node)
    node.setdefault("spec", {})
    return node


def _validate_create(_node: Object) -> list[FieldError]:
    why = "nodes are made by Gantry, one for every Mesos agent it is offered; start an agent instead"
    return [FieldError.forbidden("metadata.name", why)]


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    if status:
        return keep_all_but_status(new, old)
    keep_metadata(new, old)
    spec, before = new.setdefault("spec", {}), old.get("spec") or {}
    for key, value in before.items():
        if key not in _MUTABLE:
            spec.setdefault(key, value)
    if spec.get("unschedulable") is False:
        del spec["unschedulable"]
    if not spec.get("taints"):
        spec.pop("taints", None)
    if "status" in old:
        new["status"] = old["status"]
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    errors = validate_metadata_update(new, old)
    errors += validate_metadata(new, namespaced=False)
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    for key in sorted(spec.keys() | before.keys()):
        if key not in _MUTABLE and spec.get(key) != before.get(key):
            why = "node updates may only change labels, annotations, taints and unschedulable"
            errors.append(FieldError.forbidden(f"spec.{key}", why))
    return [*errors, *_validate_taints(spec.get("taints"))]


def _validate_taints(taints: list[Object] | None) -> Iterator[FieldError]:
    seen = set()
    for index, taint in enumerate(taints or ()):
        path = f"spec.taints[{index}]"
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect")
        if complaint := names.qualified_name(key):
            yield FieldError.invalid(f"{path}.key", key, complaint)
        if complaint := names.label_value(value):
            yield FieldError.invalid(f"{path}.value", value, complaint)
        if not effect:
            yield FieldError.required(f"{path}.effect")
        elif effect not in _EFFECTS:
            yield FieldError.not_supported(f"{path}.effect", effect, _EFFECTS)
        if (key, effect) in seen:
            yield FieldError.duplicate(path, taint)
        seen.add((key, effect))


def _status(node: Object) -> str:
    ready = find_condition((node.get("status") or {}).get("conditions"), "Ready")
    word = "Unknown"
    if ready is not None:
        word = "Ready" if ready.get("status") == "True" else "NotReady"
    return word + (",SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else "")


def _roles(node: Object) -> str:
    roles = set()
    for key, value in (node["metadata"].get("labels") or {}).items():
        if key.startswith(_ROLE_PREFIX):
            roles.add(key.removeprefix(_ROLE_PREFIX))
        elif key == _ROLE:
            roles.add(value)
    return ",".join(sorted(filter(None, roles))) or "<none>"


def _address(node: Object, kind: str) -> str:
    for one in (node.get("status") or {}).get("addresses") or ():
        if one.get("type") == kind:
            return str(one.get("address"))
    return "<none>"


def _row(node: Object, now: datetime) -> list[Any]:
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return [
        node["metadata"].get("name", ""),
        _status(node),
        _roles(node),
        age(node["metadata"].get("creationTimestamp"), now),
        info.get("kubeletVersion", ""),
        _address(node, "InternalIP"),
        _address(node, "ExternalIP"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


NODES = Resource(
    group="",
    version="v1",
    plural="nodes",
    singular="node",
    kind="Node",
    namespaced=False,
    short_names=("no",),
    model=Node,
    subresources=("status",),
    columns=(
        NAME,
        Column("Status", description="Whether the agent is there and takes pods."),
        Column("Roles", description="Roles, from its labels."),
        AGE,
        Column("Version", description="The version of Kubernetes it speaks."),
        Column("Internal-IP", description="Address in the cluster.", priority=1),
        Column("External-IP", description="Address outside.", priority=1),
        Column("OS-Image", description="Name of the distribution.", priority=1),
        Column("Kernel-Version", description="Of the kernel.", priority=1),
        Column("Container-Runtime", description="What runs the pods.", priority=1),
    ),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate_create,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
    fields={
        "spec.unschedulable": lambda node: (
            "true" if (node.get("spec") or {}).get("unschedulable") else "false"
        ),
    },
)
