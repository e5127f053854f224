"""Validation of containers: everything below `spec.containers[i]` and `spec.initContainers[i]`.

Rules and wording: `pkg/apis/core/validation/validation.go`. Objects have their defaults already. What Gantry does
not do yet is not checked here but refused by `supported`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from scheduler.registry import names
from scheduler.registry.errors import FieldError
from scheduler.registry.handler_validation import validate_handlers
from scheduler.registry.resource import Object
from shared.models.quantities import parse_quantity

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("FallbackToLogsOnError", "File")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_SECCOMP_TYPES = ("Localhost", "RuntimeDefault", "Unconfined")
_LARGEST_ID = 2**31 - 1
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
_ENV_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_ENV_RESOURCES = tuple(
    f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)
_SUBSCRIPT = re.compile(r"metadata\.(annotations|labels)\['(.+)'\]")
_CAPABILITY_NAMES = """
    ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE
    DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
    NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN
    SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG WAKE_ALARM
"""
_CAPABILITIES = frozenset(_CAPABILITY_NAMES.split())


def validate_containers(spec: Object, volumes: Mapping[str, Object]) -> Iterator[FieldError]:
    """All containers of a pod; `volumes` by name."""
    if not spec.get("containers"):
        yield FieldError.required("spec.containers")
    taken: set[str] = set()
    for key in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            path = f"spec.{key}[{index}]"
            yield from _validate_name(container.get("name"), path, taken)
            init = key == "initContainers"
            yield from _validate_container(container, path, volumes, init=init)
            alone = init and container.get("restartPolicy") != "Always"
            grace = spec.get("terminationGracePeriodSeconds", 0)
            yield from validate_handlers(container, path, alone=alone, grace=grace)
    yield from _validate_ports(spec)


def _validate_name(name: str | None, path: str, taken: set[str]) -> Iterator[FieldError]:
    if not name:
        yield FieldError.required(f"{path}.name")
        return
    complaint = names.dns_label(name)
    if complaint:
        yield FieldError.invalid(f"{path}.name", name, complaint)
    elif name in taken:
        yield FieldError.duplicate(f"{path}.name", name)
    taken.add(name)


def _validate_container(
    container: Object, path: str, volumes: Mapping[str, Object], *, init: bool
) -> Iterator[FieldError]:
    image = container.get("image") or ""
    if not image:
        yield FieldError.required(f"{path}.image")
    elif image != image.strip():
        yield FieldError.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    policy = container.get("imagePullPolicy")
    if image and policy not in PULL_POLICIES:
        yield FieldError.not_supported(f"{path}.imagePullPolicy", policy, PULL_POLICIES)
    for key in ("terminationMessagePath", "workingDir"):  # the node would only refuse to start it
        if container.get(key) and not container[key].startswith("/"):
            yield FieldError.invalid(f"{path}.{key}", container[key], "must be an absolute path")
    policy = container.get("terminationMessagePolicy")
    if policy not in _MESSAGE_POLICIES:
        yield FieldError.not_supported(f"{path}.terminationMessagePolicy", policy, _MESSAGE_POLICIES)
    if "restartPolicy" in container:
        if not init:
            yield FieldError.forbidden(f"{path}.restartPolicy", "may not be set for non-init containers")
        elif container["restartPolicy"] != "Always":
            yield FieldError.not_supported(f"{path}.restartPolicy", container["restartPolicy"], ["Always"])
    yield from _validate_env(container.get("env"), f"{path}.env")
    yield from _validate_env_from(container.get("envFrom"), f"{path}.envFrom")
    yield from _validate_mounts(container.get("volumeMounts"), f"{path}.volumeMounts", volumes)
    yield from validate_resources(container.get("resources") or {}, f"{path}.resources")
    yield from _validate_security(container.get("securityContext") or {}, f"{path}.securityContext")


def _validate_ports(spec: Object) -> Iterator[FieldError]:
    host_network = spec.get("hostNetwork") is True
    on_host: set[str] = set()
    for key in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            named: set[str] = set()
            for at, port in enumerate(container.get("ports") or ()):
                path = f"spec.{key}[{index}].ports[{at}]"
                yield from _validate_port(port, path, named)
                host_port = port.get("hostPort")
                if host_network and host_port != port.get("containerPort"):
                    why = "must match `hostPort` when `hostNetwork` is true"
                    yield FieldError.invalid(f"{path}.containerPort", port.get("containerPort"), why)
                if host_port and (key == "containers" or container.get("restartPolicy") == "Always"):
                    # Other init containers do not run beside them: kube-apiserver counts them apart, too.
                    place = f"{port.get('protocol')}/{port.get('hostIP', '')}/{host_port}"
                    if place in on_host:
                        yield FieldError.duplicate(f"{path}.hostPort", place)
                    on_host.add(place)


def _validate_port(port: Object, path: str, named: set[str]) -> Iterator[FieldError]:
    name = port.get("name")
    if name:
        complaint = names.port_name(name)
        if complaint:
            yield FieldError.invalid(f"{path}.name", name, complaint)
        elif name in named:
            yield FieldError.duplicate(f"{path}.name", name)
        named.add(name)
    number = port.get("containerPort", 0)
    if number == 0:
        yield FieldError.required(f"{path}.containerPort")
    elif complaint := names.port_number(number):
        yield FieldError.invalid(f"{path}.containerPort", number, complaint)
    host_port = port.get("hostPort")
    if host_port and (complaint := names.port_number(host_port)):
        yield FieldError.invalid(f"{path}.hostPort", host_port, complaint)
    if port.get("hostIP") and (complaint := names.ip_address(port["hostIP"])):
        yield FieldError.invalid(f"{path}.hostIP", port["hostIP"], complaint)
    if port.get("protocol") not in _PROTOCOLS:
        yield FieldError.not_supported(f"{path}.protocol", port.get("protocol"), _PROTOCOLS)


def _validate_env(variables: list[Object] | None, path: str) -> Iterator[FieldError]:
    for index, variable in enumerate(variables or ()):
        name = variable.get("name")
        if not name:
            yield FieldError.required(f"{path}[{index}].name")
        elif complaint := names.environment_name(name):
            yield FieldError.invalid(f"{path}[{index}].name", name, complaint)
        if "valueFrom" in variable:
            yield from _validate_source(variable, f"{path}[{index}].valueFrom")


def _validate_source(variable: Object, path: str) -> Iterator[FieldError]:
    source = variable["valueFrom"]
    chosen = [key for key in _SOURCES if key in source]
    if not chosen:
        why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        yield FieldError.invalid(path, "", why)
        return
    if variable.get("value"):
        yield FieldError.invalid(path, "", "may not be specified when `value` is not empty")
    if len(chosen) > 1:
        yield FieldError.invalid(path, "", "may not have more than one field specified at a time")
    if "fieldRef" in source:
        yield from validate_field_ref(source["fieldRef"], f"{path}.fieldRef", _ENV_FIELDS)
    if "resourceFieldRef" in source:
        yield from validate_resource_ref(source["resourceFieldRef"], f"{path}.resourceFieldRef")
    for key in ("configMapKeyRef", "secretKeyRef"):
        if key in source:
            yield from _validate_key_ref(source[key], f"{path}.{key}")


def _validate_key_ref(reference: Object, path: str) -> Iterator[FieldError]:
    if not reference.get("name"):
        yield FieldError.required(f"{path}.name")
    if not reference.get("key"):
        yield FieldError.required(f"{path}.key")
    elif complaint := names.config_key(reference["key"]):
        yield FieldError.invalid(f"{path}.key", reference["key"], complaint)


def _validate_env_from(sources: list[Object] | None, path: str) -> Iterator[FieldError]:
    for index, source in enumerate(sources or ()):
        at = f"{path}[{index}]"
        prefix = source.get("prefix")
        if prefix and (complaint := names.environment_name(prefix)):
            yield FieldError.invalid(f"{at}.prefix", prefix, complaint)
        chosen = [key for key in ("configMapRef", "secretRef") if key in source]
        if not chosen:
            yield FieldError.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(chosen) > 1:
            yield FieldError.invalid(at, "", "may not have more than one field specified at a time")
        for key in chosen:
            name = source[key].get("name")
            if not name:
                yield FieldError.required(f"{at}.{key}.name")
            elif complaint := names.dns_subdomain(name):
                yield FieldError.invalid(f"{at}.{key}.name", name, complaint)


def validate_resource_ref(reference: Object, path: str) -> Iterator[FieldError]:
    """A request or limit of a container."""
    resource = reference.get("resource")
    if not resource:
        yield FieldError.required(f"{path}.resource")
    elif resource not in _ENV_RESOURCES:
        yield FieldError.not_supported(f"{path}.resource", resource, _ENV_RESOURCES)
    elif complaint := _divisor_complaint(resource, reference.get("divisor", "0")):
        yield FieldError.invalid(f"{path}.divisor", reference["divisor"], complaint)


_CPU_DIVISORS: tuple[str, ...] = ("1m", "1")
_BYTE_DIVISORS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")


def _divisor_complaint(resource: str, divisor: str) -> str | None:
    if divisor == "0":  # the default: 1
        return None
    if resource.endswith(".cpu"):
        allowed, what = _CPU_DIVISORS, "cpu"
    else:
        allowed, what = _BYTE_DIVISORS, resource.partition(".")[2]
    return (
        None
        if divisor in allowed
        else f"only divisor's values {', '.join(allowed)} are supported with the {what} resource"
    )


def validate_field_ref(reference: Object, path: str, fields: tuple[str, ...]) -> Iterator[FieldError]:
    """A field of the pod, one of `fields`, or a single label or annotation."""
    field = reference.get("fieldPath")
    if not reference.get("apiVersion"):
        yield FieldError.required(f"{path}.apiVersion")
    elif reference["apiVersion"] != "v1":
        yield FieldError.not_supported(f"{path}.apiVersion", reference["apiVersion"], ["v1"])
    if not field:
        yield FieldError.required(f"{path}.fieldPath")
        return
    subscript = _SUBSCRIPT.fullmatch(field)
    if subscript:
        complaint = names.qualified_name(subscript.group(2))
        if complaint:
            yield FieldError.invalid(f"{path}.fieldPath", field, complaint)
    elif field not in fields:
        yield FieldError.not_supported(f"{path}.fieldPath", field, fields)


def _validate_mounts(
    mounts: list[Object] | None, path: str, volumes: Mapping[str, Object]
) -> Iterator[FieldError]:
    taken: set[str] = set()
    for index, mount in enumerate(mounts or ()):
        at = f"{path}[{index}]"
        name, target = mount.get("name"), mount.get("mountPath")
        if not name:
            yield FieldError.required(f"{at}.name")
        elif name not in volumes:
            yield FieldError.not_found(f"{at}.name", name)
        if not target:
            yield FieldError.required(f"{at}.mountPath")
        elif target in taken:
            yield FieldError.invalid(f"{at}.mountPath", target, "must be unique")
        elif ":" in target:
            yield FieldError.invalid(f"{at}.mountPath", target, "must not contain ':'")
        elif posixpath.normpath(f"/{target}").strip("/") == "":
            yield FieldError.invalid(f"{at}.mountPath", target, "must not be the container's root")
        taken.add(target or "")
        sub_path = mount.get("subPath")
        if sub_path and (complaint := names.relative_path(sub_path)):
            yield FieldError.invalid(f"{at}.subPath", sub_path, complaint)
        expression = mount.get("subPathExpr")
        if expression and sub_path:
            yield FieldError.invalid(
                f"{at}.subPathExpr", expression, "subPathExpr and subPath are mutually exclusive"
            )
        elif expression and (complaint := names.relative_path(expression)):
            yield FieldError.invalid(f"{at}.subPathExpr", expression, complaint)


def validate_resources(resources: Object, path: str) -> Iterator[FieldError]:
    """Names, values >= 0, requests <= limits; extended resources are whole and have a limit, which is the request."""
    limits: dict[str, Fraction] = {}
    for key in ("limits", "requests"):
        for name, text in (resources.get(key) or {}).items():
            at = f"{path}.{key}[{name}]"
            value = parse_quantity(text)
            if complaint := _resource_complaint(name):
                yield FieldError.invalid(at, name, complaint)
                continue
            if value < 0:
                yield FieldError.invalid(at, text, "must be greater than or equal to 0")
            elif name.startswith(("memory", "ephemeral-storage")) and value.denominator != 1:
                yield FieldError.invalid(at, text, "must be a whole number of bytes")
            elif is_extended(name) and value.denominator != 1:
                yield FieldError.invalid(at, text, "must be an integer")
            if key == "limits":
                limits[name] = value
            elif is_extended(name) and name not in limits:
                yield FieldError.required(
                    f"{path}.limits[{name}]", "Limit must be set for non overcommitable resources"
                )
            elif is_extended(name) and value != limits[name]:
                why = f"must be equal to {name} limit of {resources['limits'][name]}"
                yield FieldError.invalid(f"{path}.requests", text, why)
            elif name in limits and value > limits[name]:
                why = f"must be less than or equal to {name} limit of {resources['limits'][name]}"
                yield FieldError.invalid(f"{path}.requests", text, why)


def is_extended(name: str) -> bool:
    """Neither Kubernetes' own nor overcommitted. Source: `pkg/apis/core/helper` IsExtendedResourceName."""
    prefix, slash, _ = name.rpartition("/")
    return bool(slash) and prefix != "kubernetes.io" and not prefix.endswith(".kubernetes.io")


def _resource_complaint(name: str) -> str | None:
    if name in ("cpu", "memory", "ephemeral-storage") or name.startswith("hugepages-"):
        return None
    complaint = names.qualified_name(name)
    if complaint:
        return complaint
    return None if "/" in name else "must be a standard resource for containers"


def _capability(name: str) -> str:
    """As the kernel names it, without CAP_: in any case of letters, as containerd takes them."""
    return name.upper().removeprefix("CAP_")


def _validate_security(context: Object, path: str) -> Iterator[FieldError]:
    for key in ("runAsUser", "runAsGroup"):
        if key in context:
            yield from validate_id(context[key], f"{path}.{key}")
    yield from validate_seccomp(context, path)
    capabilities = context.get("capabilities") or {}
    for key in ("add", "drop"):
        for index, name in enumerate(capabilities.get(key) or ()):
            if _capability(name) not in _CAPABILITIES:
                yield FieldError.invalid(
                    f"{path}.capabilities.{key}[{index}]", name, "not a Linux capability"
                )
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            yield FieldError.invalid(path, context, why)
        if "SYS_ADMIN" in map(_capability, capabilities.get("add") or ()):
            why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            yield FieldError.invalid(path, context, why)


def validate_seccomp(context: Object, path: str) -> Iterator[FieldError]:
    """Kubernetes `pkg/apis/core/validation/validation.go`, validateSeccompProfileField."""
    profile, path = context.get("seccompProfile"), f"{path}.seccompProfile"
    if profile is None:
        return
    kind, name = profile.get("type"), profile.get("localhostProfile")
    if kind not in _SECCOMP_TYPES:
        yield FieldError.not_supported(f"{path}.type", kind, _SECCOMP_TYPES)
    if kind == "Localhost" and not name:
        yield FieldError.required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost")
    elif kind != "Localhost" and name is not None:
        why = "can only be set when seccomp type is Localhost"
        yield FieldError.invalid(f"{path}.localhostProfile", name, why)
    elif name and (name.startswith("/") or ".." in name.split("/")):
        why = "must be a relative path" if name.startswith("/") else "must not contain '..'"
        yield FieldError.invalid(f"{path}.localhostProfile", name, why)


def validate_id(number: Any, path: str) -> Iterator[FieldError]:
    """A uid or gid."""
    if not 0 <= number <= _LARGEST_ID:
        yield FieldError.invalid(path, number, f"must be between 0 and {_LARGEST_ID}, inclusive")
