"""Tasks of LAUNCH and LAUNCH_GROUP, and the executors they name.

Source: Mesos src/master/validation.cpp (namespaces `executor`, `task`, `task::group`).
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from local.master.validation import resources as rules
from local.master.validation.ids import id_error
from local.wire import proto
from local.wire.proto import Json
from shared.mesos.resources import Resources

MIN_CPUS = 10  # thousandths
MIN_MEM = 32_000  # thousandths of a MB
# Equality of ExecutorInfos, src/common/type_utils.cpp: labels and shutdown_grace_period are left out.
_COMPARED = (
    "type",
    "executor_id",
    "data",
    "command",
    "framework_id",
    "name",
    "source",
    "container",
    "discovery",
)
_RULE = "-" * 60


@dataclass(frozen=True)
class Context:
    """What the master knows when it looks at a task."""

    framework_id: str
    agent_id: str
    tasks: Collection[str]  # ids of the framework's tasks
    unreachable: Collection[str]  # ids of its tasks on unreachable agents
    executors: dict[str, Json]  # its executors on this agent
    offered: Resources  # what is left of the offers


def same_executor(left: Json, right: Json) -> bool:
    """Whether two ExecutorInfos are the same executor to Mesos."""
    if any(left.get(field) != right.get(field) for field in _COMPARED):
        return False
    return rules.bag(left.get("resources", [])) == rules.bag(right.get("resources", []))


def task_error(task: Json, context: Context) -> str | None:
    """Why one task of a LAUNCH becomes TASK_ERROR."""
    error = _task_error(task, context) or _executor_of_task_error(task, context)
    if error is None and (task.get("container") or {}).get("linux_info", {}).get("share_cgroups") is False:
        error = "Only tasks in a task group may have 'share_cgroups' set to 'false'"
    return error


def group_error(executor: Json, tasks: list[Json], context: Context) -> str | None:
    """Why all tasks of a LAUNCH_GROUP become TASK_ERROR."""
    for task in tasks:
        error = _task_error(task, context) or _group_task_error(task)
        if error:
            return f"Task '{task['task_id']['value']}' is invalid: {error}"
    return _group_executor_error(executor, tasks, context)


def _task_error(task: Json, context: Context) -> str | None:
    """Everything but the executor; the order is Mesos'."""
    task_id = task["task_id"]["value"]
    error = id_error(task_id)
    if error:
        return error
    if task_id in context.tasks:
        return f"Task has duplicate ID: {task_id}"
    if task_id in context.unreachable:
        return f"Task reuses the ID of an unreachable task: {task_id}"
    if task["agent_id"]["value"] != context.agent_id:
        return (
            f"Task uses invalid agent {task['agent_id']['value']} while agent {context.agent_id} is expected"
        )
    if _negative(task.get("kill_policy", {}).get("grace_period")):
        return "Task's 'kill_policy.grace_period' must be non-negative"
    if _negative(task.get("max_completion_time")):
        return "Task's `max_completion_time` must be non-negative"
    return _task_resources_error(task) or _limits_error(task)


def _negative(duration: Json | None) -> bool:
    return duration is not None and duration["nanoseconds"] < 0


def _task_resources_error(task: Json) -> str | None:
    resources = task.get("resources", [])
    if not resources:
        return "Task uses no resources"
    checks = (
        ("Task uses invalid resources", rules.set_error),
        ("Task uses duplicate persistence ID", rules.persistence_error),
        ("Invalid task resources", rules.single_role_error),
        ("Task mixes revocable and non-revocable resources", rules.revocable_error),
    )
    for prefix, check in checks:
        error = check(resources)
        if error:
            return f"{prefix}: {error}"
    return None


def _limits_error(task: Json) -> str | None:
    limits = task.get("limits", {})
    if set(limits) - {"cpus", "mem"}:
        return "Only cpus and mem may be included in a task's resource limits"
    requests = rules.bag(task["resources"])
    for name, words, noun in (("cpus", "CPU", "cpu"), ("mem", "memory", "memory")):
        if name not in limits:
            continue
        request = requests.scalar(name)
        if not request:
            return f"When a {words} limit is specified, a {words} request must also be specified"
        limit = limits[name]["value"]
        if not math.isinf(limit) and limit * 1000 < request:
            return f"The {noun} limit must be greater than or equal to the {noun} request"
    return None


def executor_error(executor: Json, context: Context) -> str | None:
    """Rules for every ExecutorInfo."""
    kind = executor.get("type")
    if kind == "DEFAULT" and "command" in executor:
        return "'ExecutorInfo.command' must not be set for 'DEFAULT' executor"
    if kind == "CUSTOM" and "command" not in executor:
        return "'ExecutorInfo.command' must be set for 'CUSTOM' executor"
    executor_id = executor["executor_id"]["value"]
    error = id_error(executor_id)
    if error:
        return error
    if _negative(executor.get("shutdown_grace_period")):
        return "ExecutorInfo's 'shutdown_grace_period' must be non-negative"
    if "framework_id" not in executor:
        return "'ExecutorInfo.framework_id' must be set"
    actual = executor["framework_id"]["value"]
    if actual != context.framework_id:
        return (
            f"ExecutorInfo has an invalid FrameworkID (Actual: {actual} vs Expected: {context.framework_id})"
        )
    resources = executor.get("resources", [])
    checks = (
        ("Executor uses invalid resources", rules.set_error),
        ("Executor uses duplicate persistence ID", rules.persistence_error),
        ("Invalid executor resources", rules.single_role_error),
        ("Executor mixes revocable and non-revocable resources", rules.revocable_error),
    )
    for prefix, check in checks:
        error = check(resources)
        if error:
            return f"{prefix}: {error}"
    return compatible_error(executor, context.executors.get(executor_id))


def compatible_error(executor: Json, existing: Json | None) -> str | None:
    """An executor that is there must be named by the same ExecutorInfo."""
    if existing is None or same_executor(executor, existing):
        return None
    return (
        "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID.\n"
        f"{_RULE}\nExisting ExecutorInfo:\n{_text(existing)}\n{_RULE}\n"
        f"ExecutorInfo:\n{_text(executor)}\n{_RULE}\n"
    )


def _text(executor: Json) -> str:
    """Without what `proto.parse` filled in and Mesos does not print."""
    shown = dict(executor)
    command = dict(shown.get("command", {}))
    if "environment" in command:
        variables = [
            {k: v for k, v in variable.items() if (k, v) != ("type", "VALUE")}
            for variable in command["environment"].get("variables", [])
        ]
        command["environment"] = {"variables": variables}
        shown["command"] = command
    return proto.text("ExecutorInfo", shown)


def _executor_of_task_error(task: Json, context: Context) -> str | None:
    if ("executor" in task) == ("command" in task):
        return "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
    if "executor" not in task:
        return "The embedded Mesos has no command executor: name an ExecutorInfo"
    executor = task["executor"]
    error = executor_error(executor, context)
    if error:
        return error
    if executor.get("type", "CUSTOM") != "CUSTOM":
        return "'ExecutorInfo.type' must be 'CUSTOM'"
    if "command" not in executor:
        return "'ExecutorInfo.command' must be set"
    if (executor.get("container") or {}).get("linux_info", {}).get("share_cgroups") is True:
        return "The 'share_cgroups' field cannot be set to 'true' on executor containers"
    own = executor.get("resources", [])
    error = _together_error("Task and its executor", task["resources"], own)
    if error:
        return error
    if rules.overlapping(task["resources"], own):
        return (
            f"There are overlapping resources in the task resources {rules.bag(task['resources'])}"
            f" and executor resources {rules.bag(own)}"
        )
    total = rules.bag(task["resources"])
    if executor["executor_id"]["value"] not in context.executors:
        total += rules.bag(own)
    if not context.offered.contains(total):
        return f"Total resources {total} required by task and its executor is more than available {context.offered}"
    return None


def _together_error(who: str, *lists: list[Json]) -> str | None:
    together = [resource for resources in lists for resource in resources]
    error = rules.persistence_error(together)
    if error:
        return f"{who} use duplicate persistence ID: {error}"
    error = rules.revocable_error(together)
    return f"{who} mix revocable and non-revocable resources: {error}" if error else None


def _group_task_error(task: Json) -> str | None:
    if "executor" not in task:
        return "'TaskInfo.executor' must be set"
    container = task.get("container") or {}
    if container.get("type") == "DOCKER":
        return "Docker ContainerInfo is not supported on the task"
    if task.get("limits") and container.get("linux_info", {}).get("share_cgroups", True):
        return (
            "Resource limits may only be set for tasks within a task group when "
            "the 'share_cgroups' field is set to 'false'."
        )
    return None


def _group_executor_error(executor: Json, tasks: list[Json], context: Context) -> str | None:
    error = executor_error(executor, context)
    if error:
        return error
    executor_id = executor["executor_id"]["value"]
    if "type" not in executor:
        return "'ExecutorInfo.type' must be set"
    if executor["type"] == "DEFAULT":
        return "The embedded Mesos has no default executor: use a CUSTOM one"
    for task in tasks:
        if not same_executor(task["executor"], executor):
            return (
                f"The `ExecutorInfo` of task '{task['task_id']['value']}' is different from "
                f"executor '{executor_id}'"
            )
    return _least_error(executor_id, rules.bag(executor.get("resources", []))) or _group_total_error(
        executor, tasks, context
    )


def _least_error(executor_id: str, own: Resources) -> str | None:
    """An executor of a task group has a minimum of resources."""
    if own.scalar("cpus") < MIN_CPUS:
        return f"Executor '{executor_id}' uses less CPUs ({_amount(own, 'cpus')}) than the minimum required (0.01)"
    if own.scalar("mem") < MIN_MEM:
        return f"Executor '{executor_id}' uses less memory ({_amount(own, 'mem')}) than the minimum required (32MB)"
    if not own.scalar("disk"):
        return f"Executor '{executor_id}' uses no disk"
    return None


def _group_total_error(executor: Json, tasks: list[Json], context: Context) -> str | None:
    own = rules.bag(executor.get("resources", []))
    lists = [task["resources"] for task in tasks]
    error = _together_error("Task group and executor", *lists, executor.get("resources", []))
    if error:
        return error
    if rules.overlapping(*lists, executor.get("resources", [])):
        return (
            "There are overlapping resources in the task group's task resources "
            f"{[str(rules.bag(r)) for r in lists]} and/or executor resources {own}"
        )
    total = sum(map(rules.bag, lists), Resources())
    if executor["executor_id"]["value"] not in context.executors:
        total += own
    if not context.offered.contains(total):
        return (
            f"Total resources {total} required by task group and its executor are more than available "
            f"{context.offered}"
        )
    return None


def _amount(resources: Resources, name: str) -> str:
    value = resources.scalar(name)
    return f"{value / 1000:.15g}" if value else "None"
