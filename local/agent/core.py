"""The agent's state in one place, and the few things every part of it does: statuses, messages, removal.

One event loop changes it. `launches` takes tasks in, `executors` runs executors, `recovery` rebuilds all of this from
disk, `master` holds the link.

Source: Mesos src/slave/slave.cpp (`statusUpdate`, `_statusUpdate`, `removeExecutor`, `removeFramework`).
"""

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import Callable

from local.agent import checkpoint
from local.agent.containers.cgroups import CgroupError
from local.agent.containers.containerizer import Containerizer, Termination
from local.agent.draining import Drain
from local.agent.flags import Flags
from local.agent.model import Executor, Framework, State, TaskStateError
from local.agent.updates import StatusUpdates
from local.agent.volumes import Memory, VolumeError
from local.link import SocketLink
from local.tasks import TERMINAL
from local.wire.authentication import Tokens
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)

VERSION = "1.12.0"


def new_uuid() -> str:
    return base64.b64encode(uuid.uuid4().bytes).decode()


class Core:
    """Everything the agent knows."""

    def __init__(self, flags: Flags, port: int, containerizer: Containerizer) -> None:
        self.flags = flags
        self.port = port
        self.containerizer = containerizer
        self.memory = Memory(flags.work_dir, flags.resources)
        self.drain = Drain(flags.work_dir)
        self.started = time.time()
        self.agent_id: str | None = None
        self.recovering = True  # executors may come back, nothing else happens
        self.terminating = False
        self.frameworks: dict[str, Framework] = {}
        self.link: SocketLink | None = None  # registered with the master through it
        self.fatal: checkpoint.CheckpointError | None = None  # why the agent ends, when it must
        self.stopped = asyncio.Event()
        self.settled = asyncio.Event()  # an executor came back or ended
        self.updates = StatusUpdates(self._forward, self.later)
        key = flags.jwt_secret_key
        self.tokens = None if key is None else Tokens("mesos-agent-executor", key)

    @staticmethod
    def later(delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    def info(self) -> Json:
        """AgentInfo."""
        result: Json = {
            "hostname": self.flags.hostname,
            "port": self.port,
            "resources": self.flags.resources.to_json(),
        }
        if self.flags.domain is not None:
            result["domain"] = self.flags.domain
        if self.flags.attributes:
            result["attributes"] = list(self.flags.attributes)
        if self.agent_id is not None:
            result["id"] = {"value": self.agent_id}
        return result

    @property
    def paths(self) -> checkpoint.Paths:
        assert self.agent_id is not None
        return checkpoint.Paths(self.flags.work_dir, self.agent_id)

    def checkpoint_resources(self, message: Json) -> None:
        """Take in what the master made of our resources; an agent that cannot has to end."""
        try:
            self.memory.take(Resources.from_json(message["resources"]))
        except checkpoint.CheckpointError as error:
            self.fatal = error
            self.stop()

    def send(self, message: Json) -> None:
        """To the master; lost when it is away."""
        if self.link is not None:
            self.link.send(message)

    # ---- status updates

    def _forward(self, framework_id: str, status: Json) -> None:
        framework = self.frameworks.get(framework_id)
        task_id = status["task_id"]["value"]
        executor = framework.executor_of(task_id) if framework is not None else None
        latest = status["state"]
        if executor is not None:
            task = executor.launched.get(task_id) or executor.terminated.get(task_id)
            latest = task.state if task is not None else latest
        self.send({"type": "UPDATE", "framework_id": framework_id, "status": status, "latest_state": latest})

    def report(
        self,
        framework_id: str,
        task_id: str,
        state: str,
        message: str,
        reason: str,
        executor_id: str | None = None,
    ) -> None:
        """An update that the agent itself makes."""
        status: Json = {
            "task_id": {"value": task_id},
            "state": state,
            "message": message,
            "source": "SOURCE_AGENT",
            "reason": reason,
            "timestamp": time.time(),
            "uuid": new_uuid(),
        }
        if executor_id is not None:
            status["executor_id"] = {"value": executor_id}
        self.status_update(framework_id, status)

    def orphan_update(self, framework_id: str, task_id: str, state: str, message: str) -> None:
        """An update for a task that is not here, of a framework that need not be either."""
        status: Json = {
            "task_id": {"value": task_id},
            "state": state,
            "message": message,
            "source": "SOURCE_AGENT",
            "reason": "REASON_RECONCILIATION",
            "agent_id": {"value": self.agent_id},
            "timestamp": time.time(),
            "uuid": new_uuid(),
        }
        self.updates.update(framework_id, status, None)

    def status_update(self, framework_id: str, status: Json) -> None:
        """Take one update in, of the agent or of an executor: state, disk, then the way to the scheduler."""
        assert self.agent_id is not None
        status["agent_id"] = {"value": self.agent_id}
        status.setdefault("timestamp", time.time())
        framework = self.frameworks.get(framework_id)
        task_id = status["task_id"]["value"]
        if framework is None or framework.terminating:
            log.warning("ignoring an update of task %s: its framework is ending or unknown", task_id)
            return
        executor = framework.executor_of(task_id)
        if executor is None:
            # Made by us for a task that never got an executor, or late.
            self.updates.update(framework_id, status, None)
            return
        self._container_status(executor, status)
        self.drain.rewrite(status)
        if status["source"] == "SOURCE_EXECUTOR" and not executor.heard:
            executor.heard = True
            if executor.checkpoint:
                (executor.meta / "heard").touch()
        try:
            executor.take(status)
        except TaskStateError as error:
            # Dropped, but acknowledged to the executor: else it would send it for ever.
            log.error("dropping an update of task %s: %s", task_id, error)
            return
        if status["state"] in TERMINAL:
            self.resize(executor)
        path = executor.meta / "tasks" / task_id / "task.updates" if executor.checkpoint else None
        self.updates.update(framework_id, status, path)

    def _container_status(self, executor: Executor, status: Json) -> None:
        """What the container is, for updates of tasks that reached it."""
        pid = self.containerizer.pid(executor.container_id)
        if (
            status["task_id"]["value"] in executor.queued
            or status["source"] != "SOURCE_EXECUTOR"
            or pid is None
        ):
            return
        container = status.setdefault("container_status", {})
        container.setdefault("container_id", {"value": executor.container_id})
        container["executor_pid"] = pid
        if not container.get("network_infos"):
            address = {"protocol": "IPv4", "ip_address": self.flags.ip}
            container["network_infos"] = [{"ip_addresses": [address]}]

    def resize(self, executor: Executor) -> bool:
        """Fit the container to its tasks; a failure costs the whole container. Returns success."""
        try:
            executor.links = self.memory.link(executor.sandbox, executor.links, executor.volumes)
            self.containerizer.update(executor.container_id, executor.cpus, executor.mem)
        except (CgroupError, VolumeError) as error:
            log.error("cannot resize container %s: %s", executor.container_id, error)
            framework = self.frameworks[executor.framework_id]
            executor.pending = Termination(
                None,
                framework.state_or_lost("TASK_GONE"),
                "REASON_CONTAINER_UPDATE_FAILED",
                f"Failed to update resources for container: {error}",
            )
            self.containerizer.destroy(executor.container_id)
            return False
        return True

    def acknowledged(self, framework_id: str, task_id: str, status_uuid: str) -> None:
        """The scheduler has an update; the last one of a task completes it."""
        ended = self.updates.acknowledge(framework_id, task_id, status_uuid)
        framework = self.frameworks.get(framework_id)
        executor = framework.executor_of(task_id) if framework is not None else None
        if framework is None or executor is None or not ended or task_id not in executor.terminated:
            return
        executor.completed.append(executor.terminated.pop(task_id))
        checkpoint.remove(executor.meta / "tasks" / task_id)
        if executor.state is State.TERMINATED and not executor.incomplete():
            self.remove_executor(framework, executor)
        self.remove_if_idle(framework)

    # ---- the end of things

    def exited(self, framework_id: str, executor_id: str, status: int) -> None:
        """Tell the master that an executor is no more (or never came to be)."""
        self.send(
            {
                "type": "EXITED_EXECUTOR",
                "framework_id": framework_id,
                "executor_id": executor_id,
                "status": status,
            }
        )

    def remove_executor(self, framework: Framework, executor: Executor) -> None:
        """Nothing is owed any more: forget it, keep its sandbox for a while."""
        framework.executors.pop(executor.executor_id, None)
        framework.completed.append(executor)
        for timer in (executor.timer, executor.heartbeat):
            if timer is not None:
                timer.cancel()
        if executor.stream is not None:
            executor.stream.close()
        checkpoint.remove(executor.meta)
        top = self.paths.executor(framework.framework_id, executor.executor_id)
        if not any((top / "runs").glob("[!l]*")):
            checkpoint.remove(top)
        self.later(self.flags.gc_delay, checkpoint.remove, executor.sandbox)

    def remove_if_idle(self, framework: Framework) -> None:
        """A framework without executors is forgotten."""
        if framework.executors or self.frameworks.get(framework.framework_id) is not framework:
            return
        del self.frameworks[framework.framework_id]
        if not self.frameworks:
            self.drain.end()
        self.updates_of_idle(framework)
        checkpoint.remove(self.paths.framework(framework.framework_id))
        if self.terminating and not self.frameworks:
            self.stop()

    def stop(self) -> None:
        """End this process; executors are not touched."""
        self.stopped.set()
        self.settled.set()

    def updates_of_idle(self, framework: Framework) -> None:
        """Updates of tasks that never had an executor go on; those of an ending framework do not."""
        if framework.terminating:
            self.updates.cleanup(framework.framework_id)

    def framework(self, info: Json) -> Framework:
        """The framework of a launch, new or known, with its current info."""
        framework_id = info["id"]["value"]
        framework = self.frameworks.get(framework_id)
        if framework is None:
            framework = self.frameworks[framework_id] = Framework(framework_id, info)
            self.save_framework(framework)
        return framework

    def save_framework(self, framework: Framework) -> None:
        if framework.checkpoint:
            path = self.paths.framework(framework.framework_id) / "framework.info"
            checkpoint.write(path, framework.info)
