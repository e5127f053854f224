"""A pod that somebody else's stage1 runs, as the executor's `Sandbox` (executor/pods/ports.py).

In `immutable` are those whose apps start at once, in `mutable` those whose apps come and go.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from executor.contract import files, tree
from executor.contract.client import ENVIRONMENT, Ended, Holder, Program, new_terminal
from executor.contract.console import Console
from executor.contract.disposal import collect
from executor.contract.interface import (
    FAILED,
    ContractError,
    Stage1,
    attach_arguments,
    enter_arguments,
    run_arguments,
    stop_arguments,
)
from executor.contract.manifest import SHARED, Foreign
from executor.pods import launcher
from executor.pods.launcher import AppExit, LaunchError
from executor.stage1 import cgroups, userns

log = logging.getLogger(__name__)

_RUN_ENVIRONMENT: Final = {**ENVIRONMENT, "RKT_SELINUX_CONTEXT": "", "RKT_SELINUX_MOUNT_CONTEXT": ""}
NO_STATUS: Final = 255
"""The exit code of an app of which the stage1 says something that is no exit status."""


@dataclass(frozen=True)
class Patience:
    """Seconds: for a pid after `run`, for `stop` and `app/…`, for `stop --force`, for `gc`; between looks at files."""

    start: float = 30.0
    stop: float = 10.0
    force: float = 3.0
    gc: float = 30.0
    poll: float = 0.1
    look: float = 0.25
    between_gc: float = 1.0


@dataclass(frozen=True)
class Job:
    """All that is known of a pod before it runs. layers: the stage1's; lock: the descriptor that holds the pod's."""

    pod_dir: Path
    stage1: Stage1
    layers: tuple[Path, ...]
    foreign: Foreign
    layout: cgroups.Layout
    lock: int
    patience: Patience

    @property
    def apps(self) -> list[str]:
        return [app["name"] for app in self.foreign.manifest["apps"]]


class Exec(launcher.Exec):
    """One more program in an app, started by `enter`."""

    def __init__(self, program: Program, terminal: int | None) -> None:
        self._program = program
        self.pid = program.pid
        self.terminal = terminal
        self.ended: asyncio.Future[tuple[int | None, int | None]] = asyncio.get_running_loop().create_future()
        program.ended.add_done_callback(self._end)

    def _end(self, done: "asyncio.Future[Ended]") -> None:
        if not self.ended.done():
            how = done.result()
            self.ended.set_result((how.code, how.signal))

    async def signal(self, signum: int) -> None:
        """Signal it; no error when it has ended."""
        await self._program.signal(signum)


async def make(job: Job, ids: int) -> Holder:
    """Cgroup, holder and mounts of a pod, `ids` its first id. Raises LaunchError; then nothing is left."""
    cgroup = cgroups.PodCgroup(job.layout, job.pod_dir.name)
    async with AsyncExitStack() as undo:
        undo.callback(cgroup.remove)
        try:
            await asyncio.to_thread(_make_cgroup, job, cgroup)
            await asyncio.to_thread(tree.write, job.pod_dir, job.stage1, job.layers, job.foreign)
            holder = await Holder.start(job.pod_dir, cgroup, job.lock)
            undo.pop_all()  # it removes the cgroup, too
            undo.push_async_callback(holder.close)
            steps = tree.place_steps(job.foreign.places, ids)
            await holder.prepare([*steps, *tree.stage1_steps(job.pod_dir, ids)])
            if not job.stage1.mutable:
                for app in job.apps:
                    await holder.prepare(tree.app_steps(job.pod_dir, app, ids))
        except (OSError, cgroups.CgroupError) as error:
            raise LaunchError(f"stage1 {job.stage1.name}: {error}") from None
        undo.pop_all()
    return holder


def _make_cgroup(job: Job, cgroup: cgroups.PodCgroup) -> None:
    cgroup.create()
    cgroup.limit(job.foreign.limits)


class ForeignSandbox:
    """What immutable and mutable pods have in common."""

    listening: tuple[int, ...] = ()
    """Sockets that `run` gets as from systemd (LISTEN_FDS); they stay the owner's."""

    def __init__(self, job: Job, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]) -> None:
        self.job = job
        self._on_exit, self._on_gone = on_exit, on_gone
        self.pid = -1
        self.pod_pid = -1
        """What `enter` is told: of the process that the stage1 has named."""
        self._holder: Holder | None = None
        self._users: userns.Range | None = None
        self._networked: Callable[[int], None] | None = None
        self._cgroup = cgroups.PodCgroup(job.layout, job.pod_dir.name)
        self._run: Program | None = None
        self._reported: set[str] = set()
        self._started: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._kills = 0
        self.console: Console | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"stage1 {self.job.stage1.name}"

    @property
    def holder(self) -> Holder:
        if self._holder is None:
            raise LaunchError(f"{self.name}: the pod does not run")
        return self._holder

    async def begin(self) -> None:
        """`open`, of which nothing is left when it fails. Raises LaunchError."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            await self.open()
            undo.pop_all()

    async def open(self) -> None:
        """Make everything that `run` needs. Raises LaunchError."""
        if self.job.foreign.users:
            self._users = await asyncio.to_thread(self._take_users)
        self._holder = await make(self.job, self.ids)
        self.pid = await self._holder.anchor(self.job.pod_dir / SHARED, None)
        self._kills = self._cgroup.oom_kills("")
        self._holder.died.add_done_callback(self._holder_died)

    @property
    def ids(self) -> int:
        """The first user id of the pod's own; 0 when it has none."""
        return 0 if self._users is None else self._users.base

    def when_networked(self, work: Callable[[int], None]) -> None:
        """See executor/metadata/doors, Late."""
        self._networked = work
        if self._run is not None:
            work(self.pid)

    def _take_users(self) -> userns.Range:
        if why := userns.why_not():
            raise LaunchError(f"{self.name}: a user namespace of the pod's own: {why}")
        try:
            users = userns.take_range()
            (self.job.pod_dir / tree.USERS).write_text(f"{users.base}:{userns.SIZE}")
        except OSError as error:
            raise LaunchError(f"{self.name}: {error}") from None
        return users

    # --- starting the pod ---

    async def execute_run(
        self, streams: tuple[int, ...], *, interactive: bool, terminal: bool = False
    ) -> None:
        """Execute `run` and wait until it has named the pod's process. Raises LaunchError, and then nothing runs.
        terminal: the streams are one, which becomes its own."""
        job, holder = self.job, self.holder
        run = replace(job.foreign.run, interactive=interactive)
        if self._users is not None:
            run = replace(run, private_users=f"{self.ids}:{userns.SIZE}")
        arguments, warnings = run_arguments(job.stage1, run, job.pod_dir.name)
        for warning in warnings:
            log.warning("pod %s: %s", job.pod_dir.name, warning)
        self._run = await holder.spawn(
            [tree.entrypoint(job.pod_dir, job.stage1, "run"), *arguments],
            streams,
            environment=_RUN_ENVIRONMENT,
            lock=True,
            terminal=terminal,
            rlimits=job.foreign.rlimits,
            listening=self.listening,
        )
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._undo_run, self._run)
            try:
                self.pod_pid = await self._wait_for_pid(self._run)
                self.pid = await holder.anchor(job.pod_dir / SHARED, self.pod_pid)
                if self._networked is not None:
                    self._networked(self.pid)
            except ContractError as error:
                raise LaunchError(f"{self.name}: {error}") from None
            undo.pop_all()
        self._spawn_task(self._watch_run(self._run))
        self._spawn_task(self._watch_statuses(self._run))

    async def _undo_run(self, run: Program) -> None:
        self._run = None
        await self.holder.kill()
        await run.ended

    async def _wait_for_pid(self, run: Program) -> int:
        deadline = time.monotonic() + self.job.patience.start
        while True:
            over = run.ended.done()
            pid = files.pod_pid(self.job.pod_dir, None if over else self.members)
            failed = over and run.ended.result().code == FAILED and not self._has_status()
            if pid is not None and self.is_ready() and not failed:
                return pid
            if over:
                raise LaunchError(f"{self.name}: {self._why(run.ended.result())}")
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{self.name}: `run` wrote neither pid nor ppid within {self.job.patience.start:g} s"
                    if pid is None
                    else f"{self.name}: its supervisor was not ready within {self.job.patience.start:g} s"
                )
            await asyncio.wait([run.ended], timeout=self.job.patience.poll)

    def _has_status(self) -> bool:
        return any(self.status(app) is not None for app in self.job.apps)

    def _why(self, how: Ended) -> str:
        if how.code == FAILED:
            return (
                "could not run the pod (exit code 254, its own failure); its output is in the container's log"
            )
        return f"`run` ended with {how} before it wrote pid or ppid"

    def members(self) -> set[int]:
        """The pod's processes."""
        return files.members([self._cgroup.kill_directory()])

    def is_ready(self) -> bool:
        """Whether the stage1 takes orders, apart from its pid."""
        return True

    # --- watching it ---

    def _spawn_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pod %s: watching it failed: %r", self.job.pod_dir.name, error)
            if not self._stopping:
                self._on_gone(f"{self.name}: {error}")

    async def _watch_run(self, run: Program) -> None:
        how = await run.ended
        if self._run is run:
            await self.run_ended(how)

    async def run_ended(self, how: Ended) -> None:
        """`run` has ended, and the pod with it. What it has left behind is killed."""
        raise NotImplementedError

    async def _watch_statuses(self, run: Program) -> None:
        """The apps that have ended while `run` lives on, by their status files."""
        while self._run is run and not run.ended.done():
            await asyncio.wait([run.ended], timeout=self.job.patience.look)
            if self._run is run and not run.ended.done():
                self.look_at_statuses()

    def look_at_statuses(self) -> None:
        """Report those that have ended."""
        for app in [one for one in self._started if one not in self._reported]:
            status = self.status(app)
            if status is not None:
                self.report(app, Ended(status, None))

    def status(self, app: str) -> int | None:
        """What the stage1 says that the app ended with; a lie is NO_STATUS, and told."""
        try:
            return files.exit_status(tree.upper(self.job.pod_dir), app)
        except ContractError as error:
            log.warning("pod %s: %s: %s", self.job.pod_dir.name, self.name, error)
            return NO_STATUS

    def report(self, app: str, how: Ended) -> None:
        """An app has ended. Once."""
        if app in self._reported:
            return
        if self.console is not None:
            self.console.drain()  # with what it has said
        self._reported.add(app)
        kills = self._cgroup.oom_kills("")
        oom = kills > self._kills and how.code != 0
        self._on_exit(AppExit(app, how.code, how.signal, oom, time.time()))

    def _holder_died(self, _: "asyncio.Future[None]") -> None:
        if not self._stopping:
            self._spawn_task(self._gone(f"{self.name}: the process that held the pod's mounts has ended"))

    async def _gone(self, reason: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        with suppress(LaunchError):
            await self._take_down()
        self._on_gone(reason)

    # --- what the executor asks for ---

    async def exec(
        self,
        app: str,
        argv: Sequence[str],
        *,
        streams: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "",
    ) -> Exec:
        """Run one more program in a running app by `enter`, as the stage1 does it. No streams: on a terminal.

        environment: what `enter` is given; whether the program gets it is the stage1's choice. Raises LaunchError.
        """
        stage1 = self.job.stage1
        if "enter" not in stage1.entrypoints:
            raise LaunchError(
                f"{self.name} cannot execute commands in apps: its image has no enter entrypoint"
            )
        if directory:
            raise LaunchError(
                f"{self.name} cannot execute commands in a directory ({directory}): enter takes none"
            )
        self._check_runs(app)
        program = tree.entrypoint(self.job.pod_dir, stage1, "enter")
        command = [program, *enter_arguments(self.pod_pid, app, list(argv))]
        given = {**ENVIRONMENT, **(environment or {})}
        if streams:
            return Exec(await self.holder.spawn(command, streams, environment=given), None)
        with new_terminal() as (master, slave):
            started = await self.holder.spawn(
                command, (slave, slave, slave), environment=given, terminal=True
            )
        return Exec(started, master)

    def crossing(self, app: str) -> dict[str, str]:
        """The environment of entrypoints that go into the pod on their own."""
        made = {**ENVIRONMENT, "RKT_STAGE1_ENTERPID": str(self.pod_pid), "RKT_STAGE1_ENTERAPP": app}
        if "enter" in self.job.stage1.entrypoints:
            made["RKT_STAGE1_ENTERCMD"] = tree.entrypoint(self.job.pod_dir, self.job.stage1, "enter")
        return made

    async def attach(self, app: str, wanted: Collection[str] | None, streams: tuple[int, ...]) -> Exec:
        """Execute `attach`; wanted as in `attach_arguments`. Raises LaunchError."""
        if "attach" not in self.job.stage1.entrypoints:
            raise LaunchError(f"{self.name} cannot attach to apps: its image has no attach entrypoint")
        self._check_runs(app)
        program = tree.entrypoint(self.job.pod_dir, self.job.stage1, "attach")
        command = [program, *attach_arguments(app, wanted)]
        return Exec(await self.holder.spawn(command, streams, environment=self.crossing(app)), None)

    async def start_terminal(self, app: str) -> tuple[int, int]:
        """Not by the contract: only `rkt`'s own attach gives an app a terminal."""
        raise LaunchError(f"{self.name} cannot give {app} a terminal: set tty to false")

    def _check_runs(self, app: str) -> None:
        if app not in self._started or app in self._reported:
            raise LaunchError(f"{self.name}: {app} does not run")

    async def force_stop(self) -> None:
        """`stop --force`, for a moment; the cgroup is killed in any case."""
        run = self._run
        if run is not None and not run.ended.done():
            await self._stop_entrypoint(force=True, seconds=self.job.patience.force)
        await self.holder.kill()

    async def _stop_entrypoint(self, *, force: bool, seconds: float) -> None:
        job = self.job
        if "stop" not in job.stage1.entrypoints:
            if self._run is not None and not force:
                await self._run.signal(signal.SIGTERM)
            return
        command = [
            tree.entrypoint(job.pod_dir, job.stage1, "stop"),
            *stop_arguments(job.pod_dir.name, force=force),
        ]
        try:
            how = await self.holder.run(command, seconds=seconds)
        except LaunchError as error:
            log.warning("pod %s: %s: %s", job.pod_dir.name, self.name, error)
            return
        if how.code != 0 and self._run is not None and not self._run.ended.done():
            log.warning("pod %s: %s: `stop` ended with %s", job.pod_dir.name, self.name, how)

    async def stop(self) -> None:
        """End everything in the pod; returns when no process, mount or cgroup of it is left. Idempotent. `gc` comes
        when the pod's directory goes."""
        self._stopping = True
        if self._holder is not None and not self._holder.died.done():
            with suppress(LaunchError):
                await self.force_stop()
        await self._take_down()

    async def _take_down(self) -> None:
        self._run, holder = None, self._holder
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        if holder is not None:
            await holder.close()
            self._holder = None
        if self._users is not None:
            self._users.release()
            self._users = None
        if self.console is not None:
            self.console.close()
            self.console = None

    async def start_again(self) -> None:
        """A pod whose `run` has ended, as it was before `run`. Raises LaunchError."""
        stopping, self._stopping = self._stopping, True
        try:
            if self._holder is not None and not self._holder.died.done():
                await self.force_stop()
            await self._take_down()
            await collect(self.job.pod_dir, self.job.layout, self.job.patience.gc)
            await asyncio.to_thread(tree.forget_all, self.job.pod_dir)
        finally:
            self._stopping = stopping
        self._started.clear()
        self._reported.clear()
        await self.open()
