"""NoExecute taints that users set: pods that do not tolerate them leave the node, at once or when their time is over.

As Kubernetes' taint eviction controller does it (`pkg/controller/tainteviction`): such a pod is deleted, with its own
grace; what owns it makes another one. Taints of ours are not judged here: a node that is away is a matter of its
tasks (`tasks`), draining and maintenance are the operator's (`maintenance`).
"""

from __future__ import annotations

from scheduler.framework.core.effects import Evicted
from scheduler.framework.core.entities import Node, Pod, Taint
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import LIVE
from scheduler.framework.core.placement import tolerates
from scheduler.framework.core.state import Alarm


def patience(pod: Pod, taints: tuple[Taint, ...]) -> float | None:
    """Seconds that the pod may stay with these taints; None for ever. The shortest of its tolerations counts."""
    limits: list[float] = []
    for taint in taints:
        if taint.effect != "NoExecute":
            continue
        fitting = [one for one in pod.needs.tolerations if tolerates(one, taint)]
        if not fitting:
            return 0.0
        limits += [max(one.seconds, 0.0) for one in fitting if one.seconds is not None]
    return min(limits, default=None)


def check_node(frame: Frame, node: Node) -> None:
    """The node's taints may have changed."""
    for task_id in sorted(frame.state.by_agent.get(node.agent_id, ())):
        check(frame, frame.state.tasks[task_id].uid)


def check(frame: Frame, uid: str) -> None:
    """Sets, moves or takes back the time at which a pod must leave its node."""
    state = frame.state
    pod, task = state.pods.get(uid), state.task_of(uid)
    seconds = None
    if pod is not None and task is not None and task.state in LIVE and pod.deletion is None:
        node = state.nodes.get(task.node)
        if node is not None and node.agent_id == task.agent_id:
            seconds = patience(pod, node.taints)
    if seconds is None:
        state.evictions.pop(uid, None)
        return
    since, before = state.evictions.get(uid, (frame.now, -1.0))
    if seconds != before:
        state.evictions[uid] = (since, seconds)
        state.set_timer(max(since + seconds, frame.now), Alarm.EVICT, uid)


def due(frame: Frame, uid: str) -> None:
    """The time may be over; if the taints are gone meanwhile, so is the entry."""
    state = frame.state
    since, seconds = state.evictions.get(uid, (frame.now, 1.0))
    if since + seconds > frame.now:
        return
    del state.evictions[uid]
    pod, task = state.pods.get(uid), state.task_of(uid)
    if pod is None or task is None or pod.deletion is not None or task.state not in LIVE:
        return
    message = f"Taint manager: deleting due to NoExecute taint on {task.node}"
    frame.save_pod(pod, Evicted(pod.grace, message))
    frame.publish(pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {pod.key}")
