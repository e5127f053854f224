"""The executor's side of stage1: asyncio calls to the launcher process (docs/stage1-interface.md).

Knows nothing of pods but their directories. Everything that runs dies with the launcher, and the launcher
with this process.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from executor.stage0.removal import remove_tree
from executor.stage1 import channel

log = logging.getLogger(__name__)

_CODE = "import sys; sys.path.insert(0, {!r}); from executor.stage1.__main__ import main; sys.exit(main(sys.argv[1:]))"
_START_SECONDS = 20.0
_CLOSE_SECONDS = 15.0


Sockets = Sequence[tuple[str, int]]
"""That listen: names (LISTEN_FDNAMES) and descriptors."""


class LaunchError(Exception):
    """A pod or an app could not be started or handled; the message names the operation that failed."""


@dataclass(frozen=True)
class AppExit:
    """How an app ended: an exit code or a signal; `finished_at` in seconds since the epoch."""

    app: str
    exit_code: int | None
    signal: int | None
    oom_killed: bool
    finished_at: float


class Calls(Protocol):
    """Whom a sandbox asks: the launcher here, or the one in a virtual machine (executor/kvm)."""

    @property
    def died(self) -> "asyncio.Future[Any]": ...
    async def call(self, do: str, pod: str, fds: tuple[int, ...] = (), **more: Any) -> dict[str, Any]: ...
    def runs(self, key: str) -> bool: ...
    def forget(self, key: str) -> None: ...


class Exec:
    """One more program in a running app. `terminal`: the master side, the caller's to close, or None."""

    def __init__(self, launcher: Calls, pod: str, number: int, pid: int, terminal: int | None) -> None:
        self._launcher = launcher
        self._pod = pod
        self._number = number
        self.pid = pid
        self.terminal = terminal
        self.ended: asyncio.Future[tuple[int | None, int | None]] = asyncio.get_running_loop().create_future()
        """Exit code or signal. SIGKILL too when the pod, or the launcher, ended with it."""

    async def signal(self, signum: int) -> None:
        """Signal it; no error when it has ended."""
        if not self.ended.done():
            await self._launcher.call("signal", self._pod, exec=self._number, signum=int(signum))


class Launcher:
    """The launcher process. Use it from one event loop, in the thread that outlives it (PR_SET_PDEATHSIG)."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self.pid = process.pid
        self.died: asyncio.Future[int] = self._loop.create_future()
        """Done, with the exit status as `subprocess` gives it, when the launcher has ended: all pods are dead."""

    @classmethod
    async def start(
        cls,
        *,
        spares: int = 1,
        hold: tuple[int, ...] = (),
        lists: bool = True,
        points: Path | None = None,
        memory: Path | None = None,
    ) -> "Launcher":
        """Start the launcher; raises LaunchError with what is missing (not root, no overlay, …).

        `spares` sandboxes and starters are there ahead of need; 0 saves their memory (a few MiB). `hold`: descriptors
        that stay open in the launcher, and in nothing it starts, for as long as it lives. `lists` off: pods are started
        as on machines for which stage1 has no program that executes lists of system calls; slower. `points`: a
        directory, best where the images are, in which places for mounts are made once for all pods (stage1/points.py).
        `memory`: a cgroup of the hierarchy of that name which the launcher, and so every pod, is to be in.
        """
        ours, theirs = channel.pair()
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-I", "-S", "-c", _CODE.format(root)]
        command += ["--fd", str(theirs.fileno()), "--parent", str(os.getpid()), "--spares", str(spares)]
        command += [] if lists else ["--lists", "0"]
        command += [] if points is None else ["--points", str(points.absolute())]
        command += [] if memory is None else ["--memory", str(memory)]
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; asyncio's own would add a watcher thread
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *hold],
                start_new_session=True,
                env={},
            )
        self = cls(process, ours)
        ours.setblocking(False)
        greeting = self._loop.create_future()
        self._pending[0] = greeting
        self._loop.add_reader(ours.fileno(), self._on_readable)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await greeting
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise LaunchError(f"the launcher was not ready after {_START_SECONDS:.0f} s") from None
            raise
        return self

    async def run_pod(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> "Sandbox":
        """Start the sandbox of a prepared pod directory: namespaces, cgroups, init; no app yet.

        `on_exit` is called for every app that ends; `on_gone(reason)` once if the sandbox ends without stop().
        """
        key = str(pod_dir)
        if key in self._sandboxes:
            raise LaunchError(f"run {key}: this pod runs already")
        sandbox = self._sandboxes[key] = Sandbox(self, pod_dir, on_exit, on_gone)
        try:
            reply = await self.call("run", key)
        except BaseException:
            self._sandboxes.pop(key, None)
            raise
        sandbox.pid = reply["pid"]
        return sandbox

    async def close(self) -> None:
        """Kill every pod, remove their cgroups, end the launcher."""
        if self._control.fileno() >= 0:
            self._control.shutdown(socket.SHUT_WR)
            try:
                await asyncio.wait_for(asyncio.shield(self.died), _CLOSE_SECONDS)
            except TimeoutError:
                log.warning("launcher %d does not end, killing it", self.pid)
                self._process.kill()
                await self.died

    async def call(self, do: str, pod: str, fds: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
        """One request to the launcher; raises LaunchError. "fds" of the answer are the caller's to close."""
        if self.died.done() or self._control.fileno() < 0:
            raise LaunchError(f"{do}: the launcher has ended")
        self._sequence += 1
        number = self._sequence
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._pending[number] = future
        try:
            channel.send_json(self._control, {"id": number, "do": do, "pod": pod, **more}, fds)
            return await future
        except OSError as error:
            raise LaunchError(f"{do}: the launcher does not answer: {error.strerror}") from None
        finally:
            self._pending.pop(number, None)

    def _on_readable(self) -> None:
        try:
            message, fds = channel.receive_json(self._control)
        except BlockingIOError:
            return
        except OSError:
            message, fds = None, []
        if message is None:
            self._on_end()
        else:
            self._on_message(message, fds)

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        if "event" in message:
            sandbox = self._sandboxes.get(message["pod"])
            if sandbox is not None:
                sandbox.on_event(message)
            if message["event"] == "gone":
                self._sandboxes.pop(message["pod"], None)
            return
        future = self._pending.pop(message.get("id", 0), None)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
            return
        if "error" in message:
            future.set_exception(LaunchError(message["error"]))
        else:
            future.set_result({**message, "fds": fds})

    def _on_end(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(LaunchError("the launcher has ended"))
        sandboxes, self._sandboxes = self._sandboxes, {}
        for sandbox in sandboxes.values():
            sandbox.on_event({"event": "gone", "reason": "the launcher has ended"})
        self._reap()

    def _reap(self) -> None:
        """Its socket closed, so the process is about to end; asked again until it has."""
        status = self._process.poll()
        if status is None:
            self._loop.call_later(0.005, self._reap)
        elif not self.died.done():
            self.died.set_result(status)

    def runs(self, key: str) -> bool:
        """Whether the launcher has not said yet that this pod is gone."""
        return key in self._sandboxes

    def forget(self, key: str) -> None:
        """A sandbox was stopped."""
        self._sandboxes.pop(key, None)


class Sandbox:
    """A running pod: shared pid, ipc, uts and network namespaces (flavor linux), apps that come and go."""

    def __init__(
        self,
        launcher: Calls,
        pod_dir: Path,
        on_exit: Callable[[AppExit], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._launcher = launcher
        self._pod_dir = pod_dir
        self._key = str(pod_dir)
        self._on_exit = on_exit
        self._on_gone = on_gone
        self._stopping = False
        self._removals = 0
        self._execs: dict[int, Exec] = {}
        self._early: dict[int, tuple[int | None, int | None]] = {}
        self.pid = -1
        """Of the pod's init, on the host; -1 when it is the pod's no more: it may be another's (stage1/reuse.py)."""

    async def start_app(
        self, app: str, *, stdin: int | None, stdout: int, stderr: int, sockets: Sockets = ()
    ) -> int:
        """Start an app; returns the host pid of its main process once its program has been executed.

        Raises LaunchError when that fails ("exec /bin/nope: No such file or directory"). The descriptors stay
        the caller's; without `stdin` it is /dev/null. `sockets`: those that it gets as from systemd.
        """
        fds = (stdout, stderr) if stdin is None else (stdin, stdout, stderr)
        return int((await self._start(app, fds, sockets))["pid"])

    async def _start(self, app: str, streams: tuple[int, ...], sockets: Sockets) -> dict[str, Any]:
        more = {"sockets": [name for name, _ in sockets]} if sockets else {}
        fds = (*streams, *(fd for _, fd in sockets))
        return await self._launcher.call("start", self._key, fds, app=app, **more)

    async def start_handler(self, app: str, argv: Sequence[str], *, stdout: int, stderr: int) -> int:
        """As `start_app`, but an event handler of the app (appc) instead of its program; it ends as the app would."""
        fds = (stdout, stderr)
        reply = await self._launcher.call("start", self._key, fds, app=app, argv=list(argv))
        return int(reply["pid"])

    async def start_terminal(self, app: str, sockets: Sockets = ()) -> tuple[int, int]:
        """Start an app on a terminal of its own; the host pid and the master side, which is the caller's."""
        reply = await self._start(app, (), sockets)
        return int(reply["pid"]), int(reply["fds"][0])

    async def exec(
        self,
        app: str,
        argv: Sequence[str],
        *,
        streams: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "",
    ) -> Exec:
        """Run one more program in a running app, as that app: same user, rights, cgroup, namespaces, environment.

        `streams` are (stdin, stdout, stderr), (stdout, stderr), or nothing for a terminal. Raises LaunchError when
        the app does not run, or the program cannot be executed.
        """
        more: dict[str, Any] = {"environment": dict(environment)} if environment else {}
        more |= {"directory": directory} if directory else {}
        reply = await self._launcher.call("exec", self._key, streams, app=app, argv=list(argv), **more)
        fds = reply["fds"]
        made = Exec(self._launcher, self._key, reply["exec"], reply["pid"], fds[0] if fds else None)
        self._execs[reply["exec"]] = made
        # Its end may have been told with the answer, before we knew of it.
        early = self._early.pop(reply["exec"], None)
        if early is not None:
            self._end_exec(reply["exec"], early)
        elif not self._launcher.runs(self._key):
            self._end_exec(reply["exec"], (None, signal.SIGKILL))
        return made

    def _end_exec(self, number: int, how: tuple[int | None, int | None]) -> None:
        made = self._execs.pop(number, None)
        if made is None:
            self._early[number] = how
        elif not made.ended.done():
            made.ended.set_result(how)

    def _end_execs(self) -> None:
        for number in list(self._execs):
            self._end_exec(number, (None, signal.SIGKILL))

    async def signal_app(self, app: str, signum: int) -> None:
        """Signal the app's main process; with SIGKILL all of its processes. LaunchError if it does not run."""
        await self._launcher.call("signal", self._key, app=app, signum=int(signum))

    async def remove_app(self, app: str) -> None:
        """Forget a dead app's cgroup and everything it wrote to its root: the next start is a fresh one."""
        await self._launcher.call("remove", self._key, app=app)
        overlay = self._pod_dir / "overlay" / app
        self._removals += 1
        trash = overlay.with_name(f".{app}.{self._removals}")
        if overlay.exists():
            overlay.rename(trash)
        for name in ("upper", "work"):
            (overlay / name).mkdir(parents=True)
        if trash.exists():
            await asyncio.to_thread(remove_tree, trash)

    async def update(self) -> None:
        """The apps of the pod are those that its manifest has now; all else of it has to be as it was. LaunchError."""
        await self._launcher.call("update", self._key)

    async def stop(self) -> None:
        """Kill everything in the pod; returns when no process, mount or cgroup of it is left. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        pid, self.pid = self.pid, -1
        try:
            await self._launcher.call("stop", self._key)
        except LaunchError:
            if not self._launcher.died.done() and self._launcher.runs(self._key):
                self._stopping, self.pid = False, pid
                raise
        self._launcher.forget(self._key)
        self._end_execs()

    def on_event(self, event: dict[str, Any]) -> None:
        """From the launcher: {"event": "exit" | "exec-exit" | "gone", …}."""
        if event["event"] == "exec-exit":
            self._end_exec(event["exec"], (event["code"], event["signal"]))
            return
        if event["event"] == "gone":
            self.pid = -1
            self._end_execs()
        if event["event"] == "exit":
            self._on_exit(
                AppExit(event["app"], event["code"], event["signal"], bool(event["oom"]), float(event["at"]))
            )
        elif not self._stopping:
            self._on_gone(event["reason"])
