"""The life of executors: start, register, be shut down, end.

Source: Mesos src/slave/slave.cpp (`addExecutor`, `launchExecutor`, `subscribe`, `registerExecutorTimeout`,
`_shutdownExecutor`, `executorTerminated`, `executorEnvironment`).
"""

import logging
import os
import uuid
from pathlib import Path

from local.agent import checkpoint
from local.agent.containers.containerizer import Termination
from local.agent.containers.launcher import LaunchError, Spec, passwd
from local.agent.containers.processes import Identity
from local.agent.core import Core
from local.agent.model import Executor, Framework, State
from local.tasks import Task
from local.wire.proto import Json
from local.wire.stream import EventStream
from shared.mesos.durations import format_duration
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1800.0  # DEFAULT_EXECUTOR_HEARTBEAT_INTERVAL, src/slave/constants.hpp
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(core: Core, executor: Executor) -> dict[str, str]:
    """What an executor is started with; ExecutorInfo's own variables come last."""
    flags = core.flags
    endpoint = f"{flags.ip}:{core.port}"
    result = {
        **flags.executor_environment_variables,
        "LIBPROCESS_IP": flags.ip,
        "MESOS_AGENT_ENDPOINT": endpoint,
        "MESOS_CHECKPOINT": "1" if executor.checkpoint else "0",
        "MESOS_DIRECTORY": str(executor.sandbox),
        "MESOS_EXECUTOR_ID": executor.executor_id,
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": format_duration(grace_period(core, executor)),
        "MESOS_FRAMEWORK_ID": executor.framework_id,
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "MESOS_SANDBOX": str(executor.sandbox),
        "MESOS_SLAVE_ID": str(core.agent_id),
        "MESOS_SLAVE_PID": f"slave(1)@{endpoint}",
        "PATH": PATH,
    }
    if executor.checkpoint:
        result["MESOS_RECOVERY_TIMEOUT"] = format_duration(flags.recovery_timeout)
        result["MESOS_SUBSCRIPTION_BACKOFF_MAX"] = format_duration(flags.executor_reregistration_timeout)
    if core.tokens is not None:
        result["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"] = core.tokens.make(claims(executor))
    for variable in executor.info.get("command", {}).get("environment", {}).get("variables", []):
        result[variable["name"]] = variable.get("value", "")
    return result


def claims(executor: Executor) -> dict[str, str]:
    """Who an executor is, in its token."""
    return {"fid": executor.framework_id, "eid": executor.executor_id, "cid": executor.container_id}


def grace_period(core: Core, executor: Executor) -> float:
    """Seconds between SHUTDOWN and the end of patience."""
    own = executor.info.get("shutdown_grace_period")
    return own["nanoseconds"] / 1e9 if own is not None else core.flags.executor_shutdown_grace_period


def argv(command: Json) -> list[str]:
    """What is executed: a shell's command line, or a program with its arguments."""
    value = command.get("value", "")
    if command["shell"]:
        return ["/bin/sh", "-c", value]
    return [value, *command.get("arguments", [])[1:]]


class Executors:
    """Acts on the agent's executors."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # ---- start

    def add(self, framework: Framework, info: Json) -> Executor:
        """A new run, checkpointed, with its sandbox. Raises CheckpointError or OSError."""
        core = self._core
        executor_id, container_id = info["executor_id"]["value"], str(uuid.uuid4())
        sandbox = core.paths.sandbox(framework.framework_id, executor_id, container_id)
        meta = core.paths.run(framework.framework_id, executor_id, container_id)
        executor = Executor(
            framework.framework_id, executor_id, info, container_id, sandbox, meta, framework.checkpoint
        )
        (meta / "tasks").mkdir(parents=True)
        if executor.checkpoint:
            checkpoint.write(core.paths.executor(framework.framework_id, executor_id) / "executor.info", info)
        sandbox.mkdir(parents=True, mode=0o750)
        checkpoint.link(sandbox.parent / "latest", container_id)
        framework.executors[executor_id] = executor
        return executor

    def launch(self, framework: Framework, executor: Executor) -> None:
        """Start its container; the registration timeout runs from now on, fetching included."""
        core = self._core
        command = executor.info["command"]
        user = (command.get("user") or framework.info["user"] or None) if core.flags.switch_user else None
        try:
            entry = passwd(user)
            if entry is not None:
                os.chown(executor.sandbox, entry.pw_uid, entry.pw_gid)
        except LaunchError:
            pass  # the launch itself fails with the same words
        core.containerizer.launch(
            Spec(executor.container_id, argv(command), environment(core, executor), executor.sandbox, user),
            command.get("uris", []),
            (executor.cpus, executor.mem),
            lambda identity: self._save_pid(executor.meta, identity),
            lambda termination: self.terminated(executor, termination),
        )
        timeout = core.flags.executor_registration_timeout
        executor.timer = core.later(timeout, self._registration_timeout, executor)
        log.info("starting executor %s in container %s", executor.executor_id, executor.container_id)

    @staticmethod
    def _save_pid(meta: Path, identity: Identity) -> None:
        content = {"pid": identity.pid, "start": identity.start, "boot": identity.boot}
        checkpoint.write(meta / "forked.pid", content)

    def _registration_timeout(self, executor: Executor) -> None:
        if executor.state is State.REGISTERING:
            timeout = format_duration(self._core.flags.executor_registration_timeout)
            text = f"Executor did not register within {timeout}"
            reason = "REASON_EXECUTOR_REGISTRATION_TIMEOUT"
            self.destroy(executor, Termination(None, "TASK_FAILED", reason, text))

    def reregistration_timeout(self, executor: Executor) -> None:
        """A recovered executor that hung."""
        if executor.state is State.REGISTERING:
            framework = self._core.frameworks[executor.framework_id]
            timeout = format_duration(self._core.flags.executor_reregistration_timeout)
            text = f"Executor did not reregister within {timeout}"
            state = framework.state_or_lost("TASK_GONE")
            reason = "REASON_EXECUTOR_REREGISTRATION_TIMEOUT"
            self.destroy(executor, Termination(None, state, reason, text))

    def destroy(self, executor: Executor, why: Termination | None = None) -> None:
        """Kill it at once; `why` is what its tasks are told."""
        executor.state = State.TERMINATING
        if why is not None:
            log.warning("destroying executor %s: %s", executor.executor_id, why.message)
            executor.pending = why
        self._core.containerizer.destroy(executor.container_id)

    # ---- register

    def subscribe(self, executor: Executor, call: Json, stream: EventStream) -> None:
        """Give the stream to an executor: its missed updates are taken in, its queued tasks go out."""
        core = self._core
        framework = core.frameworks[executor.framework_id]
        ending = executor.state in (State.TERMINATING, State.TERMINATED)
        if core.terminating or framework.terminating or ending:
            stream.send({"type": "SHUTDOWN"})
            stream.close()
            return
        if executor.stream is not None:
            log.warning("executor %s subscribes again: closing its earlier stream", executor.executor_id)
            executor.stream.close()
        if executor.timer is not None:
            executor.timer.cancel()
            executor.timer = None
        executor.state = State.RUNNING
        executor.stream = stream
        core.settled.set()
        for update in call.get("unacknowledged_updates", []):
            core.status_update(framework.framework_id, update["status"])
        self._drop_staged(framework, executor, call)
        if not executor.ever_sent_task() and not executor.queued:
            log.warning(
                "shutting down executor %s: it has never had a task and has none", executor.executor_id
            )
            self.shutdown(executor)
            return
        subscribed = {
            "executor_info": executor.info,
            "framework_info": framework.info,
            "agent_info": core.info(),
            "container_id": {"value": executor.container_id},
        }
        executor.send("SUBSCRIBED", subscribed)
        self._beat_later(executor)
        if core.resize(executor):
            self.deliver(executor)

    def _drop_staged(self, framework: Framework, executor: Executor, call: Json) -> None:
        """Tasks that were on their way when the agent went down never arrived, unless the executor says so."""
        known = {task["task_id"]["value"] for task in call.get("unacknowledged_tasks", [])}
        for task in list(executor.launched.values()):
            if task.state == "TASK_STAGING" and task.task_id not in known:
                self._core.report(
                    framework.framework_id,
                    task.task_id,
                    framework.state_or_lost("TASK_DROPPED"),
                    "Task launched during agent restart",
                    "REASON_AGENT_RESTARTED",
                    executor.executor_id,
                )

    def _beat_later(self, executor: Executor) -> None:
        if executor.heartbeat is not None:
            executor.heartbeat.cancel()
        executor.heartbeat = self._core.later(HEARTBEAT_INTERVAL, self._beat, executor)

    def _beat(self, executor: Executor) -> None:
        executor.send("HEARTBEAT")
        self._beat_later(executor)

    def deliver(self, executor: Executor) -> None:
        """Send the queued tasks; they are launched from then on."""
        groups = {task_id: group for group in executor.groups for task_id in group}
        executor.groups.clear()
        sent: set[str] = set()
        for task_id, info in list(executor.queued.items()):
            if task_id in sent or task_id not in executor.queued:
                continue
            members = [t for t in groups.get(task_id, [task_id]) if t in executor.queued]
            infos = [executor.queued.pop(member) for member in members]
            for member in infos:
                resources = Resources.from_json(member["resources"])
                task = Task.launched(member, executor.framework_id, resources)
                executor.launched[task.task_id] = task
            sent.update(members)
            if task_id in groups:
                executor.send("LAUNCH_GROUP", {"task_group": {"tasks": infos}})
            else:
                executor.send("LAUNCH", {"task": info})

    def disconnected(self, executor: Executor, stream: EventStream) -> None:
        """Its stream broke. It may come back; without checkpoints it does not."""
        if executor.stream is stream:
            log.info("executor %s disconnected", executor.executor_id)
            executor.stream = None

    # ---- end

    def shutdown(self, executor: Executor) -> None:
        """Ask it to end, and see that it does."""
        if executor.state not in (State.REGISTERING, State.RUNNING):
            return
        executor.state = State.TERMINATING
        if not executor.send("SHUTDOWN"):
            log.warning("executor %s is not connected: no SHUTDOWN event", executor.executor_id)
        if executor.timer is not None:
            executor.timer.cancel()
        executor.timer = self._core.later(
            grace_period(self._core, executor), self._shutdown_timeout, executor
        )

    def _shutdown_timeout(self, executor: Executor) -> None:
        if executor.state is State.TERMINATING:
            self._core.containerizer.destroy(executor.container_id)

    def shutdown_framework(self, framework_id: str) -> None:
        """The framework is gone: so are its executors, and nobody hears of their tasks."""
        framework = self._core.frameworks.get(framework_id)
        if framework is None or framework.terminating:
            return
        log.info("shutting down framework %s", framework_id)
        framework.terminating = True
        self._core.updates.cleanup(framework_id)
        for executor in list(framework.executors.values()):
            if executor.state is State.TERMINATED:
                self._core.remove_executor(framework, executor)
            else:
                self.shutdown(executor)
        self._core.remove_if_idle(framework)

    def terminated(self, executor: Executor, termination: Termination) -> None:
        """Its container has ended: so have its tasks."""
        core = self._core
        status = -1 if termination.status is None else termination.status
        log.info("executor %s ended with status %d", executor.executor_id, status)
        framework = core.frameworks.get(executor.framework_id)
        if framework is None or framework.executors.get(executor.executor_id) is not executor:
            return
        executor.state = State.TERMINATED
        core.settled.set()
        if executor.stream is not None:
            executor.stream.close()
            executor.stream = None
        core.exited(framework.framework_id, executor.executor_id, status)
        if not framework.terminating:
            self._end_tasks(executor, termination)
        if core.terminating or framework.terminating or not executor.incomplete():
            core.remove_executor(framework, executor)
        core.remove_if_idle(framework)

    def _end_tasks(self, executor: Executor, termination: Termination) -> None:
        pending = executor.pending or Termination()
        state = termination.state or pending.state or "TASK_FAILED"
        reason = termination.reason or pending.reason or "REASON_EXECUTOR_TERMINATED"
        messages = [text for text in (pending.message, termination.message) if text]
        message = "; ".join(messages) or "Executor terminated"
        for task_id in [*executor.launched, *executor.queued]:
            self._core.report(executor.framework_id, task_id, state, message, reason, executor.executor_id)
