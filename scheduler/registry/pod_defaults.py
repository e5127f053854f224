"""The defaults of a pod, as kube-apiserver and its default admission plugins set them.

Sources: `pkg/apis/core/v1/defaults.go`; admission plugins ServiceAccount, Priority, DefaultTolerationSeconds.
Quantities are stored in canonical form, as there. What is not here: whether values are allowed.
"""

from __future__ import annotations

from typing import Any

from scheduler.registry.resource import Object
from shared.models.quantities import canonical_quantity, parse_quantity

_SPEC: dict[str, Any] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "priority": 0,
    "preemptionPolicy": "PreemptLowerPriority",
}
_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_LEAVE_AFTER_SECONDS = 300
_NODE_TROUBLES = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_DEFAULT_MODE = 0o644
_COMPUTE = ("cpu", "memory")


def default_pod_spec(spec: Object) -> None:
    """Fill in what is not set, in place."""
    for key, value in _SPEC.items():
        spec.setdefault(key, value)
    spec.setdefault("securityContext", {})
    _default_service_account(spec)
    for key in ("initContainers", "containers"):
        for container in spec.get(key) or ():
            _default_container(container, host_network=spec.get("hostNetwork") is True)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)
    if "overhead" in spec:
        spec["overhead"] = _canonical(spec["overhead"])
    _default_tolerations(spec)


def pull_policy(image: str) -> str:
    """Always for `:latest` and for names without tag and digest, else IfNotPresent."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if tag == "latest" or not (tag or digest) else "IfNotPresent"


def qos_class(spec: Object) -> str:
    """Guaranteed: every container has limits for cpu and memory, equal to its requests. BestEffort: none has any.

    Source: `pkg/apis/core/helper/qos`.
    """
    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    guaranteed = True
    for key in ("containers", "initContainers"):
        for container in spec.get(key) or ():
            resources = container.get("resources") or {}
            for found, totals in ((resources.get("requests"), requests), (resources.get("limits"), limits)):
                for name in _COMPUTE:
                    value = parse_quantity((found or {}).get(name, 0))
                    if value > 0:
                        totals[name] = totals.get(name, 0) + value
            with_limit = [
                name for name in _COMPUTE if parse_quantity((resources.get("limits") or {}).get(name, 0))
            ]
            guaranteed = guaranteed and len(with_limit) == len(_COMPUTE)
    if not requests and not limits:
        return "BestEffort"
    return "Guaranteed" if guaranteed and requests == limits else "Burstable"


def _default_service_account(spec: Object) -> None:
    # serviceAccount is the old name of serviceAccountName; both are stored, as in Kubernetes.
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name


def _default_container(container: Object, *, host_network: bool) -> None:
    if "imagePullPolicy" not in container and container.get("image"):
        container["imagePullPolicy"] = pull_policy(container["image"])
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    _default_resources(container.setdefault("resources", {}))
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network and not port.get("hostPort") and "containerPort" in port:
            port["hostPort"] = port["containerPort"]
    for variable in container.get("env") or ():
        source = variable.get("valueFrom")
        if source:
            _default_source(source)
    for key in _PROBES:
        if container.get(key):
            _default_probe(container[key])
    for hook in (container.get("lifecycle") or {}).values():
        _default_http_get(hook)


def _default_resources(resources: Object) -> None:
    for key in ("limits", "requests"):
        if resources.get(key):
            resources[key] = _canonical(resources[key])
    limits = resources.get("limits")
    if limits:
        requests = resources.setdefault("requests", {})
        for name, value in limits.items():
            requests.setdefault(name, value)


def _canonical(quantities: dict[str, Any]) -> dict[str, str]:
    return {name: canonical_quantity(value) for name, value in quantities.items()}


def _default_source(source: Object) -> None:
    if "fieldRef" in source:
        source["fieldRef"].setdefault("apiVersion", "v1")
    if "resourceFieldRef" in source:
        divisor = source["resourceFieldRef"].get("divisor", "0")
        source["resourceFieldRef"]["divisor"] = canonical_quantity(divisor)


def _default_probe(probe: Object) -> None:
    for key, value in _PROBE.items():
        if not probe.get(key):
            probe[key] = value
    _default_http_get(probe)
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_http_get(handler: Object) -> None:
    if "httpGet" in handler:
        handler["httpGet"].setdefault("path", "/")
        handler["httpGet"].setdefault("scheme", "HTTP")


def _default_volume(volume: Object) -> None:
    if len(volume) == 1 and "name" in volume:
        volume["emptyDir"] = {}
    size = (volume.get("emptyDir") or {}).get("sizeLimit")
    if size is not None:
        volume["emptyDir"]["sizeLimit"] = canonical_quantity(size)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    for key in ("configMap", "secret", "downwardAPI", "projected"):
        if key in volume:
            volume[key].setdefault("defaultMode", _DEFAULT_MODE)
    for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            _default_source(item)


def _default_tolerations(spec: Object) -> None:
    tolerations = spec.get("tolerations") or []
    for trouble in _NODE_TROUBLES:
        if not any(_covers(one, trouble) for one in tolerations):
            tolerations.append(
                {
                    "key": trouble,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": _LEAVE_AFTER_SECONDS,
                }
            )
    spec["tolerations"] = tolerations


def _covers(toleration: Object, key: str) -> bool:
    return toleration.get("key", "") in (key, "") and toleration.get("effect", "") in ("NoExecute", "")
