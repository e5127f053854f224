"""The pods resource."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from scheduler.registry.label_validation import sync_apparmor
from scheduler.registry.metadata import keep_all_but_status, keep_metadata, reset_metadata
from scheduler.registry.pod_defaults import default_pod_spec, qos_class
from scheduler.registry.pod_table import COLUMNS, pod_row
from scheduler.registry.pod_validation import validate_pod, validate_pod_update
from scheduler.registry.pod_warnings import pod_warnings
from scheduler.registry.resource import Object, Resource
from shared.models.pod import Pod


def _prepare_create(pod: Object, _now: datetime) -> Object:
    reset_metadata(pod)
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    sync_apparmor(pod)
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}
    return pod


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    if status:
        return keep_all_but_status(new, old)
    keep_metadata(new, old)
    spec, before = new.setdefault("spec", {}), old.get("spec") or {}
    if "nodeName" in before:
        # The binding is not the user's; a manifest that does not name the node does not unbind the pod.
        spec.setdefault("nodeName", before["nodeName"])
    for key in ("overhead", "imagePullSecrets"):  # of its RuntimeClass, of its ServiceAccount
        if key in before:
            spec.setdefault(key, before[key])
    if "serviceAccountName" not in spec and "serviceAccount" not in spec and "serviceAccountName" in before:
        spec["serviceAccountName"] = before["serviceAccountName"]
    default_pod_spec(spec)
    new["status"] = old.get("status") or {}
    return new


def _of(*path: str) -> Callable[[Object], str]:
    def get(pod: Object) -> str:
        value = pod
        for key in path:
            value = value.get(key) or {}
        return "" if value == {} else str(value)

    return get


def _host_network(pod: Object) -> str:
    return "true" if (pod.get("spec") or {}).get("hostNetwork") else "false"


PODS = Resource(
    group="",
    version="v1",
    plural="pods",
    singular="pod",
    kind="Pod",
    namespaced=True,
    short_names=("po",),
    categories=("all",),
    model=Pod,
    subresources=("attach", "binding", "eviction", "exec", "log", "portforward", "status"),
    columns=COLUMNS,
    row=pod_row,
    prepare_create=_prepare_create,
    validate_create=validate_pod,
    prepare_update=_prepare_update,
    validate_update=validate_pod_update,
    warn=pod_warnings,
    fields={
        "metadata.name": _of("metadata", "name"),
        "metadata.namespace": _of("metadata", "namespace"),
        "spec.nodeName": _of("spec", "nodeName"),
        "spec.restartPolicy": _of("spec", "restartPolicy"),
        "spec.schedulerName": _of("spec", "schedulerName"),
        "spec.serviceAccountName": _of("spec", "serviceAccountName"),
        "spec.hostNetwork": _host_network,
        "status.phase": _of("status", "phase"),
        "status.podIP": _of("status", "podIP"),
        "status.nominatedNodeName": _of("status", "nominatedNodeName"),
    },
)
