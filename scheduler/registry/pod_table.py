"""How `kubectl get pods` shows a pod.

The status word is put together from the containers' states in the order of kube-apiserver's printer
(`pkg/printers/internalversion/printers.go`), so that CrashLoopBackOff, Init:0/1 and the rest mean the same here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from scheduler.registry.cells import AGE, NAME, age, or_none
from scheduler.registry.resource import Column, Object
from shared.models.conditions import find_condition, is_true

COLUMNS = (
    NAME,
    Column("Ready", description="Ready containers of all."),
    Column("Status", description="What the containers' states come to."),
    Column("Restarts", description="How often containers were started again, and when last."),
    AGE,
    Column("IP", description="Address of the pod.", priority=1),
    Column("Node", description="Node it is bound to.", priority=1),
    Column("Nominated Node", description="Node it may get after preemption.", priority=1),
    Column("Readiness Gates", description="Readiness gates that are open, of all.", priority=1),
)


@dataclass
class _Tally:
    """What was counted over the containers."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: str = ""
    of_sidecars: tuple[int, str] = field(default=(0, ""))

    def count(self, status: Object) -> None:
        self.restarts += status.get("restartCount", 0)
        finished = _terminated(status.get("lastState")).get("finishedAt", "")
        self.last_restart = max(self.last_restart, finished)


def pod_row(pod: Object, now: datetime) -> list[Any]:
    """The cells of COLUMNS."""
    metadata, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
    tally = _tally(spec, status)
    total = len(spec.get("containers") or ()) + len(_sidecars(spec))
    restarts = str(tally.restarts)
    if tally.restarts and tally.last_restart:
        restarts += f" ({age(tally.last_restart, now)} ago)"
    addresses = status.get("podIPs") or [{"ip": status.get("podIP")}]
    return [
        metadata.get("name", ""),
        f"{tally.ready}/{total}",
        _word(tally.reason, metadata, status),
        restarts,
        age(metadata.get("creationTimestamp"), now),
        or_none(addresses[0].get("ip")),
        or_none(spec.get("nodeName")),
        or_none(status.get("nominatedNodeName")),
        _gates(spec, status),
    ]


def _word(reason: str, metadata: Object, status: Object) -> str:
    if metadata.get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return reason


def _tally(spec: Object, status: Object) -> _Tally:
    conditions = status.get("conditions")
    tally = _Tally(status.get("reason") or status.get("phase") or "")
    scheduled = find_condition(conditions, "PodScheduled")
    if scheduled and scheduled.get("reason") == "SchedulingGated":
        tally.reason = "SchedulingGated"
    initializing = _count_init(tally, spec, status)
    if not initializing or is_true(conditions, "Initialized"):
        tally.restarts, tally.last_restart = tally.of_sidecars
        _count_containers(tally, status)
    return tally


def _count_init(tally: _Tally, spec: Object, status: Object) -> bool:
    """Count init containers up to the first that is not done; whether there is such a one."""
    sidecars = _sidecars(spec)
    alone = _Tally("")
    for index, one in enumerate(status.get("initContainerStatuses") or ()):
        sidecar = one.get("name") in sidecars
        tally.count(one)
        if sidecar:
            alone.count(one)
            tally.of_sidecars = (alone.restarts, alone.last_restart)
        state = one.get("state") or {}
        ended = state.get("terminated")
        if ended is not None and not ended.get("exitCode"):
            continue
        if sidecar and one.get("started"):
            tally.ready += bool(one.get("ready"))
            continue
        waiting = (state.get("waiting") or {}).get("reason")
        if ended is not None:
            tally.reason = f"Init:{_ending(ended)}"
        elif waiting and waiting != "PodInitializing":
            tally.reason = f"Init:{waiting}"
        else:
            tally.reason = f"Init:{index}/{len(spec.get('initContainers') or ())}"
        return True
    return False


def _count_containers(tally: _Tally, status: Object) -> None:
    running = False
    for one in reversed(status.get("containerStatuses") or ()):
        tally.count(one)
        state = one.get("state") or {}
        waiting = (state.get("waiting") or {}).get("reason")
        if waiting:
            tally.reason = waiting
        elif state.get("terminated") is not None:
            tally.reason = _ending(state["terminated"])
        elif one.get("ready") and state.get("running") is not None:
            running = True
            tally.ready += 1
    if tally.reason == "Completed" and running:
        tally.reason = "Running" if is_true(status.get("conditions"), "Ready") else "NotReady"


def _ending(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _terminated(state: Object | None) -> Object:
    return (state or {}).get("terminated") or {}


def _sidecars(spec: Object) -> set[str]:
    return {
        one.get("name", "")
        for one in spec.get("initContainers") or ()
        if one.get("restartPolicy") == "Always"
    }


def _gates(spec: Object, status: Object) -> str:
    gates = spec.get("readinessGates") or ()
    if not gates:
        return "<none>"
    open_ones = sum(is_true(status.get("conditions"), gate.get("conditionType", "")) for gate in gates)
    return f"{open_ones}/{len(gates)}"
