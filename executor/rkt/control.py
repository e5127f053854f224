"""How other commands reach the process that runs a pod: a socket in the pod's directory, root's alone.

    {"do": "stop", "force": bool}                            → {"stopping": true}
    {"do": "exec", "app", "argv", "environment"} + streams   → {"pid"}, in the end {"code"}
    {"do": "exec", …} without streams: a terminal            → {"pid"} with its master side, in the end {"code"}
    {"do": "attach", "app"}                                  → {"endpoints"}
    {"do": "attach", "app", "wanted": […]}                   → {"endpoints"}, a descriptor each; in the end {"ended"}
    {"do": "app-add"|"app-start"|"app-stop"|"app-rm", "app"} → {}: pods of `app sandbox` (mutable)

One request a connection; SOCK_SEQPACKET, JSON, descriptors beside it (executor/stage1/channel). Who goes takes what it
has started along: an end of the connection kills that. Failures are {"error": TEXT}.
"""

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from executor.rkt.flags import Failure
from executor.stage1 import channel

SOCKET: Final = "control"
_ANSWER_SECONDS: Final = 10.0
_FORCE_SECONDS: Final = 2.0


class Unreachable(Failure):
    """Nobody listens: the pod is just beginning, or ending."""


def connect(pod: Path) -> socket.socket:
    """To the process that runs a pod. Failure. The path may be longer than an address can be."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(pod, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{SOCKET}")
        finally:
            os.close(directory)
    except OSError as error:
        sock.close()
        raise Unreachable(
            f"pod {pod.name}: the process that runs it cannot be reached: {error.strerror}"
        ) from None
    return sock


def ask(pod: Path, what: str, **message: Any) -> dict[str, Any]:
    """One request, and its answer when it has been done. Failure."""
    with connect(pod) as sock:
        try:
            channel.send_json(sock, {"do": what, **message})
            answer, _ = channel.receive_json(sock)
        except OSError:
            answer = None
    if answer is None:
        raise Failure(f"pod {pod.name} has ended")
    if "error" in answer:
        raise Failure(str(answer["error"]))
    return answer


def stop(pod: Path, *, force: bool) -> None:
    """Ask for the end of a pod; with `force`, whoever runs it is killed, and so the pod, when it does not answer."""
    with connect(pod) as sock:
        sock.settimeout(_FORCE_SECONDS if force else _ANSWER_SECONDS)
        try:
            channel.send_json(sock, {"do": "stop", "force": force})
            answer, _ = channel.receive_json(sock)
        except OSError:
            if not force:
                raise Failure(f"pod {pod.name} does not answer; stop --force kills it") from None
            # Of the process that listens: while it lives its number is its own.
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            os.kill(struct.unpack("3i", credentials)[0], signal.SIGKILL)
            return
    if answer is not None and "error" in answer:
        raise Failure(f"error stopping {pod.name!r}: {answer['error']}")


class Ended(Protocol):
    """A program that was started in an app."""

    @property
    def pid(self) -> int: ...
    @property
    def terminal(self) -> int | None: ...
    @property
    def ended(self) -> "asyncio.Future[tuple[int | None, int | None]]": ...
    async def signal(self, signum: int) -> None: ...


def status_of(code: int | None, signum: int | None) -> int:
    """As shells say it."""
    return code if code is not None else 128 + (signum or 0)


async def readable(sock: socket.socket) -> None:
    """There is a message, or the end of it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


class Gone(Exception):
    """Whoever asked is not there any more."""


class Session:
    """One request, and who has made it. `fds` are closed afterwards."""

    def __init__(self, connection: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        self._connection = connection
        self.message, self.fds = message, fds

    def reply(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Raises Gone."""
        try:
            channel.send_json(self._connection, message, fds)
        except OSError:
            raise Gone from None

    async def until_gone_or(self, other: "asyncio.Future[Any]") -> None:
        """Return when whoever asked has gone, or `other` is done."""
        gone = asyncio.ensure_future(readable(self._connection))
        both: tuple[asyncio.Future[Any], ...] = (other, gone)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        await asyncio.wait([gone])


Verb = Callable[[Session], Awaitable[dict[str, Any] | None]]
"""Does what was asked for; returns the last answer, if there is one. LaunchError, Failure, OSError, … are answers."""


class Server:
    """The listening side. verbs: by what a message says in `do`."""

    def __init__(self, pod: Path, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        directory = os.open(pod, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        before = os.umask(0o177)
        try:
            self._socket.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        finally:
            os.umask(before)
            os.close(directory)
        self._socket.listen(16)
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Take no more requests; what runs is the sandbox's to end."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Let those that were told of their end hear it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        self.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        from executor.pods.launcher import LaunchError

        fds: list[int] = []
        try:
            await readable(connection)
            message, fds = channel.receive_json(connection)
            if message is None:
                return
            session = Session(connection, message, fds)
            try:
                verb = self._verbs.get(str(message["do"]))
                if verb is None:
                    raise ValueError(f"{message['do']}: not for this pod")
                answer = await verb(session)
            except (LaunchError, Failure, ValueError, KeyError, TypeError) as error:
                answer = {"error": str(error)}
            except OSError as error:
                answer = {"error": f"{error.filename}: {error.strerror}" if error.filename else str(error)}
            if answer is not None:
                session.reply(answer)
        except (OSError, Gone):
            pass
        finally:
            for fd in fds:
                os.close(fd)
            self._loop.remove_reader(connection.fileno())
            connection.close()


async def follow(session: Session, started: Ended) -> dict[str, Any] | None:
    """The life of a program that was started for a session: it is killed when whoever wants it has gone."""
    try:
        while session.fds:
            os.close(session.fds.pop())  # the program's own now
        master = [] if started.terminal is None else [started.terminal]
        try:
            session.reply({"pid": started.pid}, master)
        finally:
            for fd in master:
                os.close(fd)
        await session.until_gone_or(started.ended)
        return {"code": status_of(*started.ended.result())} if started.ended.done() else None
    finally:
        if not started.ended.done():  # whoever asked for it has gone, perhaps before we could answer
            await started.signal(signal.SIGKILL)
