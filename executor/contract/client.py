"""The executor's side of a holder: one process, its requests, and the programs that it has started."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.pods.launcher import LaunchError
from executor.stage1 import cgroups, channel

log = logging.getLogger(__name__)

_CODE: Final = (
    "import sys; sys.path.insert(0, {!r}); from executor.contract.holder import main; "
    "sys.exit(main(sys.argv[1:]))"
)
_CLOSE_SECONDS: Final = 10.0
_KILL_ROUNDS: Final = 500
_KEPT_OUTPUT: Final = 4096
ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code or the signal; `output`: the end of what it wrote, if that was caught."""

    code: int | None
    signal: int | None
    output: str = ""

    def __str__(self) -> str:
        how = f"exit code {self.code}" if self.signal is None else signal.Signals(self.signal).name
        last = self.output.strip().rpartition("\n")[2].strip()
        return f"{how}: {last}" if last else how


@contextmanager
def new_terminal() -> Iterator[tuple[int, int]]:
    """The master side, the caller's to close afterwards if nothing goes wrong, and the slave side, for a program."""
    master, slave = os.openpty()
    with ExitStack() as undo:
        undo.callback(os.close, master)
        try:
            yield master, slave
        finally:
            os.close(slave)
        undo.pop_all()


def ended(status: int) -> Ended:
    """From a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, None) if code >= 0 else Ended(None, -code)


class Program:
    """One that the holder has started. `ended`: done when its process has ended, with or without the holder."""

    def __init__(self, holder: "Holder", pid: int) -> None:
        self._holder = holder
        self.pid = pid
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    async def signal(self, signum: int, *, group: bool = False) -> None:
        """No error when it has ended."""
        if not self.ended.done():
            with suppress(LaunchError):
                await self._holder.call("signal", pid=self.pid, signum=int(signum), group=group)


class Holder:
    """A holder process and the cgroup of its pod. Use it from one event loop."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", control: socket.socket, cgroup: cgroups.PodCgroup
    ) -> None:
        self._process = process
        self._control = control
        self._cgroup = cgroup
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._programs: dict[int, Program] = {}
        self._early: dict[int, int] = {}
        self._spawning = 0
        self.died: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def start(cls, pod_dir: Path, cgroup: cgroups.PodCgroup, lock: int | None) -> "Holder":
        """Start it, in the pod's directory. The cgroup is there; it goes with `close`. Raises LaunchError."""
        ours, theirs = channel.pair()
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-I", "-S", "-c", _CODE.format(root), str(theirs.fileno())]
        keep = [theirs.fileno()]
        if lock is not None:
            command.append(str(lock))
            keep.append(lock)
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; asyncio's own would add a watcher thread
                command, stdin=subprocess.DEVNULL, pass_fds=keep, start_new_session=True, env={}
            )
        self = cls(process, ours, cgroup)
        ours.setblocking(False)
        self._loop.add_reader(ours.fileno(), self._on_readable)
        layout = cgroup.layout
        name = cgroup.name.removeprefix(cgroups.PREFIX)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self.call("begin", pod=str(pod_dir), cgroup=[layout.version, layout.base, name])
            undo.pop_all()
        return self

    async def prepare(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Make and mount. Raises LaunchError with the step that failed."""
        await self.call("prepare", steps=list(steps))

    async def anchor(self, root: Path, pid: int | None) -> int:
        """The pid of a process whose root, in the pod's mounts, is `root`, and whose network is that of `pid`. One."""
        return int((await self.call("anchor", root=str(root), pid=pid))["pid"])

    async def spawn(
        self,
        argv: Sequence[str],
        streams: tuple[int, ...],
        *,
        environment: Mapping[str, str] = ENVIRONMENT,
        lock: bool = False,
        terminal: bool = False,
        rlimits: Sequence[tuple[int, int, int]] = (),
        listening: tuple[int, ...] = (),
    ) -> Program:
        """Start a program in the pod's mounts, cgroup and directory. streams: [stdin,] stdout, stderr; they stay the
        caller's. lock: it inherits the pod's lock. listening: sockets that it gets as from systemd.
        Raises LaunchError."""
        self._spawning += 1
        try:
            reply = await self.call(
                "spawn", (*streams, *listening), argv=list(argv), environment=dict(environment), lock=lock,
                terminal=terminal, rlimits=list(rlimits), listening=len(listening),
            )  # fmt: skip
            program = Program(self, reply["pid"])
            self._programs[program.pid] = program
            # Its end may have been told with the answer, before we knew of it.
            if program.pid in self._early:
                self._end(program.pid, self._early[program.pid])
            elif self.died.done():
                program.ended.set_result(Ended(None, signal.SIGKILL))
            return program
        finally:
            self._spawning -= 1
            if not self._spawning:
                self._early.clear()

    async def run(
        self, argv: Sequence[str], *, seconds: float, environment: Mapping[str, str] = ENVIRONMENT
    ) -> Ended:
        """Run a program to its end and keep the end of its output. LaunchError when it cannot be started, or takes
        longer: then it is killed."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        kept = bytearray()

        def read() -> None:
            with suppress(BlockingIOError):
                data = os.read(reading, 65536)
                kept.extend(data)
                del kept[:-_KEPT_OUTPUT]
                if not data:
                    self._loop.remove_reader(reading)

        self._loop.add_reader(reading, read)
        try:
            try:
                program = await self.spawn(argv, (writing, writing), environment=environment)
            finally:
                os.close(writing)
            try:
                async with asyncio.timeout(seconds):
                    how = await asyncio.shield(program.ended)
            except TimeoutError:
                await program.signal(signal.SIGKILL, group=True)
                raise LaunchError(f"{argv[0]}: did not end within {seconds:g} s, killed") from None
            await asyncio.sleep(0)
            read()
            return Ended(how.code, how.signal, kept.decode(errors="replace"))
        finally:
            self._loop.remove_reader(reading)
            os.close(reading)

    async def call(self, do: str, fds: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
        """One request. Raises LaunchError."""
        if self.died.done():
            raise LaunchError(f"{do}: the pod's holder has ended")
        self._sequence += 1
        number = self._sequence
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._pending[number] = future
        try:
            channel.send_json(self._control, {"id": number, "do": do, **more}, fds)
            return await future
        except OSError as error:
            raise LaunchError(f"{do}: the pod's holder does not answer: {error.strerror}") from None
        finally:
            self._pending.pop(number, None)

    async def kill(self) -> None:
        """Kill every process of the pod; returns when there is none. LaunchError when they cannot be killed."""
        for _ in range(_KILL_ROUNDS):
            if self._cgroup.kill():
                return
            await asyncio.sleep(0.01)
        raise LaunchError("processes of the pod do not die")

    async def close(self) -> None:
        """Kill the pod, end the holder, remove the cgroup. Idempotent. LaunchError when something is left."""
        await self.kill()
        if self._control.fileno() >= 0:
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await asyncio.shield(self.died)
            except TimeoutError:
                log.warning("the pod's holder %d does not end, killing it", self._process.pid)
                self._process.kill()
                await self.died
        for _ in range(_KILL_ROUNDS):
            if self._cgroup.remove():
                return
            await asyncio.sleep(0.01)
        raise LaunchError(f"cgroup {self._cgroup.name} cannot be removed: something is in it")

    def _on_readable(self) -> None:
        while True:
            try:
                message, _ = channel.receive_json(self._control)
            except BlockingIOError:
                return
            except OSError:
                message = None
            if message is None:
                self._on_end()
                return
            if "event" in message:
                self._end(message["pid"], message["status"])
                continue
            future = self._pending.pop(message["id"], None)
            if future is None or future.done():
                continue
            if "error" in message:
                future.set_exception(LaunchError(message["error"]))
            else:
                future.set_result(message)

    def _end(self, pid: int, status: int) -> None:
        program = self._programs.pop(pid, None)
        if program is None:
            if self._spawning:
                self._early[pid] = status
        elif not program.ended.done():
            program.ended.set_result(ended(status))

    def _on_end(self) -> None:
        """The holder has gone, and with it (by the kernel) what it had started; the rest is killed here."""
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        with suppress(OSError):
            self._cgroup.kill()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(LaunchError("the pod's holder has ended"))
        self._reap()

    def _reap(self) -> None:
        if self._process.poll() is None:
            self._loop.call_later(0.005, self._reap)
            return
        if not self.died.done():
            self.died.set_result(None)
        programs, self._programs = self._programs, {}
        for program in programs.values():
            if not program.ended.done():
                program.ended.set_result(Ended(None, signal.SIGKILL))
