"""From the checkpoints of an earlier agent back to where it was.

Executors that are alive have `executor_reregistration_timeout` to subscribe again; what is dead by then has ended.
Unlike Mesos the agent does not wait that long when all of them are back earlier.

Source: Mesos src/slave/slave.cpp (`recover`, `_recover`, `reregisterExecutorTimeout`), src/slave/state.cpp.
"""

import logging

from local.agent import checkpoint
from local.agent.checkpoint import CheckpointError, RunState, TaskState
from local.agent.containers.containerizer import Termination
from local.agent.core import Core
from local.agent.executors import Executors
from local.agent.model import Executor, Framework, State
from local.tasks import TERMINAL, Task
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)

_COMPARED = ("hostname", "resources", "attributes")


def compatible(old: Json, new: Json) -> str | None:
    """Which setting of an agent with executors changed (`--reconfiguration_policy=equal`)."""
    for name in _COMPARED:
        left, right = old.get(name), new.get(name)
        if name == "resources":
            left, right = Resources.from_json(left or []), Resources.from_json(right or [])
        if left != right:
            return f"--{name} was '{left}' and is '{right}'"
    return None


class Recovery:
    """One attempt at start."""

    def __init__(self, core: Core, executors: Executors) -> None:
        self._core = core
        self._executors = executors

    async def run(self) -> None:
        """Rebuild the state. Raises CheckpointError when the work directory belongs to another kind of agent."""
        core = self._core
        agent_id = checkpoint.latest_agent(core.flags.work_dir)
        known = {
            path.name for path in core.flags.work_dir.glob("meta/slaves/*/frameworks/*/executors/*/runs/*")
        }
        if agent_id is not None:
            core.agent_id = agent_id
            self._check(core.paths)
            for framework_id, executor_id, run in list(checkpoint.runs(core.paths)):
                self._recover(framework_id, executor_id, run)
        await core.containerizer.destroy_orphans(known)
        for framework in list(core.frameworks.values()):
            core.remove_if_idle(framework)

    def _check(self, paths: checkpoint.Paths) -> None:
        old = checkpoint.read(paths.meta / "slave.info") or {}
        difference = compatible(old, self._core.info())
        if difference is not None:
            raise CheckpointError(
                f"incompatible agent info: {difference}; start it as it was, or remove "
                f"{paths.meta.parent / 'latest'} to register as a new agent"
            )

    def _recover(self, framework_id: str, executor_id: str, run: RunState) -> None:
        core = self._core
        meta = core.paths.run(framework_id, executor_id, run.container_id)
        if run.executor_info is None:
            checkpoint.remove(meta)  # not to be recovered; what still runs of it is an orphan
            return
        framework = core.frameworks.setdefault(framework_id, Framework(framework_id, run.framework_info))
        executor = Executor(
            framework_id,
            executor_id,
            run.executor_info,
            run.container_id,
            core.paths.sandbox(framework_id, executor_id, run.container_id),
            meta,
            checkpoint=True,
            heard=run.heard,
        )
        for task_id, task in run.tasks.items():
            self._recover_task(executor, task_id, task)
        framework.executors[executor_id] = executor

        def ended(termination: Termination) -> None:
            self._executors.terminated(executor, termination)

        if run.identity is None:
            executor.state = State.TERMINATING
            ended(Termination())
        elif core.containerizer.recover(run.container_id, run.identity, ended):
            timeout = core.flags.executor_reregistration_timeout
            executor.timer = core.later(timeout, self._executors.reregistration_timeout, executor)
        else:
            self._executors.destroy(executor)

    def _recover_task(self, executor: Executor, task_id: str, state: TaskState) -> None:
        task = Task.launched(state.info, executor.framework_id, Resources.from_json(state.info["resources"]))
        for status in state.updates:
            task.take(status)
            task.state = status["state"]
            if status["state"] in TERMINAL:
                break
        path = executor.meta / "tasks" / task_id / "task.updates"
        self._core.updates.recover(executor.framework_id, task_id, path, state.updates, state.acknowledged)
        if not task.terminal:
            executor.launched[task_id] = task
            executor.count(task.resources, 1)
        elif all(status["uuid"] in state.acknowledged for status in state.updates):
            executor.completed.append(task)
            checkpoint.remove(executor.meta / "tasks" / task_id)
        else:
            executor.terminated[task_id] = task

    def waiting(self) -> list[Executor]:
        """Executors that have neither come back nor ended."""
        return [
            executor
            for framework in self._core.frameworks.values()
            for executor in framework.executors.values()
            if executor.state in (State.REGISTERING, State.TERMINATING)
        ]
