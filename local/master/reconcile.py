"""What the master answers to RECONCILE, and when it says nothing at all: pure.

Source: Mesos src/master/master.cpp (`Master::reconcile`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from local.master import statuses
from local.master.model import Framework
from local.wire.proto import Json

REASON = "REASON_RECONCILIATION"


@dataclass(frozen=True)
class Agents:
    """Agent ids by what the master knows of them."""

    registered: Collection[str]
    recovered: Collection[str]  # in the registry, not back since the master started
    unreachable: Mapping[str, float]  # since when
    gone: Collection[str]


def implicit(framework: Framework, now: float) -> list[Json]:
    """The latest state of every task the master holds."""
    return [
        statuses.of_task(
            task, task.status_update_state or task.state, "Reconciliation: Latest task state", REASON, now
        )
        for task in framework.tasks.values()
    ]


def explicit(
    framework: Framework, task_id: str, agent_id: str | None, agents: Agents, now: float
) -> Json | None:
    """The answer for one task; None where silence is the answer."""
    task = framework.tasks.get(task_id)
    if task is not None:
        state = task.status_update_state or task.state
        return statuses.of_task(task, state, "Reconciliation: Latest task state", REASON, now)
    if agent_id in agents.recovered or (agent_id is None and agents.recovered):
        return None
    if agent_id in agents.registered:
        state, text = "TASK_GONE", "Task is unknown to the agent"
    elif agent_id in agents.unreachable:
        state, text = "TASK_UNREACHABLE", "Task is unreachable"
    elif agent_id in agents.gone:
        state, text = "TASK_GONE_BY_OPERATOR", "Task is gone"
    else:
        state, text = "TASK_UNKNOWN", "Task is unknown"
    result = statuses.status(
        task_id, framework.state_or_lost(state), f"Reconciliation: {text}", REASON, now, agent_id=agent_id
    )
    if state == "TASK_UNREACHABLE" and agent_id is not None:
        result["unreachable_time"] = {"nanoseconds": int(agents.unreachable[agent_id] * 1e9)}
    return result
