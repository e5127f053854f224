"""Validation of a pod's `securityContext`: kernel parameters, groups, /proc. Rules and wording as in Kubernetes
`pkg/apis/core/validation/validation.go` (validateSysctls, validatePodSpecSecurityContext, validateProcMountType)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from scheduler.registry.container_validation import validate_id, validate_seccomp
from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object

_PART = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = re.compile(rf"({_PART}[./])*{_PART}")
_LONGEST_SYSCTL = 253
_POLICIES = ("Merge", "Strict")
_PROC_MOUNTS = ("Default", "Unmasked")


def validate_security(spec: Object) -> Iterator[FieldError]:
    """The pod's own securityContext, and what its containers' have to do with the rest of the pod."""
    context, path = spec.get("securityContext") or {}, "spec.securityContext"
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        if key in context:
            yield from validate_id(context[key], f"{path}.{key}")
    yield from validate_seccomp(context, path)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        yield from validate_id(group, f"{path}.supplementalGroups[{index}]")
    policy = context.get("supplementalGroupsPolicy")
    if policy is not None and policy not in _POLICIES:
        yield FieldError.not_supported(f"{path}.supplementalGroupsPolicy", policy, _POLICIES)
    yield from _sysctls(spec, context.get("sysctls") or (), f"{path}.sysctls")
    yield from _proc_mounts(spec)


def _sysctls(spec: Object, sysctls: Sequence[Object], at: str) -> Iterator[FieldError]:
    taken: set[str] = set()
    for index, sysctl in enumerate(sysctls):
        name, path = sysctl.get("name") or "", f"{at}[{index}].name"
        if not name:
            yield FieldError.required(path)
        elif len(name) > _LONGEST_SYSCTL or not _SYSCTL.fullmatch(name):
            why = f"must have at most {_LONGEST_SYSCTL} characters and match regex ^{_SYSCTL.pattern}$"
            yield FieldError.invalid(path, name, why)
        elif (dotted := name.replace("/", ".")) in taken:
            yield FieldError.duplicate(path, name)
        else:
            taken.add(dotted)
            if spec.get("hostNetwork") and dotted.startswith("net."):
                yield FieldError.invalid(path, name, "may not be specified when 'hostNetwork' is true")


def _proc_mounts(spec: Object) -> Iterator[FieldError]:
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            kind = (container.get("securityContext") or {}).get("procMount")
            path = f"spec.{key}[{index}].securityContext.procMount"
            if kind is not None and kind not in _PROC_MOUNTS:
                yield FieldError.not_supported(path, kind, _PROC_MOUNTS)
            elif kind == "Unmasked" and spec.get("hostUsers") is not False:
                yield FieldError.invalid(path, kind, "`hostUsers` must be false to use `Unmasked`")
