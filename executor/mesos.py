"""The executor as Mesos sees it: the driver's callbacks become pods, the pods' reports become status updates.

Nothing is decided here. A callback must not raise: the driver takes that for the end of the executor.
"""

# ruff: noqa: N802  (pymesos' names)

import logging
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from executor.idle import IdleTimer
from executor.pods.ceiling import Ceiling
from executor.pods.claims import paths, with_claims
from executor.pods.core.effects import Report
from executor.pods.enforcing import EnforceError
from executor.pods.env import Node
from executor.pods.gpus import GpuError
from executor.pods.objects import Objects
from executor.pods.pods import Pods
from executor.pods.supplies import unpack
from executor.pods.sysctls import SysctlError
from executor.server.app import Tokens
from shared.mesos.durations import duration_from_json
from shared.mesos.executor_driver import Executor, ExecutorDriver, NotConnected
from shared.wire import Launch, Supply, Wanted, WireError, digest_of
from shared.wire import Report as WireReport

log = logging.getLogger(__name__)

Json = dict[str, Any]
MAX_MESSAGE: Final = 1000
CAP_SYS_RESOURCE: Final = 1 << 24  # linux/capability.h


def lowest_oom_score(proc: Path = Path("/proc/self")) -> int:
    """The lowest oom_score_adj this process may give another (proc(5)): -1000 with CAP_SYS_RESOURCE, else its own."""
    for line in (proc / "status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) & CAP_SYS_RESOURCE:
            return -1000
    return int((proc / "oom_score_adj").read_text())


class PodExecutor(Executor):
    """Between one driver and the pods. stop: called with a reason (and whether it is an error) when it is all over.
    idle_timeout: seconds without a pod after which that is so, 0 for never."""

    def __init__(
        self, ip: str, tokens: Tokens, stop: Callable[[str, bool], None], idle_timeout: float = 0.0
    ) -> None:
        self.node = Node(name="", ip=ip, cpus=Fraction(0), memory=0, lowest_oom_score=lowest_oom_score())
        self.server = ""
        self.sandbox = Path()
        self.ceiling: Ceiling | None = None
        self._tokens = tokens
        self._stop = stop
        self._idle = IdleTimer(idle_timeout, lambda reason: stop(reason, False))
        self._pods: Pods | None = None
        self._driver: ExecutorDriver | None = None

    def attach(self, pods: Pods, driver: ExecutorDriver, server: str) -> None:
        """What this is between. server: host:port of the node server."""
        self._pods, self._driver, self.server = pods, driver, server

    # --- from the agent ---

    def registered(self, driver: Any, executorInfo: Json, frameworkInfo: Json, agentInfo: Json) -> None:  # noqa: N803
        scalars: dict[str, Fraction] = {}
        for resource in agentInfo.get("resources") or ():
            if resource.get("type") == "SCALAR":
                value = Fraction(str(resource["scalar"]["value"]))
                scalars[resource["name"]] = scalars.get(resource["name"], Fraction(0)) + value
        self.node = replace(
            self.node,
            name=agentInfo.get("hostname", ""),
            cpus=scalars.get("cpus", Fraction(0)),
            memory=int(scalars.get("mem", 0) * 2**20),
            ephemeral_storage=int(scalars.get("disk", 0) * 2**20),
        )
        self._idle.start()

    def reregistered(self, driver: Any, agentInfo: Json) -> None:  # noqa: N803
        log.info("the agent is back; its pods never noticed")

    def disconnected(self, driver: Any) -> None:
        log.warning("the agent is away; pods run on")

    def launchTask(self, driver: Any, task: Json) -> None:
        task_id = task["task_id"]["value"]
        self._idle.came(task_id)
        try:
            launch = Launch.decode(task.get("data", ""))
            self._tokens.add(launch.node_token)
            self.node = replace(self.node, name=launch.node_name, shared_memory=self._shared_memory())
            if self._pods is None:
                raise ValueError("the executor is not ready")
            volumes = paths(task.get("resources") or (), self.sandbox)
            self._pods.launch(task_id, with_claims(launch.pod, volumes), unpack(launch))
        except (WireError, ValueError) as error:
            log.error("task %s: %s", task_id, error)
            reason = (
                error.reason if isinstance(error, GpuError | SysctlError | EnforceError) else "InvalidPod"
            )
            status = {"phase": "Failed", "reason": reason, "message": str(error)}
            self.report(task_id, Report("TASK_FAILED", str(error), status, ()))

    def _shared_memory(self) -> int:
        if self.ceiling is None:
            return 0
        self.ceiling.adjust()  # the agent has raised its limit for the pod that comes
        return self.ceiling.limit

    def launchTaskGroup(self, driver: Any, tasks: list[Json]) -> None:
        message = "task groups are not for this executor: a pod is one task"
        for task in tasks:
            self._idle.came(task["task_id"]["value"])
            status = {"phase": "Failed", "reason": "InvalidPod", "message": message}
            self.report(task["task_id"]["value"], Report("TASK_FAILED", message, status, ()))

    def killTask(self, driver: Any, taskId: Json, killPolicy: Json | None = None) -> None:  # noqa: N803
        grace = None
        try:
            if killPolicy and killPolicy.get("grace_period"):
                grace = duration_from_json(killPolicy["grace_period"])
        except ValueError as error:
            log.error("kill of task %s: %s; taking the pod's own grace", taskId["value"], error)
        if self._pods is None or not self._pods.kill(
            taskId["value"], grace, "killed on request of the scheduler"
        ):
            log.warning("kill of task %s: it does not run here", taskId["value"])

    def frameworkMessage(self, driver: Any, message: str) -> None:
        """The answer to `want`."""
        try:
            supply = Supply.decode(message)
            objects = Objects.from_json(supply.objects)
        except (WireError, ValueError) as error:
            log.warning("a framework message of %d bytes is ignored: %s", len(message), error)
        else:
            if self._pods is not None:
                self._pods.provide(supply.task_id, objects, digest_of(supply.objects))

    def shutdown(self, driver: Any) -> None:
        self._stop("the agent told the executor to shut down", False)

    def error(self, driver: Any, message: str) -> None:
        self._stop(message, True)

    # --- from the pods ---

    def want(self, task_id: str, digest: str) -> None:
        """Ask the scheduler for the objects of a pod, if they are others now. Whoever asks does so again: this may be
        lost."""
        try:
            if self._driver is not None:
                self._driver.sendFrameworkMessage(Wanted(task_id, digest).encode())
        except NotConnected as error:
            log.info("not asked for the objects of task %s: %s", task_id, error)

    def report(self, task_id: str, report: Report) -> None:
        """Send a pod's report as a status update."""
        if self._driver is None:
            raise RuntimeError("a pod reported before there was a driver")
        update: Json = {
            "task_id": {"value": task_id},
            "state": report.state,
            "data": WireReport(report.status, self.server, report.events).encode(),
        }
        if report.message:
            update["message"] = " ".join(report.message.split())[:MAX_MESSAGE]
        self._driver.sendStatusUpdate(update)
        if report.terminal:
            self._idle.went(task_id)
