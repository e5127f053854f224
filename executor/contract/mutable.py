"""Pods whose stage1 adds, starts, stops and removes apps while they run (rkt's `app …`, interface version 5)."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from executor.contract import files, tree
from executor.contract.client import Ended
from executor.contract.console import Console
from executor.contract.interface import FAILED, ROOTFS, app_arguments
from executor.contract.manifest import Foreign
from executor.contract.sandbox import ForeignSandbox, Job
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.logs import LogWriter

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
"""Raises LaunchError when it must not be."""


class Mutable(ForeignSandbox):
    """An empty pod, into which apps are put when they are to start.

    What `run` writes, and what a stage1's supervisor lets apps write there, goes to `stage1/output`. What `app/start`
    hands on of its own streams is an app's output, and the lines that `run` labels as its (`console`).
    """

    def __init__(self, job: Job, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]) -> None:
        super().__init__(job, on_exit, on_gone)
        self._entries = {app["name"]: app for app in job.foreign.manifest["apps"]}
        self._volumes: dict[str, list[dict[str, Any]]] = {}
        """Of apps that came later."""
        self._added: list[str] = []
        self._changing = asyncio.Lock()
        self._log: LogWriter | None = None
        self._appeared: files.Appearance | None = None

    async def open(self) -> None:
        self._write_pod()
        await super().open()
        await self.before_run()
        streams = self.output()
        self.console = Console(streams)
        # A supervisor of rkt's takes its link away again at once, with a systemd for which it has been stopped then.
        self._appeared = files.Appearance(tree.upper(self.job.pod_dir) / "rkt", "supervisor-status")
        try:
            await self.execute_run(self.console.fds, interactive=False)
        finally:
            self._appeared.close()
            for fd in (*streams, *self.console.fds):
                os.close(fd)

    async def before_run(self) -> None:
        """What else `run` needs. Raises LaunchError."""

    def output(self) -> tuple[int, int]:
        """Where goes what `run` writes; to be closed when it has it."""
        self._log = LogWriter(self.job.pod_dir / "stage1" / "output")
        return self._log.attach("stdout"), self._log.attach("stderr")

    async def stop(self) -> None:
        await super().stop()
        if self._log is not None:
            self._log.close()

    def is_ready(self) -> bool:
        appeared = self._appeared is not None and self._appeared.seen()
        return appeared or files.supervisor_ready(tree.upper(self.job.pod_dir))

    async def start_app(self, app: str, *, stdin: int | None, stdout: int, stderr: int) -> int:
        """`app/add`, unless it is there, and `app/start`."""
        async with self._changing:
            if app not in self._added:
                await self._add(app)
            top, status = str(self.job.pod_dir / ROOTFS), f"rkt/status/{app}"
            await self.holder.prepare([
                {"do": "remove", "root": top, "path": f"{status}-started"},
                {"do": "remove", "root": top, "path": status},
                {"do": "file", "root": top, "path": f"{status}-started", "text": ""},
            ])  # fmt: skip
            self._reported.discard(app)
            streams = (stdout, stderr) if stdin is None else (stdin, stdout, stderr)
            if self.console is not None:
                self.console.add(app, stdout)
            await self._call("start", app, streams)
            self._started.append(app)
        return self.pod_pid

    async def add_app(self, foreign: Foreign, app: str, check: Check | None = None) -> None:
        """`app/add` of one that the pod was not started with. foreign: a pod of this app alone; its files are there.
        check: is called when all is as the stage1 will see it. Raises LaunchError, and then it is not in the pod."""
        async with self._changing:
            taken = {one["name"] for name, volumes in self._volumes.items() if name != app for one in volumes}
            taken |= {one["name"] for one in self.job.foreign.manifest["volumes"]}
            names = {one["name"]: _free(f"{app}-{one['name']}", taken) for one in foreign.manifest["volumes"]}
            [entry] = [one for one in foreign.manifest["apps"] if one["name"] == app]
            mounts = [{**mount, "volume": names[mount["volume"]]} for mount in entry["mounts"]]
            self._entries[app] = {**entry, "mounts": mounts}
            self._volumes[app] = [{**one, "name": names[one["name"]]} for one in foreign.manifest["volumes"]]
            await asyncio.to_thread(tree.write_app, self.job.pod_dir, app)
            try:
                await self.holder.prepare(tree.place_steps(foreign.places, self.ids))
                await self._add(app, check)
            except LaunchError:
                top = str(self.job.pod_dir / ROOTFS)
                with suppress(LaunchError):  # it was perhaps not mounted yet
                    await self.holder.prepare(
                        [{"do": "unmount", "root": top, "path": f"opt/stage2/{app}/rootfs"}]
                    )
                del self._entries[app], self._volumes[app]
                raise

    async def _add(self, app: str, check: Check | None = None) -> None:
        job = self.job
        variables = self._entries[app]["app"]["environment"]
        text = "".join(f"{one['name']}={one['value']}\n" for one in variables)
        top = str(job.pod_dir / ROOTFS)
        await self.holder.prepare([
            *tree.app_steps(job.pod_dir, app, self.ids),
            {"do": "file", "root": top, "path": f"rkt/env/{app}", "text": text},
            {"do": "file", "root": top, "path": f"rkt/status/{app}-created", "text": ""},
        ])  # fmt: skip
        self._added.append(app)
        self._write_pod()
        try:
            if check is not None:
                await check()
            await self._call("add", app)
        except LaunchError:
            self._added.remove(app)
            self._write_pod()
            raise

    async def _call(self, what: str, app: str, streams: tuple[int, ...] = ()) -> None:
        """A crossing entrypoint. With streams they are its own, and so perhaps the app's. Raises LaunchError."""
        job, patience = self.job, self.job.patience
        environment = self.crossing(app)
        command = [
            tree.entrypoint(job.pod_dir, job.stage1, f"app/{what}"),
            *app_arguments(what, job.pod_dir.name, app),
        ]
        seconds = patience.start if what in {"add", "start"} else patience.stop
        if not streams:
            how = await self.holder.run(command, seconds=seconds, environment=environment)
        else:
            program = await self.holder.spawn(command, streams, environment=environment)
            try:
                async with asyncio.timeout(seconds):
                    how = await asyncio.shield(program.ended)
            except TimeoutError:
                await program.signal(signal.SIGKILL, group=True)
                raise LaunchError(
                    f"{self.name}: app/{what} {app}: did not end within {seconds:g} s, killed"
                ) from None
        if how.code != 0:
            raise LaunchError(f"{self.name}: app/{what} {app}: ended with {how}")

    def _write_pod(self) -> None:
        manifest: dict[str, Any] = self.job.foreign.manifest
        more = [volume for app in self._added for volume in self._volumes.get(app, ())]
        tree.write_pod(
            self.job.pod_dir,
            {
                **manifest,
                "apps": [self._entries[app] for app in self._added],
                "volumes": [*manifest["volumes"], *more],
            },
        )

    async def run_ended(self, how: Ended) -> None:
        why = "its own failure, exit code 254" if how.code == FAILED else str(how)
        await self._gone(f"{self.name}: `run` ended, {why}")

    async def signal_app(self, app: str, signum: int) -> None:
        """`app/stop`. There is no more for one app: if one does not end after SIGKILL was asked for, its pod is
        killed.
        """
        self._check_runs(app)
        try:
            await self._call("stop", app)
        except LaunchError as error:
            if signum != signal.SIGKILL:
                raise
            log.warning("pod %s: %s", self.job.pod_dir.name, error)
        if signum == signal.SIGKILL and not await self._ends(app):
            await self._gone(f"{self.name}: {app} did not end when it was stopped; its pod was killed")

    async def _ends(self, app: str) -> bool:
        """Whether the status file says so, in the time that a forced stop has."""

        deadline = time.monotonic() + self.job.patience.force
        while app not in self._reported and time.monotonic() < deadline:
            self.look_at_statuses()
            await asyncio.wait([self.holder.died], timeout=self.job.patience.poll)
        return app in self._reported

    async def remove_app(self, app: str) -> None:
        """`app/stop` (of one that runs), `app/rm`, and everything it has written."""
        async with self._changing:
            if app not in self._added:
                return
            if app in self._started and app not in self._reported:
                await self._call("stop", app)
            await self._call("rm", app)
            top = str(self.job.pod_dir / ROOTFS)
            await self.holder.prepare([
                {"do": "unmount", "root": top, "path": f"opt/stage2/{app}/rootfs"},
                *({"do": "remove", "root": top, "path": path}
                  for path in (f"rkt/status/{app}", f"rkt/status/{app}-started", f"rkt/status/{app}-created",
                               f"rkt/env/{app}")),
            ])  # fmt: skip
            await asyncio.to_thread(tree.forget_app, self.job.pod_dir, app)
            self._added.remove(app)
            if app in self._started:
                self._started.remove(app)
            if self._volumes.pop(app, None) is not None:
                del self._entries[app]
            self._write_pod()


def _free(name: str, taken: set[str]) -> str:
    """This name, or one like it that no other volume has; it is taken then."""
    while name in taken:
        name += "-x"
    taken.add(name)
    return name
