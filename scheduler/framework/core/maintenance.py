"""Agents that their operators take away: windows of maintenance, inverse offers, drains.

An inverse offer is a hint: whatever we answer, the agent goes. So from some time before the window its node takes
no more pods (unless they tolerate that), and what can move moves: a pod that always restarts is started elsewhere
first and ended here when it runs there; one that must never run twice is ended here shortly before the window.
Jobs, and pods that ask for it, stay to the end. The answer says which it is, and so do events.

Source: Mesos docs/maintenance.md, src/master/allocator/mesos/hierarchical.cpp (`__generateInverseOffers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from scheduler.framework.core import tasks
from scheduler.framework.core.effects import AnswerInverse, SaveNode
from scheduler.framework.core.events import InverseOffer
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import LIVE
from scheduler.framework.core.placement import tolerates
from scheduler.framework.core.pods import DRAINING_TAINT, MAINTENANCE_TAINT
from scheduler.framework.core.state import Alarm, Node, Offer, Pod, Taint, Task
from shared.models.annotations import START_FIRST, STAY

SOON = Taint(MAINTENANCE_TAINT, "", "NoSchedule")
LATER = Taint(MAINTENANCE_TAINT, "", "PreferNoSchedule")
DRAINING = Taint(DRAINING_TAINT, "", "NoSchedule")

Window = tuple[float, float]


# ---- what is said


def asked(frame: Frame, inverse: Iterable[InverseOffer]) -> None:
    """Inverse offers: learn the window, answer with what we can do about it."""
    for one in inverse:
        end = math.inf if one.duration is None else one.start + one.duration
        learn(frame, one.agent_id, (one.start, end))
        blocked = _staying(frame, one.agent_id)
        for task, pod, why in blocked:
            text = f"node {task.node} goes into maintenance at {_time(one.start)} and the pod stays: {why}"
            frame.publish(pod, "Warning", "MaintenanceBlocked", text)
        refuse = frame.state.policy.maintenance_again if blocked else max(one.start - frame.now, 60.0)
        frame.emit(AnswerInverse((one.id,), not blocked, refuse))


def offered(frame: Frame, offer: Offer) -> None:
    """Every offer of an agent says whether maintenance is planned there."""
    node = _node(frame, offer.agent_id)
    if offer.unavailable_at is not None:
        lasts = offer.unavailable_for
        end = math.inf if lasts is None else offer.unavailable_at + lasts
        learn(frame, offer.agent_id, (offer.unavailable_at, end))
    elif node is not None and node.window is not None:
        forget(frame, node)


def learn(frame: Frame, agent_id: str, window: Window) -> None:
    """A window is planned, or moved."""
    node = _node(frame, agent_id)
    if node is not None:
        if node.window != window:
            node = replace(node, window=window)
            _put(frame, node)
        _act(frame, node)


def loaded(frame: Frame) -> None:
    """Windows that a former run knew of, moves that it began."""
    state = frame.state
    for node in list(state.nodes.values()):
        if node.window is not None:
            _act(frame, node)
    for task in list(state.tasks.values()):
        if tasks.gives_way(task) and not task.superseded and task.uid in state.pods:
            frame.enqueue(task.uid)


def due(frame: Frame, agent_id: str) -> None:
    node = _node(frame, agent_id)
    if node is not None and node.window is not None:
        _act(frame, node)


def forget(frame: Frame, node: Node) -> None:
    """The maintenance is over, or will not be: what has not moved yet stays."""
    _put(frame, replace(node, window=None))
    for task in _tasks(frame, node.agent_id):
        if tasks.gives_way(task) and not task.superseded:
            frame.save_task(replace(task, moving=False))
            frame.state.pending.pop(task.uid, None)


# ---- what is done


def _act(frame: Frame, node: Node) -> None:
    """Does what the time asks for, and sets the next."""
    assert node.window is not None
    policy, (start, end) = frame.state.policy, node.window
    if frame.now >= end:
        forget(frame, node)
        return
    _put(frame, node)
    if frame.now < start - policy.maintenance_lead:
        frame.state.set_timer(start - policy.maintenance_lead, Alarm.MAINTENANCE, node.agent_id)
        return
    for task in _tasks(frame, node.agent_id):
        _move(frame, task, start)
    if end < math.inf:
        frame.state.set_timer(end, Alarm.MAINTENANCE, node.agent_id)


def _move(frame: Frame, task: Task, start: float) -> None:
    pod = tasks.speaker(frame, task)
    if pod is None or task.kill is not None or task.state not in LIVE or _why_stays(task, pod):
        return
    when = f"node {task.node} goes into maintenance at {_time(start)}"
    if pod.on_maintenance == START_FIRST:
        if not task.moving:
            frame.save_task(replace(task, moving=True))
            frame.publish(pod, "Normal", "MaintenanceMove", f"{when}: starting the pod elsewhere first")
            frame.enqueue(pod.uid)
        return
    at = start - frame.state.policy.maintenance_stop - pod.grace
    if frame.now < at:
        frame.state.set_timer(at, Alarm.MAINTENANCE, task.agent_id)
        return
    moving = replace(task, moving=True)
    frame.save_task(moving)
    frame.publish(pod, "Normal", "MaintenanceMove", f"{when}: ending the pod here, to start it elsewhere")
    tasks.want_kill(frame, moving, pod.grace)


def _staying(frame: Frame, agent_id: str) -> list[tuple[Task, Pod, str]]:
    """What keeps us from leaving an agent."""
    found = []
    for task in _tasks(frame, agent_id):
        pod = tasks.speaker(frame, task)
        if pod is not None and not task.over and task.kill is None and (why := _why_stays(task, pod)):
            found.append((task, pod, why))
    return found


def _why_stays(task: Task, pod: Pod) -> str:
    """Why a pod is not moved, "" when it is."""
    if task.asked_node:
        return "it asks for this node"
    if any(tolerates(one, SOON) for one in pod.needs.tolerations):
        return "it tolerates maintenance"
    if pod.on_maintenance == STAY:
        return "it asks to stay, or is a job that must run to its end"
    return ""


def _tasks(frame: Frame, agent_id: str) -> list[Task]:
    return [frame.state.tasks[one] for one in sorted(frame.state.by_agent.get(agent_id, ()))]


def _node(frame: Frame, agent_id: str) -> Node | None:
    agent = frame.state.agents.get(agent_id)
    name = agent.node if agent is not None else frame.state.node_names.get(agent_id, "")
    node = frame.state.nodes.get(name)
    return node if node is not None and node.agent_id == agent_id else None


def own_taints(frame: Frame, node: Node, *, draining: bool) -> tuple[Taint, ...]:
    """What we say about the node ourselves; users may tolerate it."""
    taints = [DRAINING] if draining else []
    if node.window is not None:
        soon = frame.now >= node.window[0] - frame.state.policy.maintenance_lead
        taints.append(SOON if soon else LATER)
    return tuple(taints)


def _put(frame: Frame, node: Node) -> None:
    new = replace(node, own=own_taints(frame, node, draining=DRAINING in node.own))
    if new != frame.state.nodes.get(node.name):
        frame.state.put_node(new)
        frame.emit(SaveNode(new))
        frame.demand = frame.demand or bool(frame.state.pending)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
