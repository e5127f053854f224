"""A pod that runs as long as we do, from its first app to its last.

appc's immutable pods: an app that fails takes the pod along, and its code is ours; when all have ended well, 0.
SIGTERM, SIGINT, SIGHUP and `stop` end it: each app gets its stop signal, ten seconds later everything is killed; a
second one does not wait. Pods of `app sandbox` (`mutable`) only end so.

    start: pre-start handlers ─▶ the app ─▶ its exit ─▶ post-stop handlers ─▶ its end is an event of the loop here
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from executor.pods.launcher import AppExit, Launcher, LaunchError
from executor.pods.launcher import Sandbox as OwnSandbox
from executor.pods.ports import RunPod, Sandbox
from executor.rkt.activation import Activation
from executor.rkt.apps import MODES
from executor.rkt.appstreams import AppStreams, modes_of, notes_of, plain_log
from executor.rkt.common import Globals
from executor.rkt.control import Server, Session, Verb, follow, status_of
from executor.rkt.diagnose import NOT_THERE, missing
from executor.rkt.flags import Failure
from executor.rkt.notify import Listener, tell
from executor.rkt.podflags import sockets
from executor.rkt.podmanifest import KVM, flavor_of_pod, settle
from executor.rkt.pods import READY, STATUS
from executor.rkt.prepare import Making
from executor.rkt.stage1 import FOREIGN
from executor.rkt.streams import journal_label

if TYPE_CHECKING:
    from executor.metadata.client import Registration
    from executor.rkt.networks import Networks
    from executor.tpm.settings import TpmSettings

_GRACE: Final = 10.0  # seconds
_USUAL: Final = {(name, allowed[0]) for name, allowed in MODES.items()}


class Run:
    """One start of an app, from its pre-start handlers to its post-stop handlers."""

    streams: AppStreams

    def __init__(self) -> None:
        self.pid = 0
        self.handler: asyncio.Future[AppExit] | None = None
        """Of the event handler that runs in the app's place."""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit code, when nothing of it is left."""
        self.unwanted = False
        """It is not to be started any more."""


class Foreground:
    """One running pod and this process' streams."""

    lasting = False
    """The pod goes on when no app runs."""

    def __init__(
        self,
        g: Globals,
        making: Making,
        launcher: Launcher | None,
        *,
        interactive: bool,
        tpm: "TpmSettings | None" = None,
    ) -> None:
        self.g, self.pod, self.manifest, self.launcher = g, making.pod, making.manifest, launcher
        self._interactive, self.tpm = interactive, tpm
        self._flavor = flavor_of_pod(making.manifest)
        self._events: asyncio.Queue[AppExit | Exception | None] = asyncio.Queue()
        self._stops = 0
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.runs: dict[str, Run] = {}
        """Those that have not ended."""
        self.registration: Registration | None = None
        """With the metadata service."""
        self.networks: Networks | None = None
        self.image_files: dict[str, bool] = {}
        """As PodFlags.image_files."""
        self.sandbox: Sandbox | None = None
        self._listener: Listener | None = None
        self._activation = Activation(sockets() if self._flavor != FOREIGN else ())

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The apps of the manifest."""
        return {str(entry["name"]): entry for entry in self.manifest["apps"]}

    def verbs(self) -> dict[str, Verb]:
        """What other commands may ask for."""
        return {"stop": self._on_stop, "exec": self._on_exec, "attach": self._on_attach}

    async def run(self) -> int:
        """The exit code. LaunchError, Failure."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, self._stop, False)
        self._check()
        server: Server | None = None
        try:
            server = Server(self.pod.path, self.verbs())
            self._listener = Listener(self.pod.path, self.manifest)
            self.sandbox = await self._open()
            if self.sandbox is None:
                return 0
            await self._heed_dns(self.sandbox)
            self._note("pid", f"{self.sandbox.pid}\n")
            if self.registration is not None:
                await self.registration.open(self.sandbox)
            self._spawn(self._start_all())
            return await self._follow(set(self.entries))
        finally:
            if self.sandbox is not None:
                with suppress(LaunchError):
                    await self.sandbox.stop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for name in list(self.runs):
                await self._over(name, 128 + signal.SIGKILL)
            self._activation.close()
            if self.networks is not None:
                await self.networks.close()
            if self._listener is not None:
                self._listener.close()
            if self.registration is not None:
                await self.registration.close(self.pod.name)
            if server is not None:
                await server.finish()

    def _check(self) -> None:
        """What the apps' streams and sockets are to be. Failure."""
        for name, entry in self.entries.items():
            if set(modes_of(entry).items()) - _USUAL and self._interactive:
                raise Failure(
                    f"app {name}: --interactive and --stdin, --stdout, --stderr exclude one another"
                )
        if self._flavor != FOREIGN and not self.lasting:
            for line in self._activation.check(self.manifest):
                self.g.say(line)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the loop; what goes wrong with it is an event."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                self._events.put_nowait(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    async def _start_all(self) -> None:
        slow = [name for name in self.entries if self._handlers(name, "pre-start")]
        waited = [asyncio.create_task(self.start(name)) for name in slow]
        try:
            for name in self.entries:
                if name not in slow:
                    await self.start(name)
            await asyncio.gather(*waited)
        finally:
            for task in waited:
                task.cancel()
        if self._listener is not None:
            await self._listener.ready()
        ready = self.pod.path / READY
        ready.parent.mkdir(parents=True, exist_ok=True)
        ready.symlink_to("ready")
        tell("READY=1")

    async def _open(self) -> Sandbox | None:
        """Start the sandbox; None when the pod was stopped before it was there: a machine takes its time."""
        starting = asyncio.ensure_future(self._run_pod()(self.pod.path, self._on_exit, self._on_gone))
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
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """A file of the pod's."""
        path = self.pod.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _run_pod(self) -> Callable[..., Awaitable[Sandbox]]:
        """How pods of this flavor are started."""
        assert self.launcher is not None
        run: RunPod = (
            self.launcher.run_pod if self.networks is None else self.networks.around(self.launcher.run_pod)
        )
        if self._flavor != KVM:
            return run
        from executor.kvm.machines import Machines

        # This process may end before there is a calm moment: the first pod of a size waits for its template.
        return Machines(run, self.g.data, at_once=True).run_pod

    async def _heed_dns(self, sandbox: Sandbox) -> None:
        """Name servers that a network supplies go before those of images. LaunchError."""
        from executor.rkt.mutable import put_manifest

        if self.networks is None or not self.networks.supplied_dns or "resolv.conf" not in self.image_files:
            return
        del self.image_files["resolv.conf"]
        if self.tpm is not None:
            self.g.say("the images' own resolv.conf stays: the pod's manifest was measured with it")
            return
        for entry in self.manifest["apps"]:
            names = notes_of(entry).get("gantry.io/image-files", "").split()
            settle(entry, image_files=" ".join(name for name in names if name != "resolv.conf"))
        put_manifest(self.pod.path, self.manifest)
        if isinstance(sandbox, OwnSandbox):
            await sandbox.update()

    def _on_gone(self, reason: str) -> None:
        self._events.put_nowait(Failure(f"the pod has died: {reason}"))

    # -- apps ---------------------------------------------------------------------------------------------

    def _handlers(self, name: str, event: str) -> list[list[str]]:
        """The command lines of an app's event handlers."""
        handlers = self.entries[name]["app"].get("eventHandlers") or ()
        return [list(map(str, one["exec"])) for one in handlers if one["name"] == event]

    def modes(self, entry: dict[str, Any]) -> dict[str, str]:
        """How the streams of an app are to be. Failure."""
        return modes_of(entry)

    async def start(self, name: str) -> None:
        """Start an app, its pre-start handlers first: one that fails is the app's failure. LaunchError, Failure."""
        assert self.sandbox is not None
        entry = self.entries[name]
        modes = self.modes(entry)
        log = plain_log(self.manifest, entry) if "stream" in modes.values() else None
        labelled = self.lasting or len(self.entries) > 1
        run = self.runs[name] = Run()
        label = journal_label(name, lambda: run.pid) if labelled else None
        run.streams = AppStreams(modes, label, interactive=self._interactive, log=log)
        try:
            for argv in self._handlers(name, "pre-start"):
                code = await self._handle(run, name, argv)
                if code:
                    self.g.say(f"app {name}: its pre-start handler ended with {code}")
                    self.write(f"{STATUS}/{name}", f"{code}\n")
                if code or self._stops or run.unwanted:
                    self._events.put_nowait(AppExit(name, code, None, False, time.time()))
                    return
            self._note(f"{STATUS}/{name}-started", str(time.time()))
            sockets = self._activation.of(self.manifest, entry, self.sandbox.pid)
            run.pid = await run.streams.start(self.sandbox, name, sockets)
        except LaunchError as error:
            await self._over(name, 254)
            if (found := NOT_THERE.search(str(error))) is not None:
                path = missing(self.pod.path, self.entries[name], self.manifest["volumes"], found[1])
                self.g.say(f'Error: Unable to open "{path}": No such file or directory')
            raise LaunchError(f"app {name}: {error}") from None

    async def _handle(self, run: Run, name: str, argv: list[str]) -> int:
        """The exit code of an event handler."""
        assert self.sandbox is not None
        run.handler = asyncio.get_running_loop().create_future()
        try:
            await run.streams.handle(self.sandbox, name, argv)
            ended = await run.handler
            return status_of(ended.exit_code, ended.signal)
        finally:
            run.handler = None

    def _on_exit(self, ended: AppExit) -> None:
        """From the sandbox: an app, or an event handler in its place, has ended."""
        run = self.runs.get(ended.app)
        if run is not None and run.handler is not None:
            if not run.handler.done():
                run.handler.set_result(ended)
        elif run is not None and self._handlers(ended.app, "post-stop"):
            self._spawn(self._stop_handlers(run, ended))
        else:
            self._events.put_nowait(ended)

    async def _stop_handlers(self, run: Run, ended: AppExit) -> None:
        try:
            for argv in self._handlers(ended.app, "post-stop"):
                if code := await self._handle(run, ended.app, argv):
                    self.g.say(f"app {ended.app}: its post-stop handler ended with {code}")
        except LaunchError as error:
            self.g.say(f"app {ended.app}: its post-stop handler: {error}")
        self._events.put_nowait(ended)

    async def _over(self, name: str, code: int) -> None:
        run = self.runs.pop(name, None)
        if run is not None:
            await run.streams.finish()
            if not run.ended.done():
                run.ended.set_result(code)

    # -- the loop -----------------------------------------------------------------------------------------

    async def _follow(self, left: set[str]) -> int:
        """Until the last app has ended, one has failed, or somebody stops the pod. Failure when the pod just dies."""
        while left or self.lasting:
            event = await self._events.get()
            if event is None:
                await self._end()
                return 0
            code = await self._seen(event)
            left.discard(event.app if isinstance(event, AppExit) else "")
            if code and not self.lasting:
                await self._end()
                return code
        return 0

    async def _seen(self, event: AppExit | Exception) -> int:
        """The exit code of an app that has ended."""
        if isinstance(event, Exception):
            raise event
        if event.oom_killed:
            self.g.say(f"app {event.app}: killed for want of memory")
        code = status_of(event.exit_code, event.signal)
        self._note(f"{STATUS}/{event.app}", str(code))
        await self._over(event.app, code)
        return code

    def _stop(self, force: bool) -> None:
        self._stops += 2 if force else 1
        self._stopped.set()
        self._events.put_nowait(None)

    async def _end(self) -> None:
        """Ask the apps that still run to end, wait, as long as nobody asks again; the rest is killed by our caller."""
        tell("STOPPING=1")
        if self._stops > 1:
            return
        asked = self._stops
        for name in list(self.runs):
            with suppress(LaunchError):  # it has just ended
                await self.signal_stop(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while self.runs and self._stops <= max(asked, 1):
                    event = await self._events.get()
                    if event is not None:
                        await self._seen(event)

    async def signal_stop(self, name: str) -> None:
        """Tell an app to end, as it wants to be told. LaunchError."""
        from executor.pods.manifest import stop_signal

        assert self.sandbox is not None
        word = notes_of(self.entries[name]).get("gantry.io/stop-signal", "")
        await self.sandbox.signal_app(name, stop_signal(word))

    # -- what other commands ask for ----------------------------------------------------------------------

    async def _on_stop(self, session: Session) -> dict[str, Any]:
        self._stop(bool(session.message["force"]))
        return {"stopping": True}

    async def _on_exec(self, session: Session) -> dict[str, Any] | None:
        if self.sandbox is None:
            raise LaunchError("the pod is not there yet")
        message = session.message
        started = await self.sandbox.exec(
            str(message["app"]), list(message["argv"]), streams=tuple(session.fds),
            environment=dict(message.get("environment") or {}),
        )  # fmt: skip
        return await follow(session, started)

    async def _on_attach(self, session: Session) -> dict[str, Any] | None:
        name = str(session.message["app"])
        run = self.runs.get(name)
        if run is None or run.streams.mux is None:
            state = "does not run" if run is None else "has no --stdin, --stdout or --stderr=stream or =tty"
            raise Failure(f"app {name!r} {state}: there is nothing to attach to")
        mux = run.streams.mux
        if "wanted" not in session.message:
            return {"endpoints": mux.endpoints}
        attached = mux.attach(list(session.message["wanted"]))
        try:
            try:
                session.reply({"endpoints": list(attached.fds)}, list(attached.fds.values()))
            finally:
                for fd in attached.fds.values():
                    os.close(fd)
            await session.until_gone_or(run.ended)
        finally:
            if not run.ended.done():
                attached.close()
        return {"ended": True}
