"""Executor instances: which are dead without a word, and which are told to leave.

An instance leaves by itself when it had no pod for long. Two things cannot wait for that: an agent that is drained goes
on dropping whatever it gets, even after it was reactivated, until the last executor on it is gone
(`src/slave/slave.cpp`, `updateDrainStatus`); and one that the master no longer lists would only drop the next pod.
"""

from __future__ import annotations

from scheduler.framework.core import reconcile
from scheduler.framework.core.effects import ShutdownExecutor
from scheduler.framework.core.entities import Executor, Offer
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.state import State


def dismiss(frame: Frame, agent_id: str) -> None:
    """All on an agent that have no task; again after a while, because nobody says that it was heard."""
    state = frame.state
    busy = state.hosted.get(agent_id, {})
    for executor_id in sorted(state.executors_of.get(agent_id, set()) - busy.keys()):
        told = state.dismissed.get(executor_id)
        if told is None or frame.now >= told + state.policy.dismiss_again:
            state.dismissed[executor_id] = frame.now
            state.touched.add(agent_id)
            frame.emit(ShutdownExecutor(executor_id, agent_id))


def forget_gone(frame: Frame) -> None:
    """Those of agents that never come back: their machines' agents have other ids now, or no Node is left of them."""
    state = frame.state
    for agent_id in [one for one in state.executors_of if one not in state.registered]:
        node = state.nodes.get(state.node_names.get(agent_id, ""))
        if (node is None or node.agent_id != agent_id) and agent_id not in state.hosted:
            for executor_id in sorted(state.executors_of[agent_id]):
                frame.drop_executor(executor_id)


def listed(frame: Frame, offer: Offer) -> None:
    """An offer names all our executors that its agent has. One that ran and is not named is dead; its tasks' fate will
    be told, or is asked about. One that did not run yet may be newer than the offer."""
    state = frame.state
    known = state.executors_of.get(offer.agent_id)
    if known is None or (known.issubset(offer.executors) and not state.unlisted):
        return
    for executor_id in known:
        if executor_id in offer.executors:
            state.unlisted.discard(executor_id)
        elif executor_id not in state.unlisted and has_started(state, state.executors[executor_id]):
            state.unlisted.add(executor_id)
            here = state.by_agent.get(offer.agent_id, ())
            reconcile.ask_later(frame, [one for one in here if state.tasks[one].executor_id == executor_id])


def has_started(state: State, executor: Executor) -> bool:
    """Whether a task that runs tells that it does. What an offer says is newer, and what the master goes by."""
    here = (state.tasks[one] for one in state.by_agent.get(executor.agent_id, ()))
    return any(one.started_at and not one.over and one.executor_id == executor.id for one in here)
