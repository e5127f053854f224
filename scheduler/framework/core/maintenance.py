"""Agents that their operators take away: windows of maintenance, inverse offers, drains.

An inverse offer is a hint: whatever we answer, the agent goes. So from some time before the window its node takes
no more pods (unless they tolerate that), and what can move moves, a few at a time, the next when one runs elsewhere: a
pod is ended here and started there, or the other way round if it says that it may run twice. When the window is near,
all move that have not. Jobs, and pods that ask for it, stay to the end. The answer says which it is, and so do events.

Source: Mesos docs/maintenance.md, src/master/allocator/mesos/hierarchical.cpp (`__generateInverseOffers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from scheduler.framework.core import tasks
from scheduler.framework.core.effects import AnswerInverse, SaveNode
from scheduler.framework.core.entities import Node, Offer, Pod, Taint, Task
from scheduler.framework.core.events import InverseOffer, MaintenanceListed
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import LIVE, TaskState
from scheduler.framework.core.placement import tolerates
from scheduler.framework.core.pods import DRAINING_TAINT, MAINTENANCE_TAINT
from scheduler.framework.core.state import Alarm, State
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
        frame.state.window_told[one.agent_id] = frame.now
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
        frame.state.window_told[offer.agent_id] = frame.now
        learn(frame, offer.agent_id, (offer.unavailable_at, end))
    elif node is not None and node.window is not None:
        forget(frame, node)


def listed(frame: Frame, event: MaintenanceListed) -> None:
    """The master's schedule: the one place where a cancellation shows while nothing is offered to us."""
    state = frame.state
    for node in list(state.nodes.values()):
        if node.info is None or not node.agent_id:
            continue
        planned = event.windows.get((node.info.hostname.lower(), node.info.ip))
        if planned is not None:
            start, lasts = planned
            learn(frame, node.agent_id, (start, math.inf if lasts is None else start + lasts))
        elif node.window is not None and state.window_told.get(node.agent_id, 0.0) < event.asked_at:
            forget(frame, node)


def learn(frame: Frame, agent_id: str, window: Window) -> None:
    """A window is planned, or moved. One that is over says nothing, though it may stay in the schedule."""
    node = _node(frame, agent_id)
    if node is None or (node.window is None and frame.now >= window[1]):
        return
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
        if task.moving and task.uid in state.pods:
            state.moving.add(task.uid)
            if tasks.gives_way(task) and not task.superseded:
                frame.enqueue(task.uid)


def due(frame: Frame, agent_id: str) -> None:
    """A timer of an agent: pods move when their time has come."""
    frame.state.window_timers.pop(agent_id, None)
    node = _node(frame, agent_id)
    if node is not None and node.window is not None:
        _act(frame, node)


def forget(frame: Frame, node: Node) -> None:
    """The maintenance is over, or will not be: what has not moved yet stays."""
    _put(frame, replace(node, window=None))
    for task in _tasks(frame, node.agent_id):
        frame.state.to_move.pop(task.id, None)
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
    lead = start - policy.maintenance_lead
    if frame.now < lead:
        _timer(frame, node.agent_id, lead)
        return
    times = [end] if end < math.inf else []
    for task in _tasks(frame, node.agent_id):
        pod = _mover(frame, task)
        if pod is None:
            continue
        latest = _latest(frame, pod, start)
        if frame.now >= latest:
            _move(frame, task, pod, start)
        else:
            frame.state.to_move.setdefault(task.id)
            times.append(latest)
    if times:
        _timer(frame, node.agent_id, min(times))


def _timer(frame: Frame, agent_id: str, at: float) -> None:
    """One a node, however often its window is told."""
    known = frame.state.window_timers.get(agent_id)
    if known is None or at < known:
        frame.state.window_timers[agent_id] = at
        frame.state.set_timer(at, Alarm.MAINTENANCE, agent_id)


def _latest(frame: Frame, pod: Pod, start: float) -> float:
    """From when on a pod waits no more for others that move."""
    return start - frame.state.policy.maintenance_stop - pod.grace


def settle(frame: Frame) -> None:
    """The end of a frame: as many pods move as may at once."""
    state = frame.state
    if not state.to_move:
        return
    state.moving = {uid for uid in state.moving if _under_way(state, uid)}
    while state.to_move and len(state.moving) < state.policy.maintenance_moves:
        task_id = next(iter(state.to_move))
        del state.to_move[task_id]
        task = state.tasks.get(task_id)
        node = _node(frame, task.agent_id) if task is not None else None
        pod = _mover(frame, task) if task is not None else None
        if task is not None and pod is not None and node is not None and node.window is not None:
            _move(frame, task, pod, node.window[0])


def _under_way(state: State, uid: str) -> bool:
    """The pod was to leave, and does not run elsewhere yet."""
    pod, task = state.pods.get(uid), state.task_of(uid)
    if pod is None or pod.done or pod.deletion is not None:
        return False
    return task is None or task.moving or task.state is not TaskState.RUNNING


def _mover(frame: Frame, task: Task) -> Pod | None:
    """The pod of a task that is still to move."""
    pod = tasks.speaker(frame, task)
    if pod is None or pod.deletion is not None or task.kill is not None or task.state not in LIVE:
        return None
    return None if task.moving or _why_stays(task, pod) else pod


def _move(frame: Frame, task: Task, pod: Pod, start: float) -> None:
    state = frame.state
    state.to_move.pop(task.id, None)
    state.moving.add(pod.uid)
    when = f"node {task.node} goes into maintenance at {_time(start)}"
    moving = replace(task, moving=True)
    frame.save_task(moving)
    if pod.on_maintenance == START_FIRST:
        frame.publish(pod, "Normal", "MaintenanceMove", f"{when}: starting the pod elsewhere first")
        frame.enqueue(pod.uid)
    else:
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
