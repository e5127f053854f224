"""Validation of pods: what kube-apiserver would refuse, in its words.

Rules and wording: `pkg/apis/core/validation/validation.go`. Objects have their defaults already. Containers are in
`container_validation`; what Gantry does not do yet is in `supported`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scheduler.registry import names
from scheduler.registry.affinity_validation import validate_affinity, validate_spread
from scheduler.registry.container_validation import validate_containers
from scheduler.registry.errors import FieldError
from scheduler.registry.label_validation import validate_apparmor_annotations, validate_apparmor_update
from scheduler.registry.metadata import validate_labels, validate_metadata, validate_metadata_update
from scheduler.registry.resource import Object
from scheduler.registry.security_validation import validate_security
from scheduler.registry.supported import NOT_YET, unsupported
from scheduler.registry.volume_validation import validate_projection
from shared.models.annotations import CHOICES, EGRESS_BANDWIDTH, INGRESS_BANDWIDTH
from shared.models.quantities import QuantityError, parse_quantity

RESTART_POLICIES = ("Always", "Never", "OnFailure")
_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
_LONGEST_SECONDS = 2**31 - 1
_LARGEST_OWN_ID = 65535  # of a user namespace: executor/stage1/userns.py

_MUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
    "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), "
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_AFTER_LAUNCH = "changing it is not supported by Gantry yet once the pod is bound to a node"


def validate_pod(pod: Object) -> list[FieldError]:
    """A new pod."""
    errors = validate_metadata(pod, namespaced=True)
    errors += _validate_annotations(pod)
    errors += validate_apparmor_annotations(pod)
    errors += _validate_bandwidth(pod)
    errors += validate_pod_spec(pod.get("spec") or {})
    return errors


def _validate_annotations(pod: Object) -> Iterator[FieldError]:
    notes = pod["metadata"].get("annotations") or {}
    for name, words in CHOICES.items():
        if name in notes and notes[name] not in words:
            yield FieldError.not_supported(f"metadata.annotations[{name}]", notes[name], words)


def _validate_bandwidth(pod: Object) -> Iterator[FieldError]:
    """As the bandwidth plug-in: `pkg/util/bandwidth/utils.go`."""
    notes = pod["metadata"].get("annotations") or {}
    for name in (INGRESS_BANDWIDTH, EGRESS_BANDWIDTH):
        if name not in notes:
            continue
        path = f"metadata.annotations[{name}]"
        try:
            rate = parse_quantity(notes[name])
        except QuantityError as error:
            yield FieldError.invalid(path, notes[name], str(error))
            continue
        if rate < parse_quantity("1k"):
            yield FieldError.invalid(path, notes[name], "resource is unreasonably small (< 1kbit)")
        elif rate > parse_quantity("1P"):
            yield FieldError.invalid(path, notes[name], "resource is unreasonably large (> 1Pbit)")


def validate_pod_spec(spec: Object) -> list[FieldError]:
    """What Kubernetes refuses; if nothing, what Gantry does not do."""
    errors = [
        *_validate_volumes(spec.get("volumes")),
        *validate_containers(spec, {one.get("name", ""): one for one in spec.get("volumes") or ()}),
        *_validate_choices(spec),
        *_validate_numbers(spec),
        *_validate_host_users(spec),
        *_validate_names(spec),
        *validate_labels(spec.get("nodeSelector"), "spec.nodeSelector"),
        *validate_tolerations(spec.get("tolerations"), "spec.tolerations"),
        *validate_affinity(spec.get("affinity")),
        *validate_spread(spec.get("topologySpreadConstraints")),
    ]
    known = {error.field for error in errors}
    return errors + [error for error in unsupported(spec) if error.field not in known]


def validate_pod_update(new: Object, old: Object) -> list[FieldError]:
    """A change: of the metadata, and of the few fields of a spec that may change."""
    errors = [*validate_metadata_update(new, old), *validate_apparmor_update(new, old)]
    if new["metadata"] != old["metadata"]:
        errors += validate_metadata(new, namespaced=True)
        errors += _validate_annotations(new)
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if spec == before:
        return errors
    changed = _immutable_changes(spec, before)
    if changed:
        return [*errors, FieldError.forbidden("spec", f"{_MUTABLE}; changed: {', '.join(changed)}")]
    errors += _validate_changes(spec, before)
    return errors + validate_pod_spec(spec)


def _immutable_changes(spec: Object, before: Object) -> list[str]:
    """The changed fields that may not change; of containers only the image may."""
    changed = []
    for key in sorted(spec.keys() | before.keys()):
        if key in ("containers", "initContainers"):
            if _without_images(spec.get(key)) != _without_images(before.get(key)):
                changed.append(key)
        elif key == "terminationGracePeriodSeconds":
            if spec.get(key) != before.get(key) and not (before.get(key, 0) < 0 and spec.get(key) == 1):
                changed.append(key)
        elif key not in ("activeDeadlineSeconds", "tolerations") and spec.get(key) != before.get(key):
            changed.append(key)
    return changed


def _without_images(containers: list[Object] | None) -> list[Object]:
    return [{key: value for key, value in one.items() if key != "image"} for one in containers or ()]


def _validate_changes(spec: Object, before: Object) -> Iterator[FieldError]:
    bound = bool(before.get("nodeName"))
    for key in ("containers", "initContainers"):
        pairs = zip(spec.get(key) or (), before.get(key) or (), strict=True)
        for index, (container, was) in enumerate(pairs):
            if bound and container.get("image") != was.get("image"):
                yield FieldError.forbidden(f"spec.{key}[{index}].image", _AFTER_LAUNCH)
    deadline, was_deadline = spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds")
    if deadline != was_deadline:
        path = "spec.activeDeadlineSeconds"
        if bound:
            yield FieldError.forbidden(path, _AFTER_LAUNCH)
        elif was_deadline is not None and deadline is None:
            yield FieldError.invalid(path, None, f"must not be unset; it was {was_deadline}")
        elif was_deadline is not None and deadline is not None and deadline > was_deadline:
            yield FieldError.invalid(path, deadline, "must be less than or equal to previous value")
    kept = [_identity(one) for one in spec.get("tolerations") or ()]
    for one in before.get("tolerations") or ():
        if _identity(one) not in kept:
            why = "existing toleration can not be modified except its tolerationSeconds"
            yield FieldError.forbidden("spec.tolerations", why)
            return


def _identity(toleration: Object) -> tuple[Any, ...]:
    return tuple(toleration.get(key, "") for key in ("key", "operator", "value", "effect"))


def _validate_volumes(volumes: list[Object] | None) -> Iterator[FieldError]:
    taken: set[str] = set()
    for index, volume in enumerate(volumes or ()):
        path = f"spec.volumes[{index}]"
        name = volume.get("name")
        if not name:
            yield FieldError.required(f"{path}.name")
        elif complaint := names.dns_label(name):
            yield FieldError.invalid(f"{path}.name", name, complaint)
        elif name in taken:
            yield FieldError.duplicate(f"{path}.name", name)
        taken.add(name or "")
        sources = [key for key in volume if key != "name"]
        if not sources:
            yield FieldError.required(path, "must specify a volume type")
        for source in sources[1:]:
            yield FieldError.forbidden(f"{path}.{source}", "may not specify more than 1 volume type")
        if "emptyDir" in volume:
            size = volume["emptyDir"].get("sizeLimit", "0")
            if size.startswith("-"):
                yield FieldError.forbidden(
                    f"{path}.emptyDir.sizeLimit", "SizeLimit field must be a valid resource quantity"
                )
        if "persistentVolumeClaim" in volume and not volume["persistentVolumeClaim"].get("claimName"):
            yield FieldError.required(f"{path}.persistentVolumeClaim.claimName")
        if "hostPath" in volume:
            yield from _validate_host_path(volume["hostPath"], f"{path}.hostPath")
        yield from validate_projection(volume, path)


def _validate_host_path(source: Object, path: str) -> Iterator[FieldError]:
    target = source.get("path")
    if not target:
        yield FieldError.required(f"{path}.path")
    elif complaint := names.path_without_backsteps(target):
        yield FieldError.invalid(f"{path}.path", target, complaint)
    elif not target.startswith("/"):  # the node would only refuse to start it
        yield FieldError.invalid(f"{path}.path", target, "must be an absolute path")
    if source.get("type", "") not in _HOST_PATH_TYPES:
        yield FieldError.not_supported(f"{path}.type", source["type"], _HOST_PATH_TYPES)


def _validate_choices(spec: Object) -> Iterator[FieldError]:
    for key, allowed in (
        ("restartPolicy", RESTART_POLICIES),
        ("dnsPolicy", _DNS_POLICIES),
        ("preemptionPolicy", ("Never", "PreemptLowerPriority")),
    ):
        if spec.get(key) not in allowed:
            yield FieldError.not_supported(f"spec.{key}", spec.get(key), allowed)


def _validate_numbers(spec: Object) -> Iterator[FieldError]:
    grace = spec.get("terminationGracePeriodSeconds", 0)
    if grace < 0:
        yield FieldError.invalid(
            "spec.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0"
        )
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _LONGEST_SECONDS:
        why = f"must be between 1 and {_LONGEST_SECONDS}, inclusive"
        yield FieldError.invalid("spec.activeDeadlineSeconds", deadline, why)
    yield from validate_security(spec)


def _validate_host_users(spec: Object) -> Iterator[FieldError]:
    """Kubernetes refuses the first (and spells two so); stage1 keeps a privileged container root of the host."""
    if spec.get("hostUsers") is not False:
        return
    for name, shown in (("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")):
        if spec.get(name):
            yield FieldError.forbidden(f"spec.{shown}", "when `pod.Spec.HostUsers` is false")
    for key in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            if (container.get("securityContext") or {}).get("privileged"):
                path = f"spec.{key}[{index}].securityContext.privileged"
                yield FieldError.forbidden(path, f"{NOT_YET} when `pod.Spec.HostUsers` is false")
    for path, number in _ids(spec):
        if number > _LARGEST_OWN_ID:
            why = f"must be between 0 and {_LARGEST_OWN_ID}, inclusive, when `pod.Spec.HostUsers` is false"
            yield FieldError.invalid(path, number, why)


def _ids(spec: Object) -> Iterator[tuple[str, int]]:
    """The users and groups that the pod names, with their paths."""
    holders = [("spec", spec)]
    for key in ("containers", "initContainers"):
        holders += [(f"spec.{key}[{at}]", one) for at, one in enumerate(spec.get(key) or ())]
    for path, holder in holders:
        context = holder.get("securityContext") or {}
        for name in ("runAsUser", "runAsGroup", "fsGroup"):
            if context.get(name) is not None:
                yield f"{path}.securityContext.{name}", context[name]
        for at, group in enumerate(context.get("supplementalGroups") or ()):
            yield f"{path}.securityContext.supplementalGroups[{at}]", group


def _validate_names(spec: Object) -> Iterator[FieldError]:
    for key, check in (
        ("serviceAccountName", names.dns_subdomain),
        ("nodeName", names.dns_subdomain),
        ("runtimeClassName", names.dns_subdomain),
        ("hostname", names.dns_label),
        ("subdomain", names.dns_label),
    ):
        value = spec.get(key)
        if value or (value is not None and key == "runtimeClassName"):
            complaint = check(value)
            if complaint:
                yield FieldError.invalid(f"spec.{key}", value, complaint)


def validate_tolerations(tolerations: list[Object] | None, at: str) -> Iterator[FieldError]:
    """Of a pod or a RuntimeClass; `at`: the path of the list."""
    for index, one in enumerate(tolerations or ()):
        path = f"{at}[{index}]"
        key, operator = one.get("key", ""), one.get("operator") or "Equal"
        value, effect = one.get("value", ""), one.get("effect", "")
        if key and (complaint := names.qualified_name(key)):
            yield FieldError.invalid(f"{path}.key", key, complaint)
        if not key and operator != "Exists":
            why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            yield FieldError.invalid(f"{path}.operator", one.get("operator", ""), why)
        if "tolerationSeconds" in one and effect != "NoExecute":
            why = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            yield FieldError.invalid(f"{path}.effect", effect, why)
        if operator == "Equal":
            if complaint := names.label_value(value):
                yield FieldError.invalid(f"{path}.operator", value, complaint)
        elif operator == "Exists":
            if value:
                why = "value must be empty when `operator` is 'Exists'"
                yield FieldError.invalid(f"{path}.operator", one, why)
        else:
            yield FieldError.not_supported(f"{path}.operator", operator, ("Equal", "Exists"))
        if effect and effect not in _EFFECTS:
            yield FieldError.not_supported(f"{path}.effect", effect, _EFFECTS)
