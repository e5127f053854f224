"""What pods and namespaces may ask of Gantry by annotation: checked against this scheduler's settings, and given to a
pod by its namespace when it is created.

A pod keeps what it was created with, so that a change of its namespace moves nothing that exists; on a pod these
annotations cannot be changed. As Kubernetes' PodNodeSelector admission plugin does it with node selectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object, Resource
from shared.models.annotations import DEDICATED, EXECUTOR, REVOCABLE, ROLE, SHARED

GPU = "nvidia.com/gpu"

Notes = Mapping[str, str]
"""Annotations by name."""


def with_wishes(
    resources: tuple[Resource, ...],
    roles: tuple[str, ...],
    namespace_notes: Callable[[str], Notes],
    *,
    revocable: bool = False,
) -> tuple[Resource, ...]:
    """The resources, with pods and namespaces that honour the annotations. `roles`: those of the framework;
    `namespace_notes`: a namespace's annotations, empty when there is no such namespace; `revocable`: whether the
    framework takes revocable resources."""
    allowed = {
        ROLE: roles,
        EXECUTOR: (SHARED, DEDICATED),
        REVOCABLE: ("false", "true") if revocable else ("false",),
    }

    def wrapped(one: Resource) -> Resource:
        if one.store_name == "pods":
            return _pods(one, allowed, namespace_notes)
        return _namespaces(one, allowed) if one.store_name == "namespaces" else one

    return tuple(wrapped(one) for one in resources)


Allowed = Mapping[str, tuple[str, ...]]


def _pods(pods: Resource, allowed: Allowed, namespace_notes: Callable[[str], Notes]) -> Resource:
    def prepare_create(pod: Object, now: datetime) -> Object:
        pod = pods.prepare_create(pod, now)
        _inherit(pod, namespace_notes(pod["metadata"].get("namespace", "")), allowed)
        return pod

    def prepare_update(new: Object, old: Object, *, status: bool) -> Object:
        new = pods.prepare_update(new, old, status=status)
        _inherit(new, _notes(old), allowed)
        return new

    def validate_create(pod: Object) -> list[FieldError]:
        return [*pods.validate_create(pod), *_wrong(pod, allowed), *_too_good(pod), *_too_close(pod)]

    def validate_update(new: Object, old: Object) -> list[FieldError]:
        return [*pods.validate_update(new, old), *_changed(new, old, allowed)]

    return replace(
        pods,
        prepare_create=prepare_create,
        prepare_update=prepare_update,
        validate_create=validate_create,
        validate_update=validate_update,
    )


def _namespaces(namespaces: Resource, allowed: Allowed) -> Resource:
    def validate_create(obj: Object) -> list[FieldError]:
        return [*namespaces.validate_create(obj), *_wrong(obj, allowed)]

    def validate_update(new: Object, old: Object) -> list[FieldError]:
        """What was there before is let be: another scheduler's flags may have allowed it."""
        before = _notes(old)
        wrong = _wrong(new, {name: (*values, before.get(name, "")) for name, values in allowed.items()})
        return [*namespaces.validate_update(new, old), *wrong]

    return replace(namespaces, validate_create=validate_create, validate_update=validate_update)


def _notes(obj: Object) -> Notes:
    return (obj.get("metadata") or {}).get("annotations") or {}


def _inherit(pod: Object, notes: Notes, allowed: Allowed) -> None:
    """Its own word counts more."""
    given = {name: notes[name] for name in allowed if name in notes}
    if not _best_effort(pod):
        given.pop(REVOCABLE, None)
    if given.get(EXECUTOR) == SHARED and asks_for_gpus(pod):
        del given[EXECUTOR]
    if given:
        pod["metadata"]["annotations"] = {**given, **_notes(pod)}


def _best_effort(pod: Object) -> bool:
    return bool((pod.get("status") or {}).get("qosClass") == "BestEffort")


def _too_good(pod: Object) -> list[FieldError]:
    """A pod that asks for amounts wants to keep them."""
    if _notes(pod).get(REVOCABLE) != "true" or _best_effort(pod):
        return []
    why = "only pods of QoS class BestEffort, without requests and limits, may run on revocable resources"
    return [FieldError.invalid(_path(REVOCABLE), "true", why)]


def asks_for_gpus(pod: Object) -> bool:
    containers = [*(pod["spec"].get("initContainers") or ()), *(pod["spec"].get("containers") or ())]
    return any(GPU in ((one.get("resources") or {}).get("limits") or {}) for one in containers)


def _too_close(pod: Object) -> list[FieldError]:
    """Mesos gives GPUs to executors, and takes them back without asking which."""
    if _notes(pod).get(EXECUTOR) != SHARED or not asks_for_gpus(pod):
        return []
    return [FieldError.invalid(_path(EXECUTOR), SHARED, f"pods with {GPU} have an executor of their own")]


def _path(name: str) -> str:
    return f"metadata.annotations[{name}]"


def _wrong(obj: Object, allowed: Allowed) -> list[FieldError]:
    notes = _notes(obj)
    return [
        FieldError.not_supported(_path(name), notes[name], values)
        for name, values in allowed.items()
        if name in notes and notes[name] not in values
    ]


def _changed(new: Object, old: Object, names: Allowed) -> list[FieldError]:
    return [
        FieldError.forbidden(
            _path(name), "may not be changed once the pod exists: delete it and create it again"
        )
        for name in names
        if _notes(new).get(name) != _notes(old).get(name)
    ]
