"""What other objects say about a new pod: its RuntimeClass and its ServiceAccount.

Rules and wording: kube-apiserver's admission plugins `runtimeclass` and `serviceaccount`. A pod keeps what it was
created with. Here, too, rktnetes' way to choose a stage1 becomes a RuntimeClass, and the class's word on the executor
goes before the namespace's (whose are inherited in `wishes`, inside of this).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from scheduler.registry import serviceaccounts
from scheduler.registry.errors import FieldError, Forbidden
from scheduler.registry.resource import Object, Resource
from scheduler.registry.wishes import asks_for_gpus
from shared.models import machines
from shared.models.annotations import EXECUTOR, SHARED, STAGE1_IMAGES, STAGE1_NAME

Find = Callable[[str, str, str], Object | None]
"""(resource as in store keys, namespace, name) -> the object, if there is one."""

RUNTIME_CLASSES = "runtimeclasses.node.k8s.io"
SERVICE_ACCOUNTS = "serviceaccounts"


def with_admission(resources: tuple[Resource, ...], find: Find) -> tuple[Resource, ...]:
    """The resources, with pods that are resolved against `find`'s objects when they are created."""
    return tuple(_pods(one, find) if one.store_name == "pods" else one for one in resources)


def _pods(pods: Resource, find: Find) -> Resource:
    def prepare_create(pod: Object, now: datetime) -> Object:
        spec = pod.setdefault("spec", {})
        _choose_class(pod, spec, find)
        name = (pod.get("metadata") or {}).get("name", "")
        runtime = _runtime_class(spec, name, find)
        _inherit_executor(pod, runtime)
        pod = pods.prepare_create(pod, now)
        _set_overhead(spec, runtime, name)
        _set_scheduling(spec, runtime.get("scheduling") or {}, name)
        _set_pull_secrets(pod, spec, find)
        return pod

    def validate_create(pod: Object) -> list[FieldError]:
        return [*_validate_stage1(pod, find), *_validate_machine(pod, find), *pods.validate_create(pod)]

    def validate_update(new: Object, old: Object) -> list[FieldError]:
        errors = pods.validate_update(new, old)
        if _note(new, STAGE1_NAME) != _note(old, STAGE1_NAME):
            why = "may not be changed once the pod exists: delete it and create it again"
            errors.append(FieldError.forbidden(f"metadata.annotations[{STAGE1_NAME}]", why))
        return errors

    return replace(
        pods, prepare_create=prepare_create, validate_create=validate_create, validate_update=validate_update
    )


def _note(obj: Object, name: str) -> str:
    return str(((obj.get("metadata") or {}).get("annotations") or {}).get(name, ""))


# ---- rktnetes


def _stage1_class(image: str, find: Find) -> str | None:
    """The class for a stage1 image; rkt lets a name end with `:VERSION`, and ours are of our own version. Or the class
    of that very name: what other images are called, the nodes' settings say."""
    ours = STAGE1_IMAGES.get(image.partition(":")[0])
    if ours is not None or not image or "/" in image:
        return ours
    return None if find(RUNTIME_CLASSES, "", image) is None else image


def _choose_class(pod: Object, spec: Object, find: Find) -> None:
    chosen = _stage1_class(_note(pod, STAGE1_NAME), find)
    if chosen is not None:
        spec.setdefault("runtimeClassName", chosen)


def _validate_stage1(pod: Object, find: Find) -> list[FieldError]:
    image, path = _note(pod, STAGE1_NAME), f"metadata.annotations[{STAGE1_NAME}]"
    if not image:
        return []
    chosen, asked = _stage1_class(image, find), pod["spec"].get("runtimeClassName")
    if chosen is None:
        return [FieldError.not_supported(path, image, STAGE1_IMAGES)]
    if chosen != asked:
        return [FieldError.invalid(path, image, f"means runtimeClassName {chosen}, the pod has {asked}")]
    return []


# ---- RuntimeClass


def _validate_machine(pod: Object, find: Find) -> list[FieldError]:
    """What a pod of a class for virtual machines cannot have; see `shared.models.machines`."""
    name = pod["spec"].get("runtimeClassName")
    runtime = find(RUNTIME_CLASSES, "", name) if name else None
    if runtime is None or runtime.get("handler") != machines.HANDLER:
        return []
    return [
        FieldError.forbidden(path, f"{why} (RuntimeClass {name}, flavor {machines.HANDLER})")
        for path, why in machines.lacks(pod)
    ]


def _runtime_class(spec: Object, pod: str, find: Find) -> Object:
    """Empty for a pod that names none. Raises Forbidden for one that does not exist."""
    name = spec.get("runtimeClassName")
    if not name:
        return {}
    found = find(RUNTIME_CLASSES, "", name)
    if found is None:
        raise Forbidden("pods", pod, f'pod rejected: RuntimeClass "{name}" not found')
    return found


def _inherit_executor(pod: Object, runtime: Object) -> None:
    asked = _note(runtime, EXECUTOR)
    if asked and not (asked == SHARED and asks_for_gpus(pod)):
        metadata = pod.setdefault("metadata", {})
        metadata["annotations"] = {EXECUTOR: asked, **(metadata.get("annotations") or {})}


def _set_overhead(spec: Object, runtime: Object, pod: str) -> None:
    """The class alone says it; a pod may repeat it. Both are canonical."""
    fixed, given = (runtime.get("overhead") or {}).get("podFixed"), spec.get("overhead")
    if not fixed and given:
        why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        raise Forbidden("pods", pod, why)
    if fixed and given and fixed != given:
        why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        raise Forbidden("pods", pod, why)
    if fixed:
        spec["overhead"] = dict(fixed)


def _set_scheduling(spec: Object, scheduling: Object, pod: str) -> None:
    selector = spec.get("nodeSelector") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if selector.get(key, value) != value:
            why = (
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                f"pod.spec.nodeSelector[{key}] = {selector[key]}"
            )
            raise Forbidden("pods", pod, why)
        spec["nodeSelector"] = selector = {**selector, key: value}
    if scheduling.get("tolerations"):
        spec["tolerations"] = merge_tolerations(spec.get("tolerations") or [], scheduling["tolerations"])


def merge_tolerations(first: list[Object], second: list[Object]) -> list[Object]:
    """Both lists, without those that another one covers. Source: `pkg/util/tolerations`."""
    every = [*first, *second]
    merged: list[Object] = []
    for index, one in enumerate(every):
        later = [other for other in every[index + 1 :] if other != one]  # of equal ones the first stays
        if not any(_covers(other, one) for other in (*merged, *later)):
            merged.append(one)
    return merged


def _covers(wide: Object, narrow: Object) -> bool:
    """Whether whatever `narrow` tolerates `wide` does."""
    if wide == narrow:
        return True
    operator = wide.get("operator") or "Equal"
    if wide.get("key", "") != narrow.get("key", "") and (wide.get("key") or operator != "Exists"):
        return False
    if wide.get("effect") and wide["effect"] != narrow.get("effect", ""):
        return False
    if wide.get("effect") == "NoExecute" and "tolerationSeconds" in wide:
        seconds = narrow.get("tolerationSeconds")
        if seconds is None or seconds > wide["tolerationSeconds"]:
            return False
    if operator == "Exists":
        return True
    alike: Any = (narrow.get("operator") or "Equal", narrow.get("value", ""))
    return bool(alike == ("Equal", wide.get("value", "")))


# ---- ServiceAccount


def _set_pull_secrets(pod: Object, spec: Object, find: Find) -> None:
    """The account's, when the pod names none. The account `default` need not be there yet: it comes by itself."""
    namespace, name = pod["metadata"].get("namespace", ""), spec["serviceAccountName"]
    account = find(SERVICE_ACCOUNTS, namespace, name)
    if account is None and name != serviceaccounts.DEFAULT:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise Forbidden("pods", pod["metadata"].get("name", ""), why)
    secrets = (account or {}).get("imagePullSecrets")
    if secrets and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [dict(one) for one in secrets]
