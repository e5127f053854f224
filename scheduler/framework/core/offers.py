"""What is done with offers: used together, or given back at once. Nothing is held over a frame.

All offers of an agent go into one ACCEPT with all launches there. Left over in it: hidden for no time when
pods still wait, for long when none does. What fits nothing is declined for long: the filter hides it only until
there is more (`RefusedOfferFilter`), or until a REVIVE. When nobody waits the role is suppressed; a new pod
revives it, and offers come within milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scheduler.framework.core import desired, maintenance, nodes, placement, tasks
from scheduler.framework.core.backoff import grow
from scheduler.framework.core.effects import (
    Accept,
    Bound,
    Decline,
    Launch,
    Revive,
    Suppress,
    Unschedulable,
)
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import LIVE
from scheduler.framework.core.placement import Candidate
from scheduler.framework.core.state import Alarm, Executor, Needs, Node, Offer, State, Task
from scheduler.framework.core.vectors import ZERO, Ranges, Vector, join


def receive(frame: Frame, offers: Sequence[Offer]) -> None:
    for offer in offers:
        frame.state.offers[offer.id] = offer
        nodes.seen(frame, nodes.from_offer(offer))
        maintenance.offered(frame, offer)


def match(frame: Frame) -> None:
    """The end of every frame: offers are answered, and more are asked for or none."""
    state = frame.state
    if not state.connected:
        return
    if state.offers:
        _answer(frame)
    if any(_due(frame)):
        if frame.demand and (state.suppressed or state.returned):
            state.revives = 0
            _revive(frame)
    elif not state.suppressed:
        state.suppressed = True
        frame.emit(Suppress())


def _due(frame: Frame) -> Iterator[str]:
    """Pods that may be launched now: not those whose former task runs, or may run for all we have heard."""
    state = frame.state
    for uid, entry in state.pending.items():
        if entry.not_before <= frame.now and not any(_holds(state, one) for one in state.by_pod.get(uid, ())):
            yield uid


def _holds(state: State, task_id: str) -> bool:
    """A task that keeps its pod from another launch."""
    task = state.tasks[task_id]
    return (task.state in LIVE and not tasks.gives_way(task)) or task_id in state.questions


def _revive(frame: Frame) -> None:
    """Filters end, everything free is offered again: what was known to be free is no longer."""
    state = frame.state
    state.suppressed = state.returned = False
    for agent in state.agents.values():
        if agent.free != ZERO:
            state.agents[agent.id] = replace(agent, free=ZERO, ports=())
    state.revives += 1
    state.revived_at = frame.now
    delay = grow(state.policy.revive_first, state.revives, state.policy.revive_max)
    state.next_revive = frame.now + delay
    frame.timer(delay, Alarm.REVIVE)
    frame.emit(Revive())


def revive_again(frame: Frame) -> None:
    """Pods still wait: now and then ask for everything, in case a filter hides what would do."""
    state = frame.state
    if not state.connected or frame.now < state.next_revive:
        return
    if any(_due(frame)):
        _revive(frame)


def _answer(frame: Frame) -> None:
    state = frame.state
    by_agent: dict[str, list[Offer]] = {}
    for offer in state.offers.values():
        by_agent.setdefault(offer.agent_id, []).append(offer)
    state.offers = {}
    state.returned = True
    candidates = []
    for agent_id, offers in by_agent.items():
        _forget_executors(frame, agent_id, offers)
        candidates.append(_candidate(frame, agent_id, offers))
    usable = [one for one in candidates if state.agents[one.agent_id].avoid_until <= frame.now]
    wants = [(uid, desired.needs_of(state, state.pods[uid])) for uid in _due(frame)]
    short = bool(placement.place(wants, usable))
    declined: list[str] = []
    for one in candidates:
        ids = tuple(offer.id for offer in by_agent[one.agent_id])
        state.agents[one.agent_id] = replace(state.agents[one.agent_id], free=one.free, ports=one.ports)
        if one.uids:
            refuse = 0.0 if short else state.policy.long_filter
            frame.emit(Accept(one.agent_id, ids, _bind(frame, one), refuse))
        else:
            declined += ids
    if declined:
        frame.emit(Decline(tuple(declined), state.policy.long_filter))


def _forget_executors(frame: Frame, agent_id: str, offers: list[Offer]) -> None:
    """An instance that the master does not list and that has no task left is dead."""
    state = frame.state
    alive = {one for offer in offers for one in offer.executors}
    alive |= {
        state.tasks[one].executor_id for one in state.by_agent.get(agent_id, ()) if not state.tasks[one].over
    }
    for executor_id in sorted(state.executors_of.get(agent_id, set()) - alive):
        frame.drop_executor(executor_id)


def _candidate(frame: Frame, agent_id: str, offers: list[Offer]) -> Candidate:
    total = ZERO
    for offer in offers:
        total = total + offer.amounts
    agent = frame.state.agents[agent_id]
    node = frame.state.nodes[agent.node]
    listed = {one for offer in offers for one in offer.executors}
    return _make(frame, node, agent_id, total, join(*(one.ports for one in offers)), listed, offers)


def _make(
    frame: Frame,
    node: Node,
    agent_id: str,
    free: Vector,
    ports: Ranges,
    listed: set[str],
    offers: Sequence[Offer] = (),
) -> Candidate:
    state = frame.state
    tasks_here = [state.tasks[one] for one in state.by_agent.get(agent_id, ())]
    executor = state.executor_on(agent_id)
    runs = executor is not None and (
        executor.id in listed
        or any(one.started_at and not one.over and one.executor_id == executor.id for one in tasks_here)
    )
    return Candidate(
        agent_id,
        node,
        free,
        ports,
        overhead=ZERO if runs else state.policy.executor,
        room=state.policy.max_pods - sum(not one.over for one in tasks_here),
        last_resort=any(one.unavailable_at is not None for one in offers),
    )


def _bind(frame: Frame, one: Candidate) -> tuple[Launch, ...]:
    """Records every launch; it is saved before the ACCEPT that this is for."""
    state = frame.state
    executor = state.executor_on(one.agent_id)
    if executor is None:
        version = state.policy.executor_version
        executor_id = f"gantry.{version}.{frame.token}{state.fresh()}"
        executor = Executor(executor_id, one.agent_id, version)
        frame.save_executor(executor)
    return tuple(_launch(frame, uid, one.node.name, executor) for uid in one.uids)


def _launch(frame: Frame, uid: str, node: str, executor: Executor) -> Launch:
    state = frame.state
    pod, before = state.pods[uid], state.task_of(uid)
    needs = desired.needs_of(state, pod)
    if before is not None and before.over:
        frame.drop_task(before)
    elif before is not None:
        tasks.supersede(frame, before)
    task = Task(
        id=f"{uid}.{state.attempts.get(uid, 0) + 1}",
        uid=uid,
        namespace=pod.namespace,
        name=pod.name,
        attempt=state.attempts.get(uid, 0) + 1,
        agent_id=executor.agent_id,
        node=node,
        executor_id=executor.id,
        asked_node=needs.node,
        launched_at=frame.now,
        failures=before.failures if before is not None else 0,
    )
    frame.save_task(task, binds=True)
    frame.save_pod(pod, Bound(task.id, node))
    frame.publish(pod, "Normal", "Scheduled", f"Successfully assigned {pod.key} to {node}")
    state.pods[uid] = replace(pod, node=node)
    del state.pending[uid]
    frame.timer(state.policy.launch_overdue, Alarm.OVERDUE, task.id)
    return Launch(task, executor, needs.amounts, needs.ports)


# ---- why a pod waits


def report(frame: Frame, uid: str) -> None:
    """Says why a pod still waits: at once when that changed, else now and then."""
    state = frame.state
    entry, pod = state.pending.get(uid), state.pods.get(uid)
    if entry is None or pod is None or entry.not_before > frame.now:
        return
    if frame.now < state.revived_at + state.policy.report_after:  # its offers are still to come
        frame.timer(state.policy.report_after, Alarm.REPORT, uid)
        return
    message = _why(frame, desired.needs_of(state, pod))
    changed = message != entry.said
    if changed or frame.now - entry.said_at >= state.policy.report_again:
        frame.publish(pod, "Warning", "FailedScheduling", message)
        entry.said, entry.said_at = message, frame.now
    if changed:
        frame.save_pod(pod, Unschedulable(message))
    frame.timer(state.policy.report_again / 6, Alarm.REPORT, uid)


def _why(frame: Frame, needs: Needs) -> str:
    state = frame.state
    if not state.connected:
        return "not connected to the Mesos master"
    if needs not in frame.explained:
        known = {}
        for node in state.nodes.values():
            agent = state.agents.get(node.agent_id)
            if agent is not None:
                known[node.name] = _make(frame, node, agent.id, agent.free, agent.ports, set())
        frame.explained[needs] = placement.explain(needs, placement.all_nodes(state.nodes, known))
    return frame.explained[needs]
