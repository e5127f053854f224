"""What the master asks for: run tasks, kill them, pass messages on.

Source: Mesos src/slave/slave.cpp (`run`, `__run`, `killTask`, `kill`, `schedulerMessage`).
"""

import logging

from local.agent import checkpoint
from local.agent.checkpoint import CheckpointError
from local.agent.core import Core
from local.agent.executors import Executors
from local.agent.model import Executor, Framework, State
from local.wire.proto import Json

log = logging.getLogger(__name__)


class Launches:
    """Acts on messages of the master about tasks."""

    def __init__(self, core: Core, executors: Executors) -> None:
        self._core = core
        self._executors = executors

    def run(self, message: Json) -> None:
        """RUN: each entry is a task or a task group for one executor."""
        if self._core.terminating:
            log.warning("ignoring a launch: the agent is terminating")
            return
        framework = self._core.framework(message["framework"])
        for run in message["runs"]:
            if framework.terminating:
                log.warning("ignoring a launch: framework %s is terminating", framework.framework_id)
                return
            self._run(framework, run)
        self._core.remove_if_idle(framework)

    def _run(self, framework: Framework, run: Json) -> None:
        tasks, info = run["tasks"], run["executor"]
        executor_id = info["executor_id"]["value"]
        executor = framework.executors.get(executor_id)
        if self._core.drain.config is not None:
            self._drained(framework, run, executor)
            return
        if run["launch_executor"] and executor is not None:
            self._drop(framework, tasks, "Master wants to launch executor, but one already exists")
            if executor.state is State.TERMINATED:
                self._core.exited(framework.framework_id, executor_id, -1)
            else:
                self._executors.shutdown(executor)
            return
        if executor is None:
            if not run["launch_executor"]:
                text = "No executor is expected to launch and there is none running"
                self._drop(framework, tasks, text)
                return
            self._launch(framework, info, run)
        elif executor.state in (State.TERMINATING, State.TERMINATED):
            self._drop(framework, tasks, f"Executor {executor.state.value}")
        else:
            self._enqueue(executor, run)
            if executor.state is State.RUNNING and self._core.resize(executor):
                self._executors.deliver(executor)

    def _launch(self, framework: Framework, info: Json, run: Json) -> None:
        try:
            executor = self._executors.add(framework, info)
            self._enqueue(executor, run)
        except (CheckpointError, OSError) as error:
            log.error("cannot add executor %s: %s", info["executor_id"]["value"], error)
            framework.executors.pop(info["executor_id"]["value"], None)
            self._drop(framework, run["tasks"], f"Failed to create the executor: {error}")
            self._core.exited(framework.framework_id, info["executor_id"]["value"], -1)
            return
        self._executors.launch(framework, executor)

    @staticmethod
    def _enqueue(executor: Executor, run: Json) -> None:
        for task in run["tasks"]:
            task_id = task["task_id"]["value"]
            if executor.checkpoint:
                # Without its data, as in Mesos: the task is not started again from here.
                kept = {key: value for key, value in task.items() if key != "data"}
                checkpoint.write(executor.meta / "tasks" / task_id / "task.info", kept)
            executor.enqueue(task)
        if run.get("group"):
            executor.groups.append([task["task_id"]["value"] for task in run["tasks"]])

    def _drop(self, framework: Framework, tasks: list[Json], text: str) -> None:
        state = framework.state_or_lost("TASK_DROPPED")
        for task in tasks:
            task_id = task["task_id"]["value"]
            self._core.report(framework.framework_id, task_id, state, text, "REASON_EXECUTOR_TERMINATED")

    def _drained(self, framework: Framework, run: Json, executor: Executor | None) -> None:
        executor_id = run["executor"]["executor_id"]["value"]
        if run["launch_executor"] and executor is None:
            self._core.exited(framework.framework_id, executor_id, -1)
        state = framework.state_or_lost("TASK_DROPPED")
        text = "Task was received while agent was already draining"
        for task in run["tasks"]:
            task_id = task["task_id"]["value"]
            self._core.report(
                framework.framework_id, task_id, state, text, "REASON_AGENT_DRAINING", executor_id
            )

    # ---- kill

    def drain(self, config: Json) -> None:
        """Kill everything, with at most the grace in `config`; drop what comes until nothing is left here."""
        core = self._core
        if not core.frameworks:
            return
        core.drain.begin(config)
        for framework in list(core.frameworks.values()):
            for executor in list(framework.executors.values()):
                policies = {task_id: task.get("kill_policy") for task_id, task in executor.queued.items()}
                policies |= {one.task_id: one.shown.get("kill_policy") for one in executor.launched.values()}
                for task_id, own in policies.items():
                    message: Json = {"framework_id": framework.framework_id, "task_id": task_id}
                    policy = core.drain.kill_policy(own)
                    self.kill({**message, "kill_policy": policy} if policy else message)

    def kill(self, message: Json) -> None:
        """KILL: to the executor, or answered here when the task has not reached it."""
        framework_id, task_id = message["framework_id"], message["task_id"]
        framework = self._core.frameworks.get(framework_id)
        if framework is None or framework.terminating:
            log.warning("ignoring kill of task %s: its framework is ending or unknown", task_id)
            return
        executor = framework.executor_of(task_id)
        if executor is None:
            state = framework.state_or_lost("TASK_DROPPED")
            reason = "REASON_EXECUTOR_TERMINATED"
            self._core.report(framework_id, task_id, state, "Cannot find executor", reason)
        elif executor.state in (State.TERMINATING, State.TERMINATED):
            log.warning("ignoring kill of task %s: its executor is %s", task_id, executor.state.value)
        elif task_id in executor.queued:
            self._kill_queued(framework, executor, task_id)
        else:
            body: Json = {"task_id": {"value": task_id}}
            if "kill_policy" in message:
                body["kill_policy"] = message["kill_policy"]
            if not executor.send("KILL", body):
                log.warning("executor %s is not connected: no KILL event", executor.executor_id)

    def _kill_queued(self, framework: Framework, executor: Executor, task_id: str) -> None:
        """All tasks of a group die with one of them."""
        group = next((group for group in executor.groups if task_id in group), None)
        text = "Killed before delivery to the executor"
        if group is not None and executor.state is State.REGISTERING:
            text = "A task within the task group was killed before delivery to the executor"
        if group is not None:
            executor.groups.remove(group)
        for member in group or [task_id]:
            self._core.report(
                framework.framework_id,
                member,
                "TASK_KILLED",
                text,
                "REASON_TASK_KILLED_DURING_LAUNCH",
                executor.executor_id,
            )

    # ---- the rest

    def message(self, message: Json) -> None:
        """From the scheduler to an executor; lost when that is not there."""
        framework = self._core.frameworks.get(message["framework_id"])
        executor = framework.executors.get(message["executor_id"]) if framework is not None else None
        if executor is None or not executor.send("MESSAGE", {"data": message["data"]}):
            log.warning("dropping a message: executor %s is not here", message["executor_id"])

    def shutdown_executor(self, message: Json) -> None:
        framework = self._core.frameworks.get(message["framework_id"])
        executor = framework.executors.get(message["executor_id"]) if framework is not None else None
        if executor is None:
            log.warning("ignoring shutdown of unknown executor %s", message["executor_id"])
        else:
            self._executors.shutdown(executor)

    def update_framework(self, message: Json) -> None:
        """New FrameworkInfo; the scheduler is back, so what it has not acknowledged goes out again."""
        framework = self._core.frameworks.get(message["framework"]["id"]["value"])
        if framework is not None:
            framework.info = message["framework"]
            self._core.save_framework(framework)
            self._core.updates.resume()

    def reconcile(self, framework_info: Json, task_ids: list[str]) -> None:
        """Tasks the master believes to be here: say so of those that are not."""
        framework_id = framework_info["id"]["value"]
        known = self._core.frameworks.get(framework_id)
        framework = known or Framework(framework_id, framework_info)
        for task_id in task_ids:
            if known is None or known.executor_of(task_id) is None:
                state = framework.state_or_lost("TASK_DROPPED")
                self._core.orphan_update(
                    framework_id, task_id, state, "Reconciliation: task unknown to the agent"
                )
