"""The engine's own objects in the store: tasks, executors, the framework. The API does not serve them.

Readable JSON with camelCase names; times are seconds since the epoch. A record that cannot be read stops the start:
guessing at what runs would be worse.
"""

from __future__ import annotations

from operator import attrgetter
from sys import intern
from typing import Any, Final

from scheduler.framework.core.entities import Executor, Kill, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.store import Key, StoreError

Json = dict[str, Any]

TASKS: Final = "tasks.gantry.io"
EXECUTORS: Final = "executors.gantry.io"
FRAMEWORK: Final = Key("meta.gantry.io", "", "framework")

_FIELDS: Final = {
    "uid": "podUid",
    "namespace": "podNamespace",
    "name": "podName",
    "attempt": "attempt",
    "agent_id": "agentId",
    "node": "nodeName",
    "executor_id": "executorId",
    "asked_node": "askedNodeName",
    "server": "serverAddress",
    "launched_at": "launchedAt",
    "started_at": "startedAt",
    "away_since": "awaySince",
    "ended_at": "endedAt",
    "failures": "failures",
    "superseded": "superseded",
}

_NAMES: Final = tuple(_FIELDS.values())
_values: Final = attrgetter(*_FIELDS)


def task_key(task_id: str) -> Key:
    return Key(TASKS, "", task_id)


def executor_key(executor_id: str) -> Key:
    return Key(EXECUTORS, "", executor_id)


def task_object(task: Task) -> Json:
    """The record of a task, as the store keeps it; `task_from_object` reads it."""
    obj: Json = {"metadata": {"name": task.id}, "state": task.state.name}
    obj |= zip(_NAMES, _values(task), strict=True)
    if task.moving:
        obj["moving"] = True
    if task.newest:
        obj["newest"] = task.newest
    if task.volumes:
        obj["volumes"] = list(task.volumes)
    if task.kill is not None:
        obj["killing"] = {"askedAt": task.kill.asked_at, "grace": task.kill.grace}
    return obj


def task_from_object(obj: Json) -> Task:
    """Raises StoreError for a record that this version does not understand."""
    try:
        kill = obj.get("killing")
        return Task(
            id=obj["metadata"]["name"],
            state=TaskState[obj["state"]],
            kill=Kill(kill["askedAt"], kill["grace"]) if kill else None,
            moving=bool(obj.get("moving")),
            newest=obj.get("newest", 0),
            volumes=tuple(obj.get("volumes") or ()),
            **{name: _shared(obj[ours]) for name, ours in _FIELDS.items()},
        )
    except (KeyError, TypeError) as error:
        name = (obj.get("metadata") or {}).get("name")
        raise StoreError(
            f"the record of task {name} cannot be read ({error!r}): was it written by a newer Gantry?"
        ) from error


def _shared(value: Any) -> Any:
    """Equal words are one object: a task names its pod, agent and executor, as many others do."""
    return intern(value) if type(value) is str else value


def executor_object(executor: Executor, info: Json) -> Json:
    """`info` is the ExecutorInfo of every launch on this instance; the master refuses another one."""
    return {
        "metadata": {"name": executor.id},
        "agentId": executor.agent_id,
        "version": executor.version,
        "role": executor.role,
        "podUid": executor.pod,
        "revocable": executor.revocable,
        "info": info,
    }


def executor_from_object(obj: Json) -> tuple[Executor, Json]:
    """Raises StoreError."""
    try:
        info = obj["info"]
        role = obj["role"] if "role" in obj else _allocation_role(info)
        executor = Executor(
            obj["metadata"]["name"],
            obj["agentId"],
            obj["version"],
            role,
            obj.get("podUid", ""),
            obj.get("revocable", False),
        )
        return executor, info
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"the record of an executor cannot be read ({error!r})") from error


def _allocation_role(info: Json) -> str:
    """Of an ExecutorInfo: records of before there were several roles say it only there."""
    for resource in info.get("resources") or ():
        return str((resource.get("allocation_info") or {}).get("role", ""))
    return ""
