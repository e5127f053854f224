"""How each change of the engine is written into a v1 Pod: pure functions of the newest object.

Only status and spec.nodeName are ours; what users write (metadata, the rest of spec) is never touched. The
executor owns the conditions Initialized, ContainersReady and Ready and everything about containers; the scheduler owns
PodScheduled, and Ready while a node is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from scheduler.framework.core.effects import (
    Away,
    Back,
    Bound,
    Ended,
    Evicted,
    PodChange,
    Reported,
    Requeued,
    Unschedulable,
)

Json = dict[str, Any]

_KEPT = ("qosClass", "startTime", "hostIP", "hostIPs", "podIP", "podIPs", "nominatedNodeName")
"""Fields of an earlier status that a report without them does not take back."""

FINAL_PHASES = frozenset({"Succeeded", "Failed"})


def rfc3339(now: float) -> str:
    """Kubernetes' Time: UTC, whole seconds."""
    return _rfc3339(int(now))


@lru_cache(maxsize=64)
def _rfc3339(seconds: int) -> str:
    """A frame writes the same time into all its pods."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def can_bind(pod: Mapping[str, Any] | None, uid: str) -> bool:
    """Whether a launch of the pod with this uid may still be saved."""
    if pod is None or pod["metadata"].get("uid") != uid:
        return False
    over = (pod.get("status") or {}).get("phase") in FINAL_PHASES
    return not over and "deletionTimestamp" not in pod["metadata"]


def apply(pod: Mapping[str, Any], change: PodChange, now: float) -> Json:  # noqa: C901 - one case for each change
    """The new object; shares with the old one what did not change."""
    status = dict(pod.get("status") or {})
    new: Json = {**pod, "status": status}
    match change:
        case Bound(node=node, moves=moves):
            new["spec"] = {**pod["spec"], "nodeName": node}
            status["phase"] = status["phase"] if moves else "Pending"
            for name in ("reason", "message"):
                status.pop(name, None)
            _condition(status, now, "PodScheduled", "True")
        case Reported(status=told, phase=phase):
            new["status"] = _reported(status, told, phase, now)
        case Unschedulable(message=message):
            status.setdefault(
                "phase", "Pending"
            )  # one whose node is away may well run while it waits for another
            _condition(status, now, "PodScheduled", "False", "Unschedulable", message)
        case Away(message=message):
            status.update(reason="NodeLost", message=message)
            _condition(status, now, "Ready", "False", "NodeLost", message)
        case Back():
            for name in ("reason", "message"):
                status.pop(name, None)
            ready = all(one.get("ready") for one in status.get("containerStatuses") or [{}])
            _condition(status, now, "Ready", "True" if ready else "False")
            _condition(status, now, "PodScheduled", "True")
        case Requeued(node=node, reason=reason, message=message):
            new["spec"] = {name: value for name, value in pod["spec"].items() if name != "nodeName"}
            if node:
                new["spec"]["nodeName"] = node
            new["status"] = _requeued(status, reason, message, now)
        case Evicted():
            _evicted(new, change, now)
        case Ended(reason=reason, message=message):
            status.update(phase="Failed", reason=reason, message=message)
            for kind in ("Ready", "ContainersReady"):
                _condition(status, now, kind, "False", "PodFailed")
    return new


def _evicted(new: Json, change: Evicted, now: float) -> None:
    """As the API deletes with a grace; a deletion that is under way stays as it is."""
    if "deletionTimestamp" in new["metadata"]:
        return
    marks = {
        "deletionTimestamp": rfc3339(now + change.grace),
        "deletionGracePeriodSeconds": int(change.grace),
    }
    new["metadata"] = {**new["metadata"], **marks}
    reason = "DeletionByTaintManager"
    _condition(new["status"], now, "DisruptionTarget", "True", reason, change.message)


def _reported(old: Json, told: Mapping[str, Any] | None, phase: str, now: float) -> Json:
    if told is None:
        return {**old, "phase": phase}
    status: Json = {name: old[name] for name in _KEPT if name in old}
    status.update(told)
    status.setdefault("phase", phase)
    mine = [one for one in old.get("conditions") or [] if one["type"] == "PodScheduled"]
    status["conditions"] = mine
    before = {one["type"]: one for one in old.get("conditions") or []}
    for one in told.get("conditions") or []:
        if one["type"] == "PodScheduled":
            continue
        last = before.get(one["type"])
        since = last.get("lastTransitionTime") if last and last["status"] == one["status"] else None
        condition = {"lastProbeTime": None, "lastTransitionTime": since or rfc3339(now), **one}
        if since:
            condition["lastTransitionTime"] = since
        status["conditions"] = [*status["conditions"], condition]
    return status


def _requeued(old: Json, reason: str, message: str, now: float) -> Json:
    status: Json = {"phase": "Pending", "reason": reason, "message": message}
    if "qosClass" in old:
        status["qosClass"] = old["qosClass"]
    status["conditions"] = [one for one in old.get("conditions") or [] if one["type"] == "PodScheduled"]
    _condition(status, now, "PodScheduled", "False", reason, message)
    return status


def _condition(status: Json, now: float, kind: str, value: str, reason: str = "", message: str = "") -> None:
    """Sets one condition; lastTransitionTime moves only with its status."""
    old = next((one for one in status.get("conditions") or [] if one["type"] == kind), None)
    same = old is not None and old["status"] == value
    condition: Json = {
        "type": kind,
        "status": value,
        "lastProbeTime": None,
        "lastTransitionTime": old["lastTransitionTime"] if old and same else rfc3339(now),
    }
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    others = [one for one in status.get("conditions") or [] if one["type"] != kind]
    status["conditions"] = [*others, condition]
