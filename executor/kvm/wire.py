"""The host's end of the wire: frames from and to a machine, and the streams of its apps.

A descriptor that the caller gives is duplicated; the bytes go between it and the guest until one side ends. Output that
nobody takes from its descriptor makes the app wait, not the machine.
"""

import asyncio
import errno
import fcntl
import os
import socket
import stat
import struct
import termios
import tty
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from executor.kvm.guest import frames

_SIZE_SECONDS: Final = 0.2


class Wire(asyncio.Protocol):
    """One machine's wire. on_message: for each message of the guest; on_lost: once, when the wire ends."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_lost: Callable[[str], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._decoder = frames.Decoder()
        self._transport: asyncio.WriteTransport | None = None
        self._count = 0
        self.streams: dict[int, Stream] = {}

    @classmethod
    async def open(
        cls, sock: socket.socket, on_message: Callable[[dict[str, Any]], None], on_lost: Callable[[str], None]
    ) -> "Wire":
        """Over a connected stream socket, which is the wire's from here on."""
        loop = asyncio.get_running_loop()
        _, made = await loop.create_unix_connection(lambda: cls(on_message, on_lost), sock=sock)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._on_frame(frame)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            self.close(f"the machine does not keep to the protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the machine has ended" if exc is None else f"the machine has ended: {exc}")

    def send(self, frame: bytes) -> None:
        """Nothing happens when the wire has ended: whoever waits is told by on_lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self, reason: str) -> None:
        """End it, and all streams."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def _end(self, reason: str) -> None:
        for stream in list(self.streams.values()):
            stream.abandon()
        on_lost, self._on_lost = self._on_lost, lambda _: None
        on_lost(reason)

    def _on_frame(self, frame: frames.Frame) -> None:
        if frame.kind == frames.MESSAGE:
            self._on_message(frame.message())
            return
        stream = self.streams.get(frame.stream)
        if stream is None:
            return
        if frame.kind == frames.DATA:
            stream.put(frame.data)
        elif frame.kind == frames.END:
            stream.end()
        else:
            stream.more(frame.credit())

    # -- streams ------------------------------------------------------------------------------------------

    def carry(self, fds: tuple[int, ...]) -> list["Stream"]:
        """Streams for an app's descriptors: [stdin,] stdout, stderr. Raises OSError."""
        made = []
        for position, fd in enumerate(fds):
            kind = "in" if len(fds) == 3 and position == 0 else "out"
            made.append(self._add(Stream(self, self._next(), kind, os.dup(fd))))
        return made

    def terminal(self) -> tuple["Stream", int]:
        """A stream for an app's terminal, and the master side of one here that behaves like it. Raises OSError."""
        master, slave = os.openpty()
        tty.setraw(slave)  # the guest's terminal does what a terminal does
        os.set_inheritable(master, False)
        return self._add(Terminal(self, self._next(), "terminal", slave)), master

    def connection(self, end: socket.socket, number: int = 0) -> "Stream":
        """A stream for a connection of the guest. end: of it here, the stream's from now on. number: the guest's."""
        return self._add(Connection(self, number or self._next(), "connection", end.detach()))

    def refuse(self, number: int) -> None:
        """There is nobody for a connection that the guest has begun."""
        for _ in range(2):
            self.send(frames.pack(frames.END, number))

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _add(self, stream: "Stream") -> "Stream":
        self.streams[stream.number] = stream
        return stream


class Stream:
    """Between a descriptor (ours to close) and the guest. kind: "in" goes to the app, "out" comes from it."""

    def __init__(self, wire: Wire, number: int, kind: str, fd: int) -> None:
        self.number = number
        self.kind = kind
        self._wire = wire
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._credit = frames.WINDOW
        self._pending: deque[memoryview] = deque()
        self._reading = False
        self._writing = False
        self._ending = False
        self._deaf = False
        self._said = False  # that nothing more is to be read
        self.done: asyncio.Future[None] = self._loop.create_future()
        """Done when all that has come is where it belongs."""
        mode = os.fstat(fd).st_mode
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
        os.set_blocking(fd, False)

    def start(self) -> None:
        """Begin to read, when the app is there."""
        if self.kind != "out":
            self._watch()

    def put(self, data: bytes) -> None:
        """From the guest, for the descriptor."""
        if self._deaf or self._fd < 0:
            return
        self._pending.append(memoryview(data))
        self._write()

    def end(self) -> None:
        """The guest's side has ended."""
        self._ending = True
        if not self._pending or self.kind == "in":
            self.abandon()

    def more(self, count: int) -> None:
        """The guest has taken so many bytes."""
        self._credit += count
        self._watch()

    def abandon(self) -> None:
        """Close it."""
        if self._fd >= 0:
            self._watch(stop=True)
            if self._writing:
                self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._wire.streams.pop(self.number, None)
        if not self.done.done():
            self.done.set_result(None)

    def _watch(self, *, stop: bool = False) -> None:
        wanted = self._credit > 0 and not (stop or self._said) and self.kind != "out" and self._fd >= 0
        if wanted and not self._waits:
            self._loop.call_soon(self._read)  # a file: there is always something, or its end
        elif wanted != self._reading and self._waits:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._read)
            else:
                self._loop.remove_reader(self._fd)

    def _read(self) -> None:
        if self._fd < 0 or self._credit <= 0:
            return
        try:
            data = os.read(self._fd, min(frames.CHUNK, self._credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: a terminal that nobody has open any more
        if not data:
            self._read_end()
            return
        self._credit -= len(data)
        self._wire.send(frames.pack(frames.DATA, self.number, data))
        self._watch()

    def _read_end(self) -> None:
        self._said = True
        self._watch()
        self._wire.send(frames.pack(frames.END, self.number))
        if self.kind == "in":
            self.abandon()

    def _write(self) -> None:
        while self._pending and self._fd >= 0:
            try:
                count = os.write(self._fd, self._pending[0])
            except BlockingIOError:
                break
            except OSError as error:
                self._stop_listening(error)
                break
            self._wire.send(frames.credit(self.number, count))
            if count == len(self._pending[0]):
                self._pending.popleft()
            else:
                self._pending[0] = self._pending[0][count:]
        if bool(self._pending) != self._writing and self._fd >= 0:
            self._writing = bool(self._pending)
            if self._writing:
                self._loop.add_writer(self._fd, self._write)
            else:
                self._loop.remove_writer(self._fd)
        self._finish()

    def _finish(self) -> None:
        if self._ending and not self._pending:
            self.abandon()

    def _stop_listening(self, error: OSError) -> None:
        """Nobody reads any more: the app is to notice (EPIPE, or SIGHUP)."""
        if error.errno not in (errno.EPIPE, errno.EIO, errno.ECONNRESET):
            raise error
        self._pending.clear()
        self._deaf = True
        self._wire.send(frames.pack(frames.END, self.number))


class Connection(Stream):
    """Both ways, each of which ends by itself. A second END says that nothing is taken any more, either."""

    def __init__(self, wire: Wire, number: int, kind: str, fd: int) -> None:
        super().__init__(wire, number, kind, fd)
        self._shut = False

    def end(self) -> None:
        if self._ending:
            self.abandon()
            return
        self._ending = True
        self._finish()

    def abandon(self) -> None:
        """Close it, here and there."""
        if self._fd >= 0:
            for _ in range(1 if self._said else 2):
                self._wire.send(frames.pack(frames.END, self.number))
        super().abandon()

    def _read_end(self) -> None:
        super()._read_end()
        self._finish()

    def _finish(self) -> None:
        """What the app has sent is here, and nothing more comes."""
        if self._fd < 0 or not self._ending or self._pending:
            return
        if self._said:
            super().abandon()
        elif not self._shut:
            self._shut = True
            _shut_down(self._fd)

    def _stop_listening(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise error
        self.abandon()


def _shut_down(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise


class Terminal(Stream):
    """Both ways, over the slave side of a terminal of ours; a change of its size is looked for, nothing tells of it."""

    def __init__(self, wire: Wire, number: int, kind: str, fd: int) -> None:
        super().__init__(wire, number, kind, fd)
        self._size = (0, 0)

    def start(self) -> None:
        super().start()
        self._look()

    def _read(self) -> None:
        self._tell_size()
        super()._read()

    def _look(self) -> None:
        if self._fd >= 0:
            self._tell_size()
            self._loop.call_later(_SIZE_SECONDS, self._look)

    def _tell_size(self) -> None:
        if self._fd < 0:
            return
        try:
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            return  # hung up
        if (rows, columns) != self._size:
            self._size = (rows, columns)
            self._wire.send(
                frames.message({"do": "resize", "stream": self.number, "rows": rows, "columns": columns})
            )
