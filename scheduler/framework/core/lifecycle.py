"""The life of a task: its states, and the table of every move between them.

          ┌────────▶ UNREACHABLE ◀──▶ UNKNOWN ──┐          (away: not dead, it may come back)
          │             ▲  │                    │
    STAGED ─▶ STARTING ─▶ RUNNING ─▶ KILLING    │
          └─────────────┴──────────┴────────────┴──▶ FINISHED FAILED KILLED ERROR DROPPED LOST GONE

ABSENT is a task that we hold no record of. What the table does not name is illegal: it changes nothing and is
counted. Killing an unknown or a resurrected task is a decision of the same table, not a reflex.

Not here: what becomes of the pod when its task ends (`verdict`), and what is written (`step`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import Final


class TaskState(Enum):
    """Named after Mesos' states; LOST also covers tasks given up after a long TASK_UNKNOWN."""

    ABSENT = auto()
    STAGED = auto()
    STARTING = auto()
    RUNNING = auto()
    KILLING = auto()
    UNREACHABLE = auto()
    UNKNOWN = auto()
    FINISHED = auto()
    FAILED = auto()
    KILLED = auto()
    ERROR = auto()
    DROPPED = auto()
    LOST = auto()
    GONE = auto()

    __hash__ = object.__hash__  # Enum's own is Python code, and states are looked up in sets all the time


class Action(Enum):
    """What a move asks for, in the order in which it is done."""

    SAVE = auto()
    """Write the task's record."""
    SETTLE = auto()
    """The task is over: decide what becomes of its pod."""
    AWAY = auto()
    """Start to wait for the task's return."""
    RETURN = auto()
    """It is back: go on with it, or kill it when its pod no longer wants it."""
    KILL = auto()
    """It runs and must not: kill it."""


@dataclass(frozen=True, slots=True)
class Move:
    """The outcome of a report: the state now, what to do, whether the table knows the move."""

    state: TaskState
    actions: frozenset[Action] = frozenset()
    legal: bool = True


_S = TaskState
LIVE: Final = frozenset({_S.STAGED, _S.STARTING, _S.RUNNING, _S.KILLING})
AWAY: Final = frozenset({_S.UNREACHABLE, _S.UNKNOWN})
TERMINAL: Final = frozenset({_S.FINISHED, _S.FAILED, _S.KILLED, _S.ERROR, _S.DROPPED, _S.LOST, _S.GONE})

MESOS: Final[dict[str, TaskState]] = {
    "TASK_STAGING": _S.STAGED,
    "TASK_STARTING": _S.STARTING,
    "TASK_RUNNING": _S.RUNNING,
    "TASK_KILLING": _S.KILLING,
    "TASK_UNREACHABLE": _S.UNREACHABLE,
    "TASK_UNKNOWN": _S.UNKNOWN,
    "TASK_FINISHED": _S.FINISHED,
    "TASK_FAILED": _S.FAILED,
    "TASK_KILLED": _S.KILLED,
    "TASK_ERROR": _S.ERROR,
    "TASK_DROPPED": _S.DROPPED,
    "TASK_LOST": _S.LOST,
    "TASK_GONE": _S.GONE,
    "TASK_GONE_BY_OPERATOR": _S.GONE,
}
"""TaskState of the v1 API (mesos.proto) -> ours."""


def _table() -> dict[tuple[TaskState, TaskState], frozenset[Action]]:
    save, settle = frozenset({Action.SAVE}), frozenset({Action.SAVE, Action.SETTLE})
    away, back = frozenset({Action.SAVE, Action.AWAY}), frozenset({Action.SAVE, Action.RETURN})
    forward = (_S.STAGED, _S.STARTING, _S.RUNNING, _S.KILLING)
    table = {(a, b): save for i, a in enumerate(forward) for b in forward[i + 1 :]}
    table |= dict.fromkeys(product(LIVE, AWAY), away)
    table |= dict.fromkeys(product(AWAY, LIVE), back)
    table |= {(_S.UNREACHABLE, _S.UNKNOWN): save, (_S.UNKNOWN, _S.UNREACHABLE): save}
    table |= dict.fromkeys(product(LIVE | AWAY, TERMINAL), settle)
    # A ghost: nobody's task, or one that came back after its end (MESOS-9940).
    table |= {(a, b): frozenset({Action.KILL}) for a, b in product(TERMINAL | {_S.ABSENT}, LIVE)}
    # Of a task without a record there is nothing to do once it no longer runs.
    table |= {(_S.ABSENT, b): frozenset() for b in TERMINAL | AWAY}
    return table


TRANSITIONS: Final = _table()


def transition(current: TaskState, to: TaskState) -> Move:
    """Where a report of `to` takes a task in `current`. Ghosts keep their state; illegal moves do nothing."""
    if current is to:
        return Move(current)
    actions = TRANSITIONS.get((current, to))
    if actions is None:
        return Move(current, legal=False)
    keeps = current is _S.ABSENT or current in TERMINAL
    return Move(current if keeps else to, actions)
