"""TaskStatus messages the master itself makes. Source: Mesos src/common/protobuf_utils.cpp (`createStatusUpdate`)."""

from local.master.model import Framework
from local.tasks import Task
from local.wire.proto import Json


def status(
    task_id: str,
    state: str,
    message: str,
    reason: str,
    now: float,
    *,
    agent_id: str | None = None,
    executor_id: str | None = None,
) -> Json:
    """An update of the master: no uuid, so nothing to acknowledge."""
    result: Json = {
        "task_id": {"value": task_id},
        "state": state,
        "message": message,
        "source": "SOURCE_MASTER",
        "reason": reason,
        "timestamp": now,
    }
    if agent_id is not None:
        result["agent_id"] = {"value": agent_id}
    if executor_id is not None:
        result["executor_id"] = {"value": executor_id}
    return result


def of_task(task: Task, state: str, message: str, reason: str, now: float) -> Json:
    """The same for a task that is known: with what its last status said of health and container."""
    result = status(
        task.task_id, state, message, reason, now, agent_id=task.agent_id, executor_id=task.executor_id
    )
    last = task.statuses[-1] if task.statuses else {}
    for field in ("healthy", "check_status", "container_status"):
        if field in last:
            result[field] = last[field]
    return result


def send(framework: Framework, update: Json) -> None:
    framework.send("UPDATE", {"status": update})
