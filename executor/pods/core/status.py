"""What the world is told of a pod: the v1 PodStatus of a State.

Mirrors the kubelet's pkg/kubelet/status/generate.go and kubelet_pods.go (getPhase). The PodScheduled condition is the
scheduler's and not in here. A container whose postStart hook runs is shown as one that does not run yet.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from executor.pods.core.state import Condition, Container, Outcome, State, Termination
from executor.pods.core.states import ContainerState, SandboxState

ENFORCED: Final = "gantry.io/IsolatorsEnforced"
"""A condition of our own, False for pods that run without an isolator they ask for."""


def timestamp(seconds: float) -> str:
    """Unix time as v1 Time: RFC 3339 in UTC, whole seconds."""
    return _timestamp(int(seconds))


@lru_cache(maxsize=256)
def _timestamp(seconds: int) -> str:
    """Every report repeats a handful of them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_id(state: State, app: str, attempt: int) -> str:
    """`gantry://<pod uid>/<app>/<instance>`."""
    return f"gantry://{state.pod.uid}/{app}/{attempt}"


def phase(state: State) -> str:
    """v1 PodStatus.phase. While the pod lives it never goes back from Running to Pending: `attempt` only grows."""
    if state.sandbox is SandboxState.GONE and state.ending is not None:
        if state.ending.only_here:
            return "Pending"
        if state.ending.outcome is Outcome.FINISHED:
            return "Succeeded"
        failed = state.ending.outcome is Outcome.FAILED or any(not c.succeeded for c in state.mains)
        return "Failed" if failed else "Succeeded"
    if not state.initialized or any(_comes_first(c) for c in state.mains):
        return "Pending"
    return "Running"


def _comes_first(container: Container) -> bool:
    """Whether its first instance is not running yet."""
    settling = container.attempt == 0 and container.state is ContainerState.SETTLING
    return container.attempt < 0 or settling


def with_conditions(state: State, now: float) -> State:
    """The state with its conditions brought up to date; lastTransitionTime moves only when a status changes."""
    before = {(c.type, c.status): c.since for c in state.conditions}
    conditions = tuple(
        Condition(kind, met, before.get((kind, met), now), reason, message)
        for kind, met, reason, message in _conditions(state)
    )
    return state if conditions == state.conditions else replace(state, conditions=conditions)


def _conditions(state: State) -> list[tuple[str, bool, str, str]]:
    """Type, status, reason and message of each."""
    unready = [c.app.name for c in (*state.sidecars, *state.mains) if not c.ready]
    uninitialized = [c.app.name for c in state.inits if not (c.begun if c.app.sidecar else c.succeeded)]
    done = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase(state), "")
    initialized = (True, done if done == "PodCompleted" else "", "")
    if uninitialized:
        message = f"containers with incomplete status: [{' '.join(uninitialized)}]"
        initialized = (False, "ContainersNotInitialized", message)
    ready = (True, "", "")
    if done:
        ready = (False, done, "")
    elif unready:
        ready = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    enforced = (ENFORCED, False, "IsolatorNotEnforced", "; ".join(state.unenforced))
    return [
        ("PodReadyToStartContainers", state.sandbox is SandboxState.UP, "", ""),
        ("Initialized", *initialized),
        ("Ready", *ready),
        ("ContainersReady", *ready),
        *([enforced] if state.unenforced else []),
    ]


def pod_status(state: State) -> dict[str, Any]:
    """The v1 PodStatus. Two states that look the same give equal dicts."""
    pod = state.pod
    status: dict[str, Any] = {
        "phase": phase(state),
        "conditions": [_condition(c) for c in state.conditions],
        "hostIP": pod.host_ip,
        "hostIPs": [{"ip": pod.host_ip}],
        "startTime": timestamp(state.started_at),
        "qosClass": pod.qos_class,
        "containerStatuses": [_container(state, c) for c in state.mains],
    }
    if state.inits:
        status["initContainerStatuses"] = [_container(state, c) for c in state.inits]
    if pod.pod_ip:
        status |= {"podIP": pod.pod_ip, "podIPs": [{"ip": pod.pod_ip}]}
    if state.ending is not None and state.ending.reason:
        status |= {"reason": state.ending.reason, "message": state.ending.message}
    elif state.unenforced:
        status["message"] = "; ".join(state.unenforced)
    return status


def _condition(condition: Condition) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": condition.type,
        "status": "True" if condition.status else "False",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(condition.since),
    }
    if condition.reason:
        made["reason"] = condition.reason
    if condition.message:
        made["message"] = condition.message
    return made


def _container(state: State, container: Container) -> dict[str, Any]:
    now_state, last = _shown(state, container)
    status: dict[str, Any] = {
        "name": container.app.name,
        "image": container.image or container.app.image,
        "imageID": container.image_id,
        "ready": container.ready,
        "started": container.started,
        "restartCount": max(0, container.attempt),
        "state": now_state,
        "lastState": {} if last is None else {"terminated": _terminated(state, container, last)},
    }
    if container.attempt >= 0:
        status["containerID"] = container_id(state, container.app.name, container.attempt)
    return status


def _shown(state: State, container: Container) -> tuple[dict[str, Any], Termination | None]:
    """The `state` of the container, and the termination that is its `lastState`."""
    match container.state:
        case ContainerState.RUNNING | ContainerState.LEAVING | ContainerState.STOPPING:
            started = timestamp(container.started_at or 0.0)
            return {"running": {"startedAt": started}}, container.last
        case ContainerState.BACKOFF:
            return _waiting("CrashLoopBackOff", container.message), container.last
        case ContainerState.HELD:
            return _waiting(container.reason, container.message), container.last
        case _:
            # Between two instances a container shows the end of the last one, until the next one runs.
            if container.last is not None:
                return {"terminated": _terminated(state, container, container.last)}, container.previous
            return _waiting("ContainerCreating" if state.initialized else "PodInitializing"), None


def _waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}


def _terminated(state: State, container: Container, ended: Termination) -> dict[str, Any]:
    made: dict[str, Any] = {
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "startedAt": timestamp(ended.started_at) if ended.started_at is not None else None,
        "finishedAt": timestamp(ended.finished_at),
        "containerID": container_id(state, container.app.name, ended.attempt),
    }
    if ended.message:
        made["message"] = ended.message
    return made
