"""Validation of a pod's `securityContext`: kernel parameters, groups, /proc. Rules and wording as in Kubernetes
`pkg/apis/core/validation/validation.go` (validateSysctls, validatePodSpecSecurityContext, validateProcMountType)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from scheduler.registry.container_validation import validate_id, validate_seccomp
from scheduler.registry.errors import FieldError
from scheduler.registry.label_validation import validate_apparmor
from scheduler.registry.resource import Object
from scheduler.registry.supported import NOT_YET

_PART = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = re.compile(rf"({_PART}[./])*{_PART}")
_LONGEST_SYSCTL = 253
_OF_IPC = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")
_POLICIES = ("Merge", "Strict")
_CHANGES = ("Always", "OnRootMismatch")
_PROPAGATIONS = ("None", "Bidirectional", "HostToContainer")
_RECURSIVE = ("Disabled", "Enabled", "IfPossible")
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
    for key, words in (("supplementalGroupsPolicy", _POLICIES), ("fsGroupChangePolicy", _CHANGES)):
        if context.get(key) is not None and context[key] not in words:
            yield FieldError.not_supported(f"{path}.{key}", context[key], words)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        why = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield FieldError.invalid(f"{path}.shareProcessNamespace", True, why)
    yield from _sysctls(spec, context.get("sysctls") or (), f"{path}.sysctls")
    yield from validate_apparmor(spec)
    yield from _proc_mounts(spec)
    yield from _mounts(spec)


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
            if spec.get("hostIPC") and dotted.startswith(_OF_IPC):
                yield FieldError.invalid(path, name, "may not be specified when 'hostIPC' is true")


def _mounts(spec: Object) -> Iterator[FieldError]:
    """validateMountPropagation, validateMountRecursiveReadOnly; and mounts travel through volumes of the node only."""
    sources = {one.get("name"): one for one in spec.get("volumes") or ()}
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            privileged = (container.get("securityContext") or {}).get("privileged")
            for at, mount in enumerate(container.get("volumeMounts") or ()):
                path = f"spec.{key}[{index}].volumeMounts[{at}]"
                way, read_only = (
                    mount.get("mountPropagation", "None"),
                    mount.get("recursiveReadOnly", "Disabled"),
                )
                if way not in _PROPAGATIONS:
                    yield FieldError.not_supported(f"{path}.mountPropagation", way, _PROPAGATIONS)
                elif way == "Bidirectional" and not privileged:
                    why = "Bidirectional mount propagation is available only to privileged containers"
                    yield FieldError.forbidden(f"{path}.mountPropagation", why)
                elif way != "None" and "hostPath" not in sources.get(mount.get("name"), {"hostPath": {}}):
                    yield FieldError.forbidden(
                        f"{path}.mountPropagation", f"{NOT_YET} but for volumes of hostPath"
                    )
                if read_only not in _RECURSIVE:
                    yield FieldError.not_supported(f"{path}.recursiveReadOnly", read_only, _RECURSIVE)
                elif read_only != "Disabled" and not mount.get("readOnly"):
                    why = "may only be specified when readOnly is true"
                    yield FieldError.forbidden(f"{path}.recursiveReadOnly", why)
                elif read_only != "Disabled" and way != "None":
                    why = "may only be specified when mountPropagation is None or not specified"
                    yield FieldError.forbidden(f"{path}.recursiveReadOnly", why)


def _proc_mounts(spec: Object) -> Iterator[FieldError]:
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            kind = (container.get("securityContext") or {}).get("procMount")
            path = f"spec.{key}[{index}].securityContext.procMount"
            if kind is not None and kind not in _PROC_MOUNTS:
                yield FieldError.not_supported(path, kind, _PROC_MOUNTS)
            elif kind == "Unmasked" and spec.get("hostUsers") is not False:
                yield FieldError.invalid(path, kind, "`hostUsers` must be false to use `Unmasked`")
