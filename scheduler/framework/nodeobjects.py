"""The v1 Node of an agent, as `kubectl get nodes` shows it. Users own labels, annotations, taints and cordon."""

from __future__ import annotations

import ipaddress
import platform
from typing import Any

from scheduler.framework.core.entities import AgentInfo, Node
from scheduler.framework.core.nodes import ATTRIBUTE_PREFIX, labels_of
from scheduler.framework.core.pods import (
    ADDRESS_ANNOTATION,
    AGENT_ANNOTATION,
    GPU,
    MAINTENANCE_ANNOTATION,
    OUR_TAINTS,
)
from scheduler.framework.core.status import rfc3339
from scheduler.framework.core.vectors import Vector

Json = dict[str, Any]

UNREACHABLE = "node.kubernetes.io/unreachable"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def node_object(old: Json | None, node: Node, *, uid: str, now: float, max_pods: int, version: str) -> Json:
    """The new object; `uid` is for one that does not exist yet."""
    info = node.info or AgentInfo(node.agent_id, node.name, 0)
    before: Json = old or {}
    meta = dict(before.get("metadata") or {"name": node.name, "uid": uid, "creationTimestamp": rfc3339(now)})
    labels, ours = dict(meta.get("labels") or {}), labels_of(info)
    stale = {key for key in labels if key.startswith(ATTRIBUTE_PREFIX) and key not in ours}
    for key in stale | {key.removeprefix(ATTRIBUTE_PREFIX) for key in stale}:
        labels.pop(key, None)
    meta["labels"] = {**labels, **ours}
    meta["annotations"] = {
        **(meta.get("annotations") or {}),
        AGENT_ANNOTATION: node.agent_id,
        ADDRESS_ANNOTATION: node.address,
    }
    meta["annotations"].pop(MAINTENANCE_ANNOTATION, None)
    if node.window is not None:
        meta["annotations"][MAINTENANCE_ANNOTATION] = f"{node.window[0]}/{node.window[1]}"
    spec = {**(before.get("spec") or {}), "providerID": f"mesos://{node.agent_id}"}
    taints = [one for one in spec.get("taints") or [] if one["key"] not in OUR_TAINTS]
    taints += [{"key": one.key, "effect": one.effect} for one in node.own]
    if not node.ready:
        taints += [{"key": UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
    spec["taints"] = taints
    if not taints:
        del spec["taints"]
    status = _status(before.get("status") or {}, node, info, now=now, max_pods=max_pods, version=version)
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec, "status": status}


def _status(old: Json, node: Node, info: AgentInfo, *, now: float, max_pods: int, version: str) -> Json:
    capacity = old.get("capacity") or {"cpu": "0", "memory": "0"}
    if info.total is not None:
        capacity = _capacity(info.total, max_pods)
    return {
        **old,
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [_ready(old, node, now)],
        "addresses": _addresses(info),
        "nodeInfo": _node_info(info, version),
    }


def _capacity(total: Vector, max_pods: int) -> Json:
    cpu = f"{total.cpus}m" if total.cpus % 1000 else str(total.cpus // 1000)
    sizes = {"memory": total.mem, "ephemeral-storage": total.disk}
    return {
        "cpu": cpu,
        **{name: f"{value * 1024 // 1000}Ki" for name, value in sizes.items()},
        **({GPU: str(total.gpus // 1000)} if total.gpus else {}),
        "pods": str(max_pods),
    }


def _ready(old: Json, node: Node, now: float) -> Json:
    value = "True" if node.ready else "Unknown"
    reason = "AgentRegistered" if node.ready else "NodeStatusUnknown"
    message = "the Mesos agent is registered" if node.ready else "the Mesos master lost the agent"
    last = next((one for one in old.get("conditions") or [] if one["type"] == "Ready"), None)
    since = last["lastTransitionTime"] if last and last["status"] == value else rfc3339(now)
    return {
        "type": "Ready",
        "status": value,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": rfc3339(now),
        "lastTransitionTime": since,
    }


def _addresses(info: AgentInfo) -> list[Json]:
    ip = info.ip
    if not ip:
        try:
            ip = str(ipaddress.ip_address(info.hostname))
        except ValueError:
            ip = ""
    found = [{"type": "InternalIP", "address": ip}] if ip else []
    return [*found, {"type": "Hostname", "address": info.hostname}]


def _node_info(info: AgentInfo, version: str) -> Json:
    """Mesos says nothing of kernel or distribution; those fields stay empty rather than guessed."""
    return {
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": "",
        "osImage": f"Mesos agent {info.version}".rstrip(),
        "containerRuntimeVersion": f"gantry://{version}",
        "kubeletVersion": f"gantry-{version}",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
    }
