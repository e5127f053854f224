"""The streams of one app, and whoever has attached to them: what rkt's iottymux does.

An app's end of a stream is a pipe, or a terminal of the pod's own; ours is here. What it writes goes to every process
that has attached, through a pipe of that process' own; what they type goes straight into the app's standard input, or
its terminal. Nobody there: what is written is lost, but for `log`. One who does not read slows the app down, and is let
go after half a minute.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

_READ: Final = 64 << 10
_BEHIND: Final = 256 << 10
_PATIENCE_SECONDS: Final = 30.0

Log = Callable[[str, bytes], None]
"""Stream, data."""


class _Listener:
    """One attached process, and what it has not read yet of one stream."""

    def __init__(self, fd: int, on_change: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._fd, self._on_change = fd, on_change
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._impatience: asyncio.TimerHandle | None = None
        self._ending = False

    @property
    def behind(self) -> int:
        return len(self._waiting)

    @property
    def gone(self) -> bool:
        return self._fd < 0

    def send(self, data: bytes) -> None:
        """All of it, as fast as it is read."""
        if self._fd >= 0:
            self._waiting += data
            self._flush()

    def end(self) -> None:
        """Close it when it has read what there is."""
        self._ending = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """It sees the end of the stream, as far as it has read."""
        if self._fd < 0:
            return
        self._loop.remove_writer(self._fd)
        if self._impatience is not None:
            self._impatience.cancel()
        os.close(self._fd)
        self._fd = -1
        self._waiting.clear()
        self._on_change()

    def _flush(self) -> None:
        try:
            del self._waiting[: os.write(self._fd, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        else:
            if self._impatience is not None:
                self._impatience.cancel()
                self._impatience = None
        if not self._waiting and self._ending:
            self.close()
            return
        if not self._waiting:
            self._loop.remove_writer(self._fd)
        else:
            self._loop.add_writer(self._fd, self._flush)
            if self._impatience is None:
                self._impatience = self._loop.call_later(_PATIENCE_SECONDS, self.close)
        self._on_change()


class _Source:
    """One stream of the app's, and who listens to it."""

    def __init__(self, name: str, fd: int, log: Log | None) -> None:
        os.set_blocking(fd, False)
        self._name, self._fd, self._log = name, fd, log
        self._loop = asyncio.get_running_loop()
        self._listeners: list[_Listener] = []
        self._all_gone = asyncio.Event()
        self._loop.add_reader(fd, self._read)

    def listen(self) -> tuple[_Listener, int]:
        """Who listens, and the end that it reads from."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        listener = _Listener(writing, self._pace)
        if self._fd < 0:
            listener.close()
        else:
            self._listeners.append(listener)
        return listener, reading

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open
            data = b""
        if not data:
            self.close()
            return
        if self._log is not None:
            self._log(self._name, data)
        for listener in tuple(self._listeners):
            listener.send(data)

    def _pace(self) -> None:
        """Somebody has read something, or gone."""
        self._listeners = [one for one in self._listeners if not one.gone]
        if self._fd < 0:
            if not self._listeners:
                self._all_gone.set()
            return
        if any(one.behind > _BEHIND for one in self._listeners):
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._read)

    def drain(self) -> None:
        """What is left in the pipe of an app that has ended; not more than a pipe holds."""
        for _ in range(32):
            if self._fd >= 0:
                self._read()

    def close(self) -> None:
        """The end: listeners read what they have not read yet, and then it, too."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        for listener in tuple(self._listeners):
            listener.end()
        self._pace()

    async def finish(self, seconds: float) -> None:
        """Let them read the rest, as long as that takes no longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_gone.wait()
        for listener in tuple(self._listeners):
            listener.close()


class Attached:
    """What one process has attached to. `fds`: its ends, by endpoint, the caller's to send and close."""

    def __init__(self, fds: dict[str, int], listeners: Sequence[_Listener]) -> None:
        self.fds, self._listeners = fds, listeners

    def close(self) -> None:
        """It has gone."""
        for listener in self._listeners:
            listener.close()


class Mux:
    """The attachable streams of one running app.

    terminal: the master side of its terminal, or None; stdin: what writes into it; outputs: what to read it from, by
    name. All are ours from now on.
    """

    def __init__(
        self, *, terminal: int | None = None, stdin: int | None = None, outputs: dict[str, int] | None = None,
        log: Log | None = None,
    ) -> None:  # fmt: skip
        self._input = terminal if stdin is None else stdin
        self._terminal = terminal
        self._sources = {name: _Source(name, fd, log) for name, fd in (outputs or {}).items()}
        if terminal is not None:
            self._sources["tty"] = _Source("tty", os.dup(terminal), None)

    @property
    def endpoints(self) -> list[str]:
        """tty; or which of stdin, stdout, stderr."""
        if self._terminal is not None:
            return ["tty"]
        there = {*self._sources, *(["stdin"] if self._input is not None else [])}
        return [name for name in ("stdin", "stdout", "stderr") if name in there]

    def attach(self, wanted: Collection[str]) -> Attached:
        """wanted: of stdin, stdout, stderr, tty-in, tty-out. ValueError for what the app has not."""
        have = {"tty-in", "tty-out"} if self._terminal is not None else set(self.endpoints)
        if missing := sorted(set(wanted) - have):
            raise ValueError(f"the app has no {missing[0]} to attach to, but {', '.join(self.endpoints)}")
        fds: dict[str, int] = {}
        listeners = []
        for name in wanted:
            if name in {"stdin", "tty-in"}:
                assert self._input is not None
                fds[name] = os.dup(self._input)
            else:
                listener, fds[name] = self._sources["tty" if name == "tty-out" else name].listen()
                listeners.append(listener)
        return Attached(fds, listeners)

    async def finish(self, seconds: float = 2.0) -> None:
        """The app has ended: tell everybody."""
        if self._input is not None:
            os.close(self._input)
            self._input = None
        for source in self._sources.values():
            source.drain()
            source.close()
        await asyncio.gather(*(source.finish(seconds) for source in self._sources.values()))
