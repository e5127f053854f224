"""A task as master and agent keep it, and the states in which it has ended."""

from dataclasses import dataclass, field

from local.wire.proto import Json
from shared.mesos.resources import Resources

TERMINAL = frozenset(
    (
        "TASK_FINISHED",
        "TASK_FAILED",
        "TASK_KILLED",
        "TASK_ERROR",
        "TASK_LOST",
        "TASK_DROPPED",
        "TASK_GONE",
        "TASK_GONE_BY_OPERATOR",
    )
)
_SHOWN = ("labels", "discovery", "container", "health_check", "kill_policy", "limits")


@dataclass(eq=False)
class Task:
    """One task. `state` is the latest state known, `status_update_state` the one last sent to the scheduler."""

    task_id: str
    framework_id: str
    agent_id: str
    executor_id: str | None
    name: str
    resources: Resources
    state: str = "TASK_STAGING"
    status_update_state: str | None = None
    status_update_uuid: str | None = None
    statuses: list[Json] = field(default_factory=list)
    shown: Json = field(default_factory=dict)  # fields of TaskInfo that GET_TASKS shows

    @classmethod
    def launched(cls, task: Json, framework_id: str, resources: Resources) -> "Task":
        """From the TaskInfo of a launch."""
        executor = task.get("executor")
        return cls(
            task_id=task["task_id"]["value"],
            framework_id=framework_id,
            agent_id=task["agent_id"]["value"],
            executor_id=executor["executor_id"]["value"] if executor else None,
            name=task["name"],
            resources=resources,
            shown={k: task[k] for k in _SHOWN if k in task},
        )

    @classmethod
    def from_json(cls, obj: Json) -> "Task":
        """From a `Task` message of an agent that re-registers."""
        return cls(
            task_id=obj["task_id"]["value"],
            framework_id=obj["framework_id"]["value"],
            agent_id=obj["agent_id"]["value"],
            executor_id=obj.get("executor_id", {}).get("value"),
            name=obj["name"],
            resources=Resources.from_json(obj.get("resources", [])),
            state=obj["state"],
            status_update_state=obj.get("status_update_state"),
            status_update_uuid=obj.get("status_update_uuid"),
            statuses=list(obj.get("statuses", [])),
            shown={k: obj[k] for k in _SHOWN if k in obj},
        )

    def to_json(self) -> Json:
        """The `Task` message, as GET_TASKS shows it."""
        obj: Json = {
            "name": self.name,
            "task_id": {"value": self.task_id},
            "framework_id": {"value": self.framework_id},
            "agent_id": {"value": self.agent_id},
            "state": self.state,
            "resources": self.resources.to_json(),
            "statuses": self.statuses,
            **self.shown,
        }
        if self.executor_id is not None:
            obj["executor_id"] = {"value": self.executor_id}
        if self.status_update_state is not None:
            obj["status_update_state"] = self.status_update_state
            obj["status_update_uuid"] = self.status_update_uuid
        return obj

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL

    def take(self, status: Json) -> None:
        """Keep a status: the last of each run of equal states, without its data, which may be large."""
        kept = {key: value for key, value in status.items() if key != "data"}
        if self.statuses and self.statuses[-1]["state"] == status["state"]:
            self.statuses[-1] = kept
        else:
            self.statuses.append(kept)
