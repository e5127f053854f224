"""A pod in a virtual machine, as the runner sees it: the calls of any sandbox, answered by the guest's launcher."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from executor.kvm import pulse
from executor.kvm.changes import Changes
from executor.kvm.guest import frames
from executor.kvm.wire import Stream, Wire
from executor.pods import ports
from executor.pods.launcher import AppExit, LaunchError, Sandbox
from executor.stage0.removal import remove_tree

log = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = 10.0
_CONNECTIONS: Final = 64
"""That a machine may have begun; it keeps to fewer by itself (executor/kvm/guest/ports.py)."""


class _Asked(NamedTuple):
    """A request that waits for its answer."""

    answer: asyncio.Future[dict[str, Any]]
    streams: list[Stream]
    do: str
    app: str


class Guest:
    """Calls to the launcher in one machine: what `executor.pods.launcher.Launcher` is for the one on the host."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._pending: dict[int, _Asked] = {}
        self._outputs: dict[tuple[str, str | int], list[Stream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: dict[int, Callable[[], socket.socket]] = {}
        self._over = ""
        self.wire: Wire | None = None
        self.sockets: dict[str, str] = {}
        """By their names, those of the host that get the datagrams which apps send to theirs."""
        self.pid = -1
        self.on_event: Callable[[dict[str, Any]], None] = lambda _: None
        self.on_lost: Callable[[str], None] = lambda _: None
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done when its launcher waits for a pod."""
        self._pulse: asyncio.Task[None] | None = None
        self.died: asyncio.Future[None] = self._loop.create_future()

    async def call(self, do: str, pod: str, fds: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
        """One request; raises LaunchError. `fds` stay the caller's; "fds" of the answer are the caller's to close."""
        if self.wire is None or self._over:
            raise LaunchError(f"{do}: {self._over or 'the machine has not started'}")
        if more.get("sockets"):
            raise LaunchError(f"{do}: a machine takes no sockets of the host's")
        streams, masters = [], []
        if do in ("start", "exec"):
            if fds:
                streams = self.wire.carry(fds)
            else:
                stream, master = self.wire.terminal()
                streams, masters = [stream], [master]
        try:
            reply = await self._ask(self.wire, do, streams, pod=pod, **more)
        except BaseException:
            for master in masters:
                os.close(master)
            raise
        return {**reply, "pid": self.pid, "fds": masters}

    def watch(self, pod: str, seconds: float) -> None:
        """From now on it is lost, too, when it does not answer any more; instead of what was said before."""
        if self._pulse is not None:
            self._pulse.cancel()
        self._pulse = self._loop.create_task(pulse.watch(lambda: self.call("ping", pod), self.lost, seconds))

    async def connect(self, address: str, port: int) -> socket.socket:
        """A connection that is made in the pod's network; the other end of it is in the guest. Raises OSError."""
        if self.wire is None or self._over:
            raise ConnectionError(self._over or "the machine has not started")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        stream = self.wire.connection(theirs)
        try:
            await self._ask(self.wire, "connect", [stream], address=address, port=port)
        except LaunchError as error:
            ours.close()
            raise OSError(str(error)) from None
        except BaseException:
            ours.close()
            raise
        return ours

    async def listen(self, port: int, connect: Callable[[], socket.socket]) -> None:
        """Before any app that is started later: see `executor.metadata.doors.Relaying`. Raises LaunchError."""
        if self.wire is None:
            raise LaunchError("the machine has not started")
        self._listening[port] = connect
        try:
            await self._ask(self.wire, "listen", [], port=port)
        except OSError as error:
            raise LaunchError(f"listen in the machine on 127.0.0.1:{port}: {error.strerror}") from None

    def _take(self, port: int, number: int) -> None:
        """Somebody in the guest has connected; what that says comes next. Raises ValueError: the guest does wrong."""
        if self.wire is None:
            raise ValueError("a connection comes before the pod")
        streams = self.wire.streams
        if not frames.OWN <= number < 2 * frames.OWN or number in streams:
            raise ValueError(f"a connection has the number {number}")
        if sum(one >= frames.OWN for one in streams) >= _CONNECTIONS:
            log.info("a connection to port %d of a machine is one too many", port)
            self.wire.refuse(number)
            return
        try:
            stream = self.wire.connection(self._listening[port](), number)
        except (OSError, KeyError) as error:
            log.info("a connection to port %d of a machine is not answered: %s", port, error)
            self.wire.refuse(number)
            return
        stream.start()

    async def _ask(self, wire: Wire, do: str, streams: list[Stream], **more: Any) -> dict[str, Any]:
        """The answer, with which the streams begin; an error ends them. Raises LaunchError; OSError is the guest's."""
        self._sequence += 1
        number = self._sequence
        if streams:
            more["streams"] = [[stream.kind, stream.number] for stream in streams]
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._pending[number] = _Asked(future, streams, do, str(more.get("app", "")))
        try:
            wire.send(frames.message({"id": number, "do": do, **more}))
            return await future
        except BaseException:
            for stream in streams:
                stream.abandon()
            raise
        finally:
            self._pending.pop(number, None)

    def on_message(self, message: dict[str, Any]) -> None:
        """From the guest. In the order it comes: an exit is told after the start that it ends."""
        if "event" in message:
            if message["event"] == "datagram":
                if message["name"] in self.sockets:
                    _deliver(self.sockets[message["name"]], str(message["text"]).encode("latin-1"))
                return
            if message["event"] == "connection":
                self._take(int(message["port"]), int(message["stream"]))
                return
            task = self._loop.create_task(self._tell(message, self._claim(message)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        if "ready" in message:
            self._greet(message)
            return
        asked = self._pending.get(message.get("id", 0))
        if asked is None or asked.answer.done():
            return
        if "errno" in message:
            asked.answer.set_exception(OSError(int(message["errno"]), os.strerror(int(message["errno"]))))
            return
        if "error" in message:
            asked.answer.set_exception(LaunchError(str(message["error"])))
            return
        if asked.do == "exec":
            self._outputs["exec", int(message["exec"])] = asked.streams
        elif asked.do == "start":
            self._outputs["app", asked.app] = asked.streams
        for stream in asked.streams:
            stream.start()
        asked.answer.set_result(message)

    def lost(self, reason: str) -> None:
        """The machine has ended, or its wire. Once."""
        if self._over:
            return
        self._over = reason
        if self._pulse is not None:
            self._pulse.cancel()
        for asked in list(self._pending.values()):
            if not asked.answer.done():
                asked.answer.set_exception(LaunchError(reason))
        if not self.ready.done():
            self.ready.set_exception(LaunchError(reason))
            self.ready.exception()  # whether or not somebody waits
        if not self.died.done():
            self.died.set_result(None)
        self.on_lost(reason)

    def runs(self, key: str) -> bool:
        """Whether the pod may still run."""
        return not self._over

    def forget(self, key: str) -> None:
        """Its sandbox was stopped."""

    def _greet(self, message: dict[str, Any]) -> None:
        if self.ready.done():
            return
        if message["ready"]:
            self.ready.set_result(None)
        else:
            self.ready.set_exception(LaunchError(f"in the machine: {message.get('error')}"))

    def _claim(self, message: dict[str, Any]) -> list[Stream]:
        if message["event"] == "exit":
            return self._outputs.pop(("app", str(message["app"])), [])
        if message["event"] == "exec-exit":
            return self._outputs.pop(("exec", int(message["exec"])), [])
        return []

    async def _tell(self, message: dict[str, Any], streams: list[Stream]) -> None:
        """An exit, when all output is where it belongs: on the host the log has it by then, too."""
        waiting = [stream.done for stream in streams if stream.kind != "in"]
        if waiting:
            await asyncio.wait(waiting, timeout=_DRAIN_SECONDS)
        for stream in streams:
            stream.abandon()
        self.on_event(message)


def _deliver(path: str, data: bytes) -> None:
    """Whoever does not listen, or is too slow, misses it. By way of a descriptor: an address has 108 bytes."""
    try:
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        log.info("what an app says to %s is not heard: %s", path, error)
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(data, f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError as error:
        log.info("what an app says to %s is not heard: %s", path, error)
    finally:
        os.close(directory)


class KvmSandbox(Sandbox):
    """A running pod in a machine of its own. host: the sandbox in which that machine runs."""

    def __init__(
        self,
        guest: Guest,
        host: ports.Sandbox,
        pod_dir: Path,
        on_exit: Callable[[AppExit], None],
        on_gone: Callable[[str], None],
    ) -> None:
        super().__init__(guest, pod_dir, on_exit, on_gone)
        self._guest = guest
        self._host = host
        self.pid = guest.pid = host.pid
        self._changes: Changes | None = None
        guest.on_event = self._on_guest_event

    def watch(self, seconds: float = pulse.ASK_SECONDS) -> None:
        """From now on the machine has ended, too, when it does not answer any more (executor/kvm/pulse.py)."""
        self._guest.watch(self._key, seconds)

    def take_apps(self, changes: Changes, manifests: Callable[[dict[str, Any]], dict[str, str]]) -> None:
        """Apps may come later, and go. manifests: files for the guest's launcher."""
        self._changes = changes
        self._manifests = manifests

    async def update(self) -> None:
        """As `Sandbox.update`; all at once or not at all. Raises LaunchError."""
        if self._changes is None:
            raise LaunchError("a machine takes apps later only if it was started without any")
        well = False
        pod = await self._changes.begin()
        try:
            await self._guest.call("update", self._key, files=self._manifests(pod))
            well = True
        finally:
            await self._changes.end(well=well)

    async def dial(self, address: str, port: int) -> socket.socket:
        """As `netns.Dialling` says."""
        return await self._guest.connect(address, port)

    async def relay(self, port: int, connect: Callable[[], socket.socket]) -> None:
        """As `executor.metadata.doors.Relaying` says. Raises LaunchError."""
        await self._guest.listen(port, connect)

    async def remove_app(self, app: str) -> None:
        """Forget a dead app: its cgroup, which is in the machine, and what it wrote to its root."""
        await self._guest.call("remove", self._key, app=app)
        # The guest has moved that out of its own way; it is removed here, where that is quicker.
        for trash in (self._pod_dir / "overlay").glob(f".{app}.*"):
            await asyncio.to_thread(remove_tree, trash)

    async def stop(self) -> None:
        """End the machine; returns when no process, mount or cgroup of it is left. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        self._guest.on_lost = lambda _: None
        self._guest.lost("the pod was stopped")
        if self._guest.wire is not None:
            self._guest.wire.close("the pod was stopped")
        try:
            await self._host.stop()
        except LaunchError:
            self._stopping = False
            raise
        self._end_execs()

    def _on_guest_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "gone":  # the pod in the machine has ended by itself: so has the machine
            self._guest.lost(f"in the machine: {event['reason']}")
        else:
            self.on_event(event)
