"""`run` and `run-prepared`: a pod in the foreground, from its first app to its last.

The process holds the pod's lock, and the launcher with it: whatever is killed, the lock is free when the pod is dead,
and not before. appc's immutable pods: an app that fails takes the pod along, and its code is ours; when all have ended
well, 0; 254 for what goes wrong before. SIGTERM, SIGINT, SIGHUP and `stop` end it: each app gets its stop signal, ten
seconds later everything is killed; a second one does not wait.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from executor.pods.launcher import AppExit, Exec, Launcher, LaunchError, Sandbox
from executor.pods.poddir import Phase, PodDir
from executor.rkt import prepare
from executor.rkt.common import Globals, need_root, words
from executor.rkt.control import Server, status_of
from executor.rkt.flags import Failure
from executor.rkt.podflags import PodFlags
from executor.rkt.podmanifest import KVM, settle
from executor.rkt.pods import READY, STATUS, State, find
from executor.rkt.prepare import Making
from executor.rkt.streams import Output, Relay, journal_label

_GRACE: Final = 10.0  # seconds


def main(g: Globals, args: list[str]) -> int:
    """`run IMAGE…`."""
    flags = g.flags("[flags] IMAGE [flags] [-- ARGS… [---]] …")
    flags.text("uuid-file-save", "", "write the pod's UUID to this file")
    asked = PodFlags.add(flags, makes=True, runs=True)
    flags.parse(args, asked.apps.word, asked.apps.argument)
    asked.check(g)
    asked.check_running(g, len(asked.apps.apps))
    asked.flavor(g)
    making = prepare.new(g)
    if path := flags.values["uuid-file-save"]:
        try:
            Path(path).write_text(making.pod.name)
        except OSError as error:
            making.drop()
            raise Failure(f"error saving pod UUID to file: {path}: {error.strerror}") from None
    return asyncio.run(_run(g, asked, making, prepare.fill(g, asked, making)))


def prepared(g: Globals, args: list[str]) -> int:
    """`run-prepared UUID`."""
    from executor.rkt.end import take

    flags = g.flags("[flags] UUID")
    asked = PodFlags.add(flags, makes=False, runs=True)
    found = words(flags, args)
    if len(found) != 1:
        raise Failure("name a pod by its UUID")
    need_root()
    pod = find(g.pods, found[0])
    if pod.state is not State.PREPARED:
        raise Failure(f'pod "{pod.uuid}" is not prepared')
    asked.check_running(g, len(pod.apps()))
    try:
        making = Making(take(pod), pod.manifest())
    except FileNotFoundError:
        raise Failure(f'pod "{pod.uuid}" is not prepared any more') from None
    return asyncio.run(_run(g, asked, making, _hold(g, making)))


async def _hold(g: Globals, making: Making) -> None:
    """Take the images of a prepared pod again: whoever prepared it holds them no more. Failure when one is gone."""
    from executor.rkt.lookup import Finder

    finder = Finder(g, "never")
    for entry in making.manifest["apps"]:
        image, store = await finder.find(str(entry["image"]["id"]))
        pin = store.hold(image)
        making.holds.callback(pin.close)


async def _run(g: Globals, asked: PodFlags, making: Making, ready: Coroutine[Any, Any, None]) -> int:
    """Make the rest while the launcher starts, then run. Failure."""
    launching = asyncio.create_task(_launch(making.pod))
    launcher: Launcher | None = None
    await asyncio.sleep(0)  # it is started now, in parallel with what we import
    try:
        try:
            await ready
            _settle(asked, making)
            launcher = await launching
            making.pod.move(Phase.RUN)
        except BaseException:
            if making.pod.phase is not Phase.PREPARED:
                making.drop()
            raise
        with making.holds:
            return await _Foreground(g, making, launcher, interactive=asked.flags.is_on("interactive")).run()
    except LaunchError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{error.filename or making.pod.path}: {error.strerror}") from None
    finally:
        if launcher is None:
            with suppress(LaunchError, OSError):
                launcher = await launching
        if launcher is not None:
            await launcher.close()


async def _launch(pod: PodDir) -> Launcher:
    return await Launcher.start(spares=0, hold=(pod.lock,))


def _settle(asked: PodFlags, making: Making) -> None:
    """Write down how the pod is run: network, host name, files of /etc."""
    host = asked.network == "host"
    hostname = asked.flags.values["hostname"] or f"rkt-{making.pod.name}"
    settle(making.manifest, hostname="" if host else hostname, host_network="true" if host else "")
    making.pod.write_manifest(making.manifest)
    files = asked.etc(hostname)
    if files:
        etc = making.pod.path / "etc"
        etc.mkdir(exist_ok=True)
        for name, text in files.items():
            (etc / name).write_text(text)


class _Foreground:
    """One running pod and this process' streams."""

    def __init__(self, g: Globals, making: Making, launcher: Launcher, *, interactive: bool) -> None:
        self._g, self._pod, self._launcher = g, making.pod, launcher
        self._interactive = interactive
        self._flavor = next(
            n["value"] for n in making.manifest["annotations"] if n["name"] == "gantry.io/flavor"
        )
        self._entries: dict[str, dict[str, Any]] = {str(e["name"]): e for e in making.manifest["apps"]}
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
