"""A pod that runs as long as we do, from its first app to its last.

appc's immutable pods: an app that fails takes the pod along, and its code is ours; when all have ended well, 0.
SIGTERM, SIGINT, SIGHUP and `stop` end it: each app gets its stop signal, ten seconds later everything is killed; a
second one does not wait.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from executor.pods.launcher import AppExit, Exec, Launcher, LaunchError, Sandbox
from executor.rkt.common import Globals
from executor.rkt.control import Server, status_of
from executor.rkt.diagnose import NOT_THERE, missing
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import KVM
from executor.rkt.pods import READY, STATUS
from executor.rkt.prepare import Making
from executor.rkt.streams import Output, Relay, journal_label

_GRACE: Final = 10.0  # seconds


class Foreground:
    """One running pod and this process' streams."""

    def __init__(self, g: Globals, making: Making, launcher: Launcher, *, interactive: bool) -> None:
        self._g, self._pod, self._launcher = g, making.pod, launcher
        self._interactive = interactive
        self._flavor = next(
            n["value"] for n in making.manifest["annotations"] if n["name"] == "gantry.io/flavor"
        )
        self._entries: dict[str, dict[str, Any]] = {str(e["name"]): e for e in making.manifest["apps"]}
        self._volumes: list[dict[str, Any]] = making.manifest["volumes"]
        self._events: asyncio.Queue[AppExit | str | None] = asyncio.Queue()
        self._stops = 0
        self._stopped = asyncio.Event()
        self._pids: dict[str, int] = {}
        self._outputs: dict[str, Output] = {}
        self._relay: Relay | None = None
        self._sandbox: Sandbox | None = None

    async def run(self) -> int:
        """The exit code. LaunchError, Failure."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, self._stop, False)
        server: Server | None = None
        try:
            server = Server(self._pod.path, self._stop, self._execute)
            self._sandbox = await self._open()
            if self._sandbox is None:
                return 0
            self._note("pid", f"{self._sandbox.pid}\n")
            for name in self._entries:
                await self._start(name)
            ready = self._pod.path / READY
            ready.parent.mkdir(parents=True, exist_ok=True)
            ready.symlink_to("ready")
            return await self._follow()
        finally:
            if self._sandbox is not None:
                with suppress(LaunchError):
                    await self._sandbox.stop()
            for output in self._outputs.values():
                await output.finish()
            if self._relay is not None:
                await self._relay.close()
            if server is not None:
                await server.finish()

    async def _open(self) -> Sandbox | None:
        """Start the sandbox; None when the pod was stopped before it was there: a machine takes its time."""
        starting = asyncio.ensure_future(self._run_pod()(self._pod.path, self._events.put_nowait, self._gone))
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if starting.done():
            return starting.result()
        starting.cancel()
        await asyncio.wait([starting])
        return None

    def _note(self, name: str, text: str) -> None:
        """What stage1 writes down for `status`, of a pod whose stage1 is in a machine and writes there."""
        if self._flavor == KVM:
            path = self._pod.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _run_pod(self) -> Callable[..., Awaitable[Sandbox]]:
        """How pods of this flavor are started."""
        if self._flavor != KVM:
            return self._launcher.run_pod
        from executor.kvm.machines import Machines

        return Machines(self._launcher.run_pod, self._g.data).run_pod

    def _pid(self, name: str) -> int:
        return self._pids.get(name, 0)

    def _gone(self, reason: str) -> None:
        self._events.put_nowait(reason)

    def _stop(self, force: bool) -> None:
        self._stops += 2 if force else 1
        self._stopped.set()
        self._events.put_nowait(None)

    async def _execute(
        self, app: str, argv: list[str], streams: tuple[int, ...], environment: dict[str, str]
    ) -> Exec:
        if self._sandbox is None:
            raise LaunchError("the pod is not there yet")
        return await self._sandbox.exec(app, argv, streams=streams, environment=environment)

    async def _start(self, name: str) -> None:
        assert self._sandbox is not None
        self._note(f"{STATUS}/{name}-started", str(time.time()))
        if self._interactive and os.isatty(0):
            self._pids[name], master = await self._sandbox.start_terminal(name)
            self._relay = Relay(master)
            return
        label = journal_label(name, partial(self._pid, name)) if len(self._entries) > 1 else None
        output = self._outputs[name] = Output(label)
        stdin = 0 if self._interactive else None
        try:
            self._pids[name] = await self._sandbox.start_app(
                name, stdin=stdin, stdout=output.fds[0], stderr=output.fds[1]
            )
        except LaunchError as error:
            if (found := NOT_THERE.search(str(error))) is not None:
                path = missing(self._pod.path, self._entries[name], self._volumes, found[1])
                self._g.say(f'Error: Unable to open "{path}": No such file or directory')
            raise LaunchError(f"app {name}: {error}") from None
        finally:
            output.close_ours()

    async def _follow(self) -> int:
        """Until the last app has ended, one has failed, or somebody stops the pod. Failure when the pod just dies."""
        left = set(self._entries)
        while left:
            event = await self._events.get()
            if event is None:
                await self._end(left)
                return 0
            code = self._seen(event, left)
            if code:
                await self._end(left)
                return code
        return 0

    def _seen(self, event: AppExit | str, left: set[str]) -> int:
        """The exit code of an app that has ended."""
        if isinstance(event, str):
            raise Failure(f"the pod has died: {event}")
        left.discard(event.app)
        if event.oom_killed:
            self._g.say(f"app {event.app}: killed for want of memory")
        code = status_of(event.exit_code, event.signal)
        self._note(f"{STATUS}/{event.app}", str(code))
        return code

    async def _end(self, left: set[str]) -> None:
        """Ask the apps that still run to end, wait, as long as nobody asks again; the rest is killed by our caller."""
        assert self._sandbox is not None
        if self._stops > 1:
            return
        asked = self._stops
        for name in left:
            with suppress(LaunchError):  # it has just ended
                await self._sandbox.signal_app(name, self._stop_signal(name))
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while left and self._stops <= max(asked, 1):
                    event = await self._events.get()
                    if event is not None:
                        self._seen(event, left)

    def _stop_signal(self, name: str) -> int:
        from executor.pods.manifest import stop_signal

        notes = {note["name"]: note["value"] for note in self._entries[name].get("annotations") or ()}
        return stop_signal(str(notes.get("gantry.io/stop-signal", "")))
