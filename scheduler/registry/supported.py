"""Which known pod fields Gantry does. The one list: a feature lands by adding its fields here.

A field that is in the models and not here is refused with its path, unless its value asks for nothing
(absent, empty, false; or what `HARMLESS` names as just what happens anyway). Fields below a listed one are
listed too where only some of them are done; a type without an entry is done as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object

SUPPORTED: Mapping[str, frozenset[str]] = {
    name: frozenset(fields.split())
    for name, fields in {
        "PodSpec": """
            activeDeadlineSeconds affinity automountServiceAccountToken containers dnsPolicy enableServiceLinks
            hostIPC hostNetwork hostPID hostUsers hostname imagePullSecrets initContainers nodeName nodeSelector
            overhead preemptionPolicy priority restartPolicy runtimeClassName schedulerName securityContext
            serviceAccount serviceAccountName shareProcessNamespace terminationGracePeriodSeconds tolerations
            topologySpreadConstraints volumes
        """,
        "Container": """
            args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe
            resources restartPolicy securityContext startupProbe stdin stdinOnce terminationMessagePath
            terminationMessagePolicy tty volumeMounts workingDir
        """,
        "EnvVarSource": "configMapKeyRef fieldRef resourceFieldRef secretKeyRef",
        "ResourceRequirements": "limits requests",
        "limits": "cpu memory ephemeral-storage nvidia.com/gpu",
        "requests": "cpu memory ephemeral-storage nvidia.com/gpu",
        "VolumeMount": "mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr",
        "SecurityContext": """
            allowPrivilegeEscalation appArmorProfile capabilities privileged procMount readOnlyRootFilesystem
            runAsGroup runAsNonRoot runAsUser seLinuxOptions seccompProfile
        """,
        "PodSecurityContext": """
            appArmorProfile fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxOptions
            seccompProfile supplementalGroups supplementalGroupsPolicy sysctls
        """,
        "Volume": "name configMap downwardAPI emptyDir hostPath persistentVolumeClaim projected secret",
        "VolumeProjection": "configMap downwardAPI secret",
        "EmptyDirVolumeSource": "medium sizeLimit",
        "HostPathVolumeSource": "path type",
        "PersistentVolumeClaimVolumeSource": "claimName readOnly",
    }.items()
}

HARMLESS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "PodSpec": {
        "os": ({"name": "linux"},),
    },
    "Container": {},
}
"""Values of fields that are not done, which ask for what happens anyway; then false is no such value."""

VALUES: Mapping[str, Mapping[str, frozenset[Any]]] = {
    "PodSpec": {
        "dnsPolicy": frozenset({"Default", "ClusterFirst"}),
        "priority": frozenset({0}),
        "schedulerName": frozenset({"default-scheduler"}),
    },
    "EmptyDirVolumeSource": {"medium": frozenset({"", "Memory"})},
}
"""Of these fields only some values are done. (Values Kubernetes itself refuses are the validation's.)"""

NOT_YET = "not supported by Gantry yet"


def unsupported(spec: Object) -> list[FieldError]:
    """What a pod spec asks for that we know and do not do; call after the defaults are set."""
    return list(_spec(spec))


def _spec(spec: Object) -> Iterator[FieldError]:
    yield from _fields("PodSpec", spec, "spec")
    yield from _fields("PodSecurityContext", spec.get("securityContext"), "spec.securityContext")
    host_network = spec.get("hostNetwork") is True
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            yield from _container(container, f"spec.{key}[{index}]", host_network=host_network)
    for index, volume in enumerate(spec.get("volumes") or ()):
        path = f"spec.volumes[{index}]"
        yield from _fields("Volume", volume, path)
        yield from _fields("EmptyDirVolumeSource", volume.get("emptyDir"), f"{path}.emptyDir")
        yield from _fields("HostPathVolumeSource", volume.get("hostPath"), f"{path}.hostPath")
        for at, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            yield from _fields("VolumeProjection", source, f"{path}.projected.sources[{at}]")


def _container(container: Object, path: str, *, host_network: bool) -> Iterator[FieldError]:
    yield from _fields("Container", container, path)
    yield from _fields("SecurityContext", container.get("securityContext"), f"{path}.securityContext")
    resources = container.get("resources") or {}
    yield from _fields("ResourceRequirements", resources, f"{path}.resources")
    limits = resources.get("limits") or {}
    if container.get("restartPolicy") and "nvidia.com/gpu" in limits:
        why = f"{NOT_YET} in an init container with restartPolicy: Always"
        yield FieldError.forbidden(f"{path}.resources.limits[nvidia.com/gpu]", why)
    for name in limits:
        if name not in SUPPORTED["limits"]:
            yield FieldError.forbidden(f"{path}.resources.limits[{name}]", NOT_YET)
    for name in resources.get("requests") or ():
        # A limit is defaulted into the requests; it was refused above.
        if name not in SUPPORTED["requests"] and name not in limits:
            yield FieldError.forbidden(f"{path}.resources.requests[{name}]", NOT_YET)
    for index, variable in enumerate(container.get("env") or ()):
        yield from _fields("EnvVarSource", variable.get("valueFrom"), f"{path}.env[{index}].valueFrom")
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        yield from _fields("VolumeMount", mount, f"{path}.volumeMounts[{index}]")
    if not host_network:
        for index, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort"):
                # Pods have no network of their own to map from yet.
                yield FieldError.forbidden(
                    f"{path}.ports[{index}].hostPort", f"{NOT_YET} without spec.hostNetwork: true"
                )


def _fields(kind: str, value: Object | None, path: str) -> Iterator[FieldError]:
    if not value:
        return
    supported, harmless, values = SUPPORTED[kind], HARMLESS.get(kind, {}), VALUES.get(kind, {})
    for name, held in value.items():
        if name in supported:
            if name in values and held not in values[name]:
                yield FieldError.not_supported(f"{path}.{name}", held, map(str, values[name]))
        elif kind in ("Volume", "VolumeProjection") or held not in (
            *harmless.get(name, (False, 0)),
            "",
            [],
            {},
        ):
            # A volume source asks for something even when it is empty.
            yield FieldError.forbidden(f"{path}.{name}", NOT_YET)
