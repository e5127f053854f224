"""What the agent shows: operator replies, /state and /metrics/snapshot. Pure.

Source: Mesos src/slave/http.cpp.
"""

from collections import Counter

from local.agent.core import VERSION, Core
from local.agent.model import Executor, Framework
from local.tasks import Task
from local.wire.proto import Json


def version() -> Json:
    return {"version": VERSION, "build_date": "", "build_time": 0.0, "build_user": ""}


def get_frameworks(core: Core) -> Json:
    return {"frameworks": [{"framework_info": f.info} for f in core.frameworks.values()]}


def _executors(core: Core) -> list[tuple[Framework, Executor]]:
    return [(f, e) for f in core.frameworks.values() for e in f.executors.values()]


def get_executors(core: Core) -> Json:
    completed = [e for f in core.frameworks.values() for e in f.completed]
    return {
        "executors": [{"executor_info": executor.info} for _, executor in _executors(core)],
        "completed_executors": [{"executor_info": executor.info} for executor in completed],
    }


def get_tasks(core: Core) -> Json:
    executors = [executor for _, executor in _executors(core)]
    completed = [t for e in executors for t in e.completed]
    completed += [t for f in core.frameworks.values() for e in f.completed for t in e.completed]
    return {
        "queued_tasks": [_task(t) for e in executors for t in e.tasks() if t.task_id in e.queued],
        "launched_tasks": [_task(t) for e in executors for t in e.launched.values()],
        "terminated_tasks": [_task(t) for e in executors for t in e.terminated.values()],
        "completed_tasks": [_task(task) for task in completed],
    }


def _task(task: Task) -> Json:
    return task.to_json()


def get_agent(core: Core) -> Json:
    return {"agent_info": core.info()}


def get_state(core: Core) -> Json:
    return {
        "get_tasks": get_tasks(core),
        "get_executors": get_executors(core),
        "get_frameworks": get_frameworks(core),
    }


def state(core: Core) -> Json:
    return version() | {
        "id": core.agent_id or "",
        "pid": f"slave(1)@{core.flags.ip}:{core.port}",
        "hostname": core.flags.hostname,
        "start_time": core.started,
        "attributes": list(core.flags.attributes),
        "resources": core.memory.total.to_json(),
        "frameworks": [
            {
                "id": framework.framework_id,
                "name": framework.info["name"],
                "executors": [
                    {
                        "id": executor.executor_id,
                        "container": executor.container_id,
                        "directory": str(executor.sandbox),
                        "state": executor.state.value,
                        "tasks": [{"id": task.task_id, "state": task.state} for task in executor.tasks()],
                        "completed_tasks": [{"id": t.task_id, "state": t.state} for t in executor.completed],
                    }
                    for executor in framework.executors.values()
                ],
            }
            for framework in core.frameworks.values()
        ],
    }


def metrics(core: Core) -> Json:
    executors = [executor for _, executor in _executors(core)]
    states = Counter(executor.state.value for executor in executors)
    tasks = Counter(task.state for executor in executors for task in executor.tasks())
    result: Json = {
        f"slave/executors_{name}": float(states[name]) for name in ("registering", "running", "terminating")
    }
    result |= {
        f"slave/tasks_{n.lower()}": float(tasks[f"TASK_{n}"]) for n in ("STAGING", "STARTING", "RUNNING")
    }
    return result | {
        "slave/registered": float(core.link is not None),
        "slave/frameworks_active": float(len(core.frameworks)),
    }
