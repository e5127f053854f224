"""Asking Mesos what it knows: explicitly about tasks, again until answered, and implicitly about everything.

Silence is an answer only in that it must be asked again: a master that failed over says nothing of agents
that are not back yet. One call carries all questions that are due; the delay doubles up to a cap
(Mesos docs/reconciliation.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.framework.core import backoff, volumes
from scheduler.framework.core.effects import Reconcile
from scheduler.framework.core.frame import Frame
from scheduler.framework.core.lifecycle import AWAY, TaskState
from scheduler.framework.core.state import Alarm, Question


def subscribed(frame: Frame) -> None:
    """A new connection: every task that may live is asked about; then everything, to find what we never heard of."""
    frame.state.questions.clear()
    ask(frame, [task.id for task in frame.state.tasks.values() if not task.over])
    frame.timer(frame.state.policy.reconcile_first, Alarm.IMPLICIT)


def ask(frame: Frame, task_ids: Iterable[str]) -> None:
    """Asks now."""
    for task_id in task_ids:
        frame.state.questions[task_id] = Question(0, frame.now)
    ask_due(frame)


def ask_later(frame: Frame, task_ids: Iterable[str]) -> None:
    """Asks in a while, unless an update comes first."""
    state = frame.state
    later = frame.now + state.policy.reconcile_first
    for task_id in task_ids:
        if task_id not in state.questions and not state.tasks[task_id].over:
            state.questions[task_id] = Question(0, later)
    frame.timer(state.policy.reconcile_first, Alarm.RECONCILE)


def ask_due(frame: Frame) -> None:
    """One call with all questions that are due."""
    state = frame.state
    if not state.connected:
        return
    due: list[tuple[str, str]] = []
    delays: set[float] = set()
    for task_id, question in list(state.questions.items()):
        task = state.tasks.get(task_id)
        if task is None or task.over:
            del state.questions[task_id]
        elif question.next_at <= frame.now:
            question.tries += 1
            delay = backoff.grow(state.policy.reconcile_first, question.tries, state.policy.reconcile_max)
            question.next_at = frame.now + delay
            delays.add(delay)
            due.append((task.id, task.agent_id))
    for delay in delays:  # a timer for each of 50,000 questions would ask 50,000 times whether one is due
        frame.timer(delay, Alarm.RECONCILE)
    if due:
        frame.emit(Reconcile(tuple(due)))


def ask_all(frame: Frame) -> None:
    """The implicit round: all that the master knows, and explicitly what it may have forgotten."""
    state = frame.state
    if not state.connected:
        return
    frame.emit(Reconcile(()))
    away = tuple((task.id, task.agent_id) for task in state.tasks.values() if task.state in AWAY)
    away += volumes.probes(state)
    if away:
        frame.emit(Reconcile(away))
    frame.timer(state.policy.implicit_every, Alarm.IMPLICIT)


def overdue(frame: Frame, task_id: str) -> None:
    """A launch that nobody confirmed: an agent may have dropped it without a word."""
    task = frame.state.tasks.get(task_id)
    if task is None or task.state is not TaskState.STAGED:
        return
    if task_id not in frame.state.questions:
        ask(frame, [task_id])
    frame.timer(frame.state.policy.launch_overdue, Alarm.OVERDUE, task_id)
