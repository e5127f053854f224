"""Where the streams of an app go: to ours, to nothing, to a terminal, to whoever attaches, to a log of CRI's."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from executor.pods.launcher import LaunchError, Sockets
from executor.pods.launcher import Sandbox as OwnSandbox
from executor.pods.ports import Handling, Sandbox
from executor.rkt.apps import MODES
from executor.rkt.flags import Failure
from executor.rkt.mux import Mux
from executor.rkt.podmanifest import STREAM_NOTE
from executor.rkt.streams import Output, Relay

LOG_MODE: Final = "coreos.com/rkt/experiment/logmode"
LOG_DIRECTORY: Final = "coreos.com/rkt/experiment/kubernetes-log-dir"
LOG_PATH: Final = "coreos.com/rkt/experiment/kubernetes-log-path"


def notes_of(part: Mapping[str, Any]) -> dict[str, str]:
    """The annotations of a pod or an app."""
    return {str(note["name"]): str(note["value"]) for note in part.get("annotations") or ()}


def modes_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """How the streams of an app of a manifest are to be. Failure."""
    notes = notes_of(entry)
    made = {name: notes.get(STREAM_NOTE + name, allowed[0]) for name, allowed in MODES.items()}
    for name, mode in made.items():
        if mode not in MODES[name]:
            raise Failure(
                f"app {entry['name']}: invalid {name} mode {mode!r}: not one of {', '.join(MODES[name])}"
            )
    if "tty" in made.values() and set(made.values()) != {"tty"}:
        raise Failure(
            f"app {entry['name']}: a terminal takes all three: --stdin=tty --stdout=tty --stderr=tty"
        )
    return made


class AppStreams:
    """The streams of one start of an app. label: as in `Output`. interactive: it gets our terminal, or our stdin."""

    def __init__(
        self,
        modes: Mapping[str, str],
        label: Callable[[], str] | None,
        *,
        interactive: bool = False,
        log: "PlainLog | None" = None,
    ) -> None:
        self._modes, self._label, self._interactive, self._log = modes, label, interactive, log
        self.mux: Mux | None = None
        """Once it runs, and has something to attach to."""
        self._outputs: list[Output] = []
        self._relay: Relay | None = None

    async def start(self, sandbox: Sandbox, app: str, sockets: Sockets = ()) -> int:
        """Start the app; its pid. sockets: that it gets as from systemd. LaunchError."""
        more = _sockets(sandbox, sockets)
        if self._interactive and os.isatty(0):
            pid, master = await sandbox.start_terminal(app, **more)
            self._relay = Relay(master)
            return pid
        if self._modes["stdin"] == "tty":
            pid, master = await sandbox.start_terminal(app, **more)
            self.mux = Mux(terminal=master)
            return pid
        logged = [number for number, name in ((1, "stdout"), (2, "stderr")) if self._modes[name] == "log"]
        output = Output(self._label, logged)
        self._outputs.append(output)
        theirs = dict(zip(logged, output.fds, strict=True))
        made: list[int] = []  # the app's ends
        ours: dict[str, int] = {}
        for number, name in enumerate(MODES):
            if self._modes[name] == "stream":
                reading, writing = os.pipe2(os.O_CLOEXEC)
                ours[name], theirs[number] = (writing, reading) if number == 0 else (reading, writing)
                made.append(theirs[number])
            elif number and self._modes[name] == "null":
                theirs[number] = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                made.append(theirs[number])
        stdin = 0 if self._interactive else theirs.get(0)
        with ExitStack() as undo:
            for fd in ours.values():
                undo.callback(os.close, fd)
            try:
                pid = await sandbox.start_app(app, stdin=stdin, stdout=theirs[1], stderr=theirs[2], **more)
            finally:
                output.close_ours()
                for fd in made:
                    os.close(fd)
            undo.pop_all()
        if ours:
            self.mux = Mux(stdin=ours.pop("stdin", None), outputs=ours, log=self._log)
        return pid

    async def handle(self, sandbox: Sandbox, app: str, argv: Sequence[str]) -> None:
        """Start an event handler of the app; what it says goes where `log` goes. LaunchError."""
        if not isinstance(sandbox, Handling):
            raise LaunchError(f"app {app}: this stage1 runs no event handlers")
        output = Output(self._label)
        self._outputs.append(output)
        try:
            await sandbox.start_handler(app, argv, stdout=output.fds[0], stderr=output.fds[1])
        finally:
            output.close_ours()

    async def finish(self) -> None:
        """It has ended: all of what it said is written."""
        if self.mux is not None:
            await self.mux.finish()
        for output in self._outputs:
            await output.finish()
        if self._relay is not None:
            await self._relay.close()
            self._relay = None
        if self._log is not None:
            self._log.close()


def _sockets(sandbox: Sandbox, sockets: Sockets) -> dict[str, Any]:
    """As arguments. LaunchError where they cannot be handed over."""
    if sockets and not isinstance(sandbox, OwnSandbox):
        raise LaunchError("this stage1 hands no sockets over")
    return {"sockets": sockets} if sockets else {}


class PlainLog:
    """rkt's log mode `k8s-plain`: lines `TIME STREAM TEXT` (rkt `stage1/iottymux`). For streams that are attachable."""

    def __init__(self, path: Path) -> None:
        """The file is made anew. OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        self._rest = {"stdout": b"", "stderr": b""}

    def __call__(self, stream: str, data: bytes) -> None:
        *lines, self._rest[stream] = (self._rest[stream] + data).split(b"\n")
        self._write(stream, lines)

    def close(self) -> None:
        """With what stands there without a newline."""
        if self._fd >= 0:
            for stream, rest in self._rest.items():
                self._write(stream, [rest] if rest else [])
            os.close(self._fd)
            self._fd = -1

    def _write(self, stream: str, lines: list[bytes]) -> None:
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
        with suppress(OSError):  # the disk is full: lose lines, not the pod
            os.write(
                self._fd, b"".join(b"%s %s %s\n" % (stamp.encode(), stream.encode(), line) for line in lines)
            )


def plain_log(pod: Mapping[str, Any], entry: Mapping[str, Any]) -> PlainLog | None:
    """As the annotations of the pod and the app say. Failure."""
    notes, own = notes_of(pod), notes_of(entry)
    mode = notes.get(LOG_MODE, "")
    if not mode:
        return None
    if mode != "k8s-plain":
        raise Failure(f"annotation {LOG_MODE}: {mode!r} is not k8s-plain")
    directory, name = notes.get(LOG_DIRECTORY, ""), own.get(LOG_PATH, "")
    if not directory.startswith("/"):
        raise Failure(f"annotation {LOG_DIRECTORY}: {directory!r} is not an absolute path")
    if not name:
        raise Failure(f"app {entry['name']}: annotation {LOG_PATH} is needed with {LOG_MODE}=k8s-plain")
    if "/" in name or name in {".", ".."}:
        raise Failure(f"app {entry['name']}: annotation {LOG_PATH}: {name!r} is not a name in the directory")
    try:
        return PlainLog(Path(directory, name))
    except OSError as error:
        raise Failure(f"app {entry['name']}: log {directory}/{name}: {error.strerror}") from None
