"""Containers from launch to the last of their processes: fetch, start, resize, destroy, recover.

Source: Mesos src/slave/containerizer/mesos/containerizer.cpp.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.agent.containers import launcher, processes
from local.agent.containers.cgroups import CgroupError, Cgroups
from local.agent.containers.fetcher import FetchError, fetch
from local.agent.containers.launcher import LaunchError, Sessions, Spec
from local.agent.containers.oom import OomWatch
from local.agent.containers.processes import Identity
from local.wire.proto import Json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Termination:
    """How a container ended. `state`, `reason` and `message` override what its tasks are told."""

    status: int | None = None  # raw wait status
    state: str | None = None
    reason: str | None = None
    message: str | None = None


@dataclass
class _Container:
    container_id: str
    ended: Callable[[Termination], None]
    launching: asyncio.Task[None] | None = None
    pid: int | None = None
    stop_watching: Callable[[], None] | None = None
    oom: OomWatch | None = None
    destroying: bool = False
    limitation: Termination = field(default_factory=Termination)


class Containerizer:
    """All containers of one agent; every method is called on the event loop."""

    def __init__(self, placement: Cgroups | Sessions, work_dir: Path) -> None:
        self._placement = placement
        self._work_dir = work_dir
        self._containers: dict[str, _Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def launch(
        self,
        spec: Spec,
        uris: list[Json],
        limits: tuple[int, int],
        checkpoint: Callable[[Identity], None],
        ended: Callable[[Termination], None],
    ) -> None:
        """Start a container with limits as in `update`; `ended` is called once, whatever happens."""
        container = _Container(spec.container_id, ended)
        self._containers[spec.container_id] = container
        task = asyncio.create_task(self._launch(container, spec, uris, limits, checkpoint))
        container.launching = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _launch(
        self,
        container: _Container,
        spec: Spec,
        uris: list[Json],
        limits: tuple[int, int],
        checkpoint: Callable[[Identity], None],
    ) -> None:
        try:
            entry = launcher.passwd(spec.user)
            if uris:
                owner = (entry.pw_uid, entry.pw_gid) if entry is not None else None
                await asyncio.to_thread(fetch, uris, spec.sandbox, owner)
            container.pid = launcher.start(spec, self._placement, checkpoint)
            self.update(spec.container_id, *limits)
        except (LaunchError, CgroupError, FetchError, OSError) as error:
            log.error("cannot launch container %s: %s", spec.container_id, error)
            message = f"Failed to launch container: {error}"
            container.limitation = Termination(None, "TASK_FAILED", "REASON_CONTAINER_LAUNCH_FAILED", message)
            if container.pid is None:
                await self._finish(container, None)
                return
        except asyncio.CancelledError:
            await self._finish(container, None)
            return
        finally:
            container.launching = None
        assert container.pid is not None
        container.stop_watching = launcher.watch(
            container.pid, child=True, ended=lambda status: self._exited(container, status)
        )
        self._watch_memory(container)
        if container.limitation.state is not None:
            self.destroy(spec.container_id)

    def recover(self, container_id: str, identity: Identity, ended: Callable[[Termination], None]) -> bool:
        """Watch a container that an earlier agent started. False: its process is gone (call `destroy`)."""
        container = _Container(container_id, ended, pid=identity.pid)
        self._containers[container_id] = container
        if isinstance(self._placement, Sessions):
            self._placement.assign(container_id, identity.pid)
        if not identity.alive():
            return False
        container.stop_watching = launcher.watch(
            identity.pid, child=False, ended=lambda status: self._exited(container, status)
        )
        self._watch_memory(container)
        return True

    def _watch_memory(self, container: _Container) -> None:
        if not isinstance(self._placement, Cgroups):
            return
        cgroup = self._placement.memory_cgroup(container.container_id)
        if cgroup is None:
            return
        try:
            container.oom = OomWatch(cgroup, lambda text: self._out_of_memory(container, text))
        except OSError as error:
            log.warning("cannot watch the memory of container %s: %s", container.container_id, error)

    def _out_of_memory(self, container: _Container, text: str) -> None:
        log.warning("container %s: %s", container.container_id, text.splitlines()[0])
        reason = "REASON_CONTAINER_LIMITATION_MEMORY"
        container.limitation = Termination(None, "TASK_FAILED", reason, text)
        self.destroy(container.container_id)

    def pid(self, container_id: str) -> int | None:
        container = self._containers.get(container_id)
        return container.pid if container is not None else None

    def update(self, container_id: str, cpus: int, mem: int) -> None:
        """Fit the container to its executor's and tasks' thousandths of CPUs and MBs. Raises CgroupError."""
        container = self._containers.get(container_id)
        if container is not None and container.pid is not None and not container.destroying:
            self._placement.update(container_id, cpus, mem)

    def destroy(self, container_id: str) -> None:
        """Kill everything in the container; its `ended` follows."""
        container = self._containers.get(container_id)
        if container is None:
            return
        if container.launching is not None:
            container.launching.cancel()
        elif not container.destroying:
            container.destroying = True
            self._spawn(self._kill(container))

    async def _kill(self, container: _Container) -> None:
        """Kill everything. The end of a process that is watched is then seen by `_exited`."""
        watched = container.stop_watching is not None
        try:
            await asyncio.to_thread(self._placement.destroy, container.container_id)
        except (CgroupError, LaunchError) as error:
            log.error("cannot destroy container %s: %s", container.container_id, error)
        if not watched:
            await self._finish(container, None)

    def _exited(self, container: _Container, status: int | None) -> None:
        container.stop_watching = None
        container.destroying = True
        self._spawn(self._finish(container, status))

    async def _finish(self, container: _Container, status: int | None) -> None:
        """Nothing of the container may be left when its end is told."""
        if container.oom is not None:
            container.oom.close()
        try:
            await asyncio.to_thread(self._placement.destroy, container.container_id)
        except (CgroupError, LaunchError) as error:
            log.error("cannot destroy container %s: %s", container.container_id, error)
        if self._containers.pop(container.container_id, None) is not None:
            why = container.limitation
            container.ended(Termination(status, why.state, why.reason, why.message))

    async def destroy_orphans(self, known: Iterable[str]) -> None:
        """Destroy what an earlier agent with our work directory left: containers in `known` (ours by the
        checkpoints), and those whose processes have their sandbox in it. Others belong to other agents."""
        if not isinstance(self._placement, Cgroups):
            return
        ours = set(known)
        for container_id in self._placement.containers() - set(self._containers):
            if container_id in ours or self._sandboxed_here(self._placement.processes(container_id)):
                log.info("destroying orphan container %s", container_id)
                try:
                    await asyncio.to_thread(self._placement.destroy, container_id)
                except CgroupError as error:
                    log.error("cannot destroy orphan container %s: %s", container_id, error)

    def _sandboxed_here(self, pids: set[int]) -> bool:
        prefix = f"{self._work_dir}/"
        return any(processes.environment(pid).get("MESOS_SANDBOX", "").startswith(prefix) for pid in pids)

    async def close(self) -> None:
        """Stop watching; containers go on."""
        for container in self._containers.values():
            if container.stop_watching is not None:
                container.stop_watching()
            if container.oom is not None:
                container.oom.close()
        launching = {container.launching for container in self._containers.values()}
        for task in list(self._tasks):
            if task not in launching:  # a fetch may take long; the next agent tells how it ended
                with contextlib.suppress(asyncio.CancelledError):
                    await task
