"""One simulated agent: what a real one tells the master, with tasks that are entries in a table.

Its executors answer a launch with TASK_RUNNING and a kill with TASK_KILLED at once. Updates are kept until they are
acknowledged, one in flight a task, as a real agent does. No processes, no disk, no sockets: `send` is the way to the
master, `later` the clock.
"""

import base64
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from local.agent.updates import StatusUpdates, Timer
from local.simulation import status
from local.simulation.record import Record
from local.tasks import Task
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)

VERSION = "1.12.0"

Later = Callable[[float, Callable[[], None]], Timer]
Key = tuple[str, str]  # framework id, task id or executor id


@dataclass(frozen=True)
class Machine:
    """What an agent is; stays when the agent comes back with a new id."""

    hostname: str
    port: int
    resources: Resources
    attributes: tuple[Json, ...] = ()
    ip: str = "127.0.0.1"

    def info(self) -> Json:
        """AgentInfo without id."""
        result: Json = {
            "hostname": self.hostname,
            "port": self.port,
            "resources": self.resources.to_json(),
        }
        if self.attributes:
            result["attributes"] = list(self.attributes)
        return result


@dataclass(eq=False)
class Run:
    """A task that has not been forgotten: `pod` as launched, `started` in seconds since the epoch."""

    task: Task
    pod: Json | None
    started: float


@dataclass
class Held:
    """All that dies with the machine."""

    agent_id: str | None = None
    reserved: list[Json] = field(default_factory=list)  # dynamic reservations and volumes
    frameworks: dict[str, Json] = field(default_factory=dict)
    executors: dict[Key, Json] = field(default_factory=dict)
    runs: dict[Key, Run] = field(default_factory=dict)


class SimulatedAgent:
    """Handles messages of the master; see `local.link` for them."""

    def __init__(self, machine: Machine, record: Record, later: Later) -> None:
        self.machine = machine
        self.send: Callable[[Json], None] | None = None  # while registered
        self.lateness = 0.0  # seconds by which updates are held up
        self.held = Held()
        self._record = record
        self._later = later
        self._updates = StatusUpdates(self._forward, later)
        self._handlers: dict[str, Callable[[Json], None]] = {
            "REGISTERED": self._registered,
            "REREGISTERED": self._reregistered,
            "PING": lambda _: self._tell({"type": "PONG"}),
            "CHECKPOINT_RESOURCES": self._checkpoint,
            "DRAIN": self._drain,
            "RUN": self._run,
            "KILL": self._kill,
            "ACKNOWLEDGE": self._acknowledged,
            "SHUTDOWN_EXECUTOR": self._shutdown_executor,
            "SHUTDOWN_FRAMEWORK": self._shutdown_framework,
            "UPDATE_FRAMEWORK": self._update_framework,
            "MESSAGE": lambda _: None,  # nobody is there to hear it
            "SHUTDOWN": self._shutdown,
        }

    # ---- the link

    def hello(self) -> Json:
        """The first message on a link."""
        held = self.held
        info = {**self.machine.info(), "ip": self.machine.ip, "checkpoint": True}
        if held.agent_id is None:
            return {"type": "REGISTER", "version": VERSION, "info": info, "checkpointed": []}
        return {
            "type": "REREGISTER",
            "version": VERSION,
            "info": {**info, "id": {"value": held.agent_id}},
            "checkpointed": held.reserved,
            "frameworks": list(held.frameworks.values()),
            "executors": list(held.executors.values()),
            "tasks": [run.task.to_json() for run in held.runs.values()],
        }

    def handle(self, message: Json, send: Callable[[Json], None]) -> None:
        """One message of the master, with the way to answer it."""
        if self.send is None and message["type"] in ("REGISTERED", "REREGISTERED"):
            self.send = send
        handler = self._handlers.get(message["type"])
        if handler is None:
            log.error("%s of the master is not known to the simulation", message["type"])
        else:
            handler(message)

    def disconnected(self) -> None:
        """The link is gone; updates wait."""
        self.send = None
        self._updates.pause()

    def close(self) -> None:
        """Stop all timers."""
        self._updates.close()

    def _tell(self, message: Json) -> None:
        if self.send is not None:
            self.send(message)

    def _registered(self, message: Json) -> None:
        self.held.agent_id = message["agent_id"]
        self._updates.resume()

    def _checkpoint(self, message: Json) -> None:
        self.held.reserved = message["resources"]

    def _drain(self, message: Json) -> None:
        """Every task is killed; the master offers nothing here any more."""
        for run in self._live():
            self._end(run)

    def _reregistered(self, message: Json) -> None:
        self._updates.resume()
        for item in message["reconciliations"]:
            framework_id = item["framework"]["id"]["value"]
            for task_id in item["task_ids"]:
                if (framework_id, task_id) not in self.held.runs:
                    text = "Reconciliation: task unknown to the agent"
                    self._own_update(framework_id, task_id, "TASK_DROPPED", text, "REASON_RECONCILIATION")

    # ---- tasks

    def _run(self, message: Json) -> None:
        framework_id = message["framework"]["id"]["value"]
        self.held.frameworks[framework_id] = message["framework"]
        for run in message["runs"]:
            executor_id = run["executor"]["executor_id"]["value"]
            if run["launch_executor"]:
                self.held.executors[framework_id, executor_id] = run["executor"]
            for task in run["tasks"]:
                if (framework_id, executor_id) in self.held.executors:
                    self._start(framework_id, task)
                else:
                    self._own_update(
                        framework_id,
                        task["task_id"]["value"],
                        "TASK_DROPPED",
                        "No executor is expected to launch and there is none running",
                        "REASON_EXECUTOR_TERMINATED",
                    )

    def _start(self, framework_id: str, info: Json) -> None:
        task = Task.launched(info, framework_id, Resources.from_json(info["resources"]))
        run = Run(task, status.pod_of(info), time.time())
        self.held.runs[framework_id, task.task_id] = run
        self._record.started(task.task_id, self.machine.hostname)
        data = None if run.pod is None else status.running(run.pod, self.address, run.started)
        self._executor_update(run, "TASK_RUNNING", data)

    @property
    def address(self) -> str:
        """Where a node server would listen."""
        return f"{self.machine.ip}:{self.machine.port}"

    def _kill(self, message: Json) -> None:
        framework_id, task_id = message["framework_id"], message["task_id"]
        run = self.held.runs.get((framework_id, task_id))
        if run is None:
            text = "Cannot find executor"
            self._own_update(framework_id, task_id, "TASK_DROPPED", text, "REASON_EXECUTOR_TERMINATED")
        elif not run.task.terminal:
            self._end(run)

    def _end(self, run: Run) -> None:
        self._record.ended(run.task.task_id, "killed")
        now = time.time()
        data = None if run.pod is None else status.killed(run.pod, self.address, run.started, now)
        self._executor_update(run, "TASK_KILLED", data)

    def _executor_update(self, run: Run, state: str, data: str | None) -> None:
        update: Json = {
            "task_id": {"value": run.task.task_id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "executor_id": {"value": run.task.executor_id},
        }
        if data is not None:
            update["data"] = data
        self._update(run.task.framework_id, update)

    def _own_update(
        self, framework_id: str, task_id: str, state: str, message: str, reason: str, executor_id: str = ""
    ) -> None:
        update: Json = {
            "task_id": {"value": task_id},
            "state": state,
            "message": message,
            "source": "SOURCE_AGENT",
            "reason": reason,
        }
        if executor_id:
            update["executor_id"] = {"value": executor_id}
        self._update(framework_id, update)

    def _update(self, framework_id: str, update: Json) -> None:
        update["uuid"] = base64.b64encode(uuid.uuid4().bytes).decode()
        update["timestamp"] = time.time()
        update["agent_id"] = {"value": self.held.agent_id}
        run = self.held.runs.get((framework_id, update["task_id"]["value"]))
        if run is not None:
            run.task.take(update)
            run.task.state = update["state"]
        self._updates.update(framework_id, update, None)

    def _forward(self, framework_id: str, update: Json) -> None:
        run = self.held.runs.get((framework_id, update["task_id"]["value"]))
        latest = run.task.state if run is not None else update["state"]
        message = {"type": "UPDATE", "framework_id": framework_id, "status": update, "latest_state": latest}
        if self.lateness:
            self._later(self.lateness, partial(self._tell, message))
        else:
            self._tell(message)

    def _acknowledged(self, message: Json) -> None:
        key = (message["framework_id"], message["task_id"])
        if self._updates.acknowledge(*key, message["uuid"]):
            self.held.runs.pop(key, None)

    # ---- ends

    def lose_executors(self) -> None:
        """Every executor dies, and its tasks with it."""
        for framework_id, executor_id in list(self.held.executors):
            self._end_executor(framework_id, executor_id, "executor lost", "TASK_FAILED")

    def _end_executor(self, framework_id: str, executor_id: str, why: str, state: str) -> None:
        if self.held.executors.pop((framework_id, executor_id), None) is None:
            return
        self._tell(
            {
                "type": "EXITED_EXECUTOR",
                "framework_id": framework_id,
                "executor_id": executor_id,
                "status": 9,
            }
        )
        reason = "REASON_EXECUTOR_TERMINATED"
        for run in self._live(framework_id):
            if run.task.executor_id == executor_id:
                self._record.ended(run.task.task_id, why)
                self._own_update(
                    framework_id, run.task.task_id, state, "Executor terminated", reason, executor_id
                )

    def _live(self, framework_id: str | None = None) -> Iterable[Run]:
        runs = [run for run in self.held.runs.values() if not run.task.terminal]
        return [run for run in runs if framework_id in (None, run.task.framework_id)]

    def _shutdown_executor(self, message: Json) -> None:
        self._end_executor(message["framework_id"], message["executor_id"], "shut down", "TASK_KILLED")

    def _shutdown_framework(self, message: Json) -> None:
        """The framework is gone: nobody hears of its tasks."""
        framework_id = message["framework_id"]
        for run in self._live(framework_id):
            self._record.ended(run.task.task_id, "framework gone")
        self._updates.cleanup(framework_id)
        held = self.held
        held.frameworks.pop(framework_id, None)
        held.executors = {key: info for key, info in held.executors.items() if key[0] != framework_id}
        held.runs = {key: run for key, run in held.runs.items() if key[0] != framework_id}

    def _update_framework(self, message: Json) -> None:
        """The scheduler is back: what it has not acknowledged goes out again."""
        framework_id = message["framework"]["id"]["value"]
        if framework_id in self.held.frameworks:
            self.held.frameworks[framework_id] = message["framework"]
            self._updates.resume()

    def _shutdown(self, message: Json) -> None:
        """The master wants no agent of this id: as if the machine were started afresh."""
        log.info("%s is told to shut down: %s", self.machine.hostname, message["message"])
        self.die("shut down")

    def die(self, why: str) -> None:
        """All that ran here is gone, and so is the agent's id."""
        for run in self._live():
            self._record.ended(run.task.task_id, why)
        self._updates.close()
        self.held = Held()
        self._updates = StatusUpdates(self._forward, self._later)
