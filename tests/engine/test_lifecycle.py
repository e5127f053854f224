"""Every (from, to) pair of a task's states against an expectation written independently of the table."""

from __future__ import annotations

from itertools import product

import pytest

from scheduler.framework.core.effects import ORDER, SAVES, Acknowledge, Effect, in_order
from scheduler.framework.core.lifecycle import AWAY, LIVE, MESOS, TERMINAL, Action, TaskState, transition

PAIRS = list(product(TaskState, repeat=2))
STAGES = [TaskState.STAGED, TaskState.STARTING, TaskState.RUNNING, TaskState.KILLING]


def expected(old: TaskState, new: TaskState) -> tuple[TaskState, set[Action]] | None:
    """State and actions, None for an illegal move."""
    if old is new:
        return old, set()
    if old is TaskState.ABSENT or old in TERMINAL:
        if new in LIVE:
            return old, {Action.KILL}
        return (old, set()) if old is TaskState.ABSENT else None
    if new is TaskState.ABSENT:
        return None
    if new in TERMINAL:
        return new, {Action.SAVE, Action.SETTLE}
    if new in AWAY:
        return new, {Action.SAVE} if old in AWAY else {Action.SAVE, Action.AWAY}
    if old in AWAY:
        return new, {Action.SAVE, Action.RETURN}
    return (new, {Action.SAVE}) if STAGES.index(new) > STAGES.index(old) else None


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda state: state.name)
def test_pair(old: TaskState, new: TaskState) -> None:
    move = transition(old, new)
    wanted = expected(old, new)
    if wanted is None:
        assert (move.state, move.actions, move.legal) == (old, frozenset(), False)
    else:
        assert (move.state, set(move.actions), move.legal) == (*wanted, True)


def test_the_states_are_sorted_into_live_away_and_over() -> None:
    assert {*LIVE, *AWAY, *TERMINAL, TaskState.ABSENT} == set(TaskState)
    assert len(LIVE) + len(AWAY) + len(TERMINAL) + 1 == len(TaskState)


def test_every_state_but_absent_comes_from_mesos() -> None:
    assert set(MESOS.values()) == set(TaskState) - {TaskState.ABSENT}


def test_every_effect_has_its_place_and_saves_come_first() -> None:
    assert set(ORDER) == set(Effect.__args__)
    assert ORDER[: len(SAVES)] == SAVES
    assert [kind.__name__ for kind in ORDER[len(SAVES) :]] == [
        *("Acknowledge", "Accept", "Decline", "AnswerInverse", "KillTask"),
        "ShutdownExecutor",
        *("Suppress", "Revive", "Reconcile"),
        *("Publish", "Halt"),
    ]


def test_effects_of_one_kind_keep_their_order() -> None:
    acks = [Acknowledge("A", "t", uuid) for uuid in "cab"]
    assert in_order(acks) == acks
