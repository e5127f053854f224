"""The guest's end of the wire: between the host's frames and the launcher's control socket and pipes.

Runs in pid 1, so it also reaps what nobody else does. When the launcher ends, so does the machine.
"""

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from executor.kvm.guest import frames, waking
from executor.stage1 import channel, syscalls

if TYPE_CHECKING:
    from executor.kvm.guest import ports

_READ: Final = 64 * 1024
_LITTLE: Final = (
    2048  # bytes: what the kernel finds room for when memory is short (drivers/char/virtio_console.c)
)
_CLOCK_OFF: Final = 0.5


class Agent:
    """One loop over the wire, the launcher and the streams; nothing in it waits for one of them alone."""

    def __init__(
        self, port: int, control: socket.socket, launcher: int, pods: str, load_network: Callable[[], None]
    ) -> None:
        """load_network: what network cards need."""
        self._port = port
        self._control = control
        self._launcher = launcher
        self._pods = pods
        self._load_network = load_network
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._decoder = frames.Decoder()
        self._out: deque[memoryview] = deque()
        self._streams: dict[int, Stream] = {}
        self._asked: dict[int, dict[str, Any]] = {}
        self._pod = ""
        self._network = -1  # a process whose network is the pod's, until this one has gone there
        self._ports: ports.Ports | None = None
        self._removals = 0
        self._over = False

    def run(self, said: dict[str, Any] | None = None) -> None:
        """Serve until the launcher ends. said: what it has said already."""
        if said is not None:
            self.send(frames.message(said))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(self._port, select.EPOLLIN, self._on_port)
        self.watch(self._control.fileno(), select.EPOLLIN, lambda _: self._on_launcher())
        while not self._over:
            for fd, events in self._epoll.poll():
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            self._reap()

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` for the events of `mask`; 0 stops that."""
        before = self._masks.get(fd, 0)
        if mask == before:
            if mask:
                self._handlers[fd] = handler
            return
        if not mask:
            self._epoll.unregister(fd)
            del self._masks[fd], self._handlers[fd]
            return
        (self._epoll.modify if before else self._epoll.register)(fd, mask)
        self._masks[fd], self._handlers[fd] = mask, handler

    def send(self, frame: bytes) -> None:
        """To the host, in order, now or as soon as the wire takes it."""
        self._out.append(memoryview(frame))
        self._flush()

    def add(self, number: int, stream: "Stream") -> None:
        """One more."""
        self._streams[number] = stream

    def forget(self, number: int) -> None:
        """A stream has ended both ways."""
        self._streams.pop(number, None)

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._over = self._over or pid == self._launcher

    # -- the wire -----------------------------------------------------------------------------------------

    def _on_port(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & (select.EPOLLIN | select.EPOLLHUP):
            try:
                data = os.read(self._port, _READ)
            except BlockingIOError:
                return
            if not data and events & select.EPOLLHUP:
                raise OSError("QEMU has let go of the other end of the wire")
            for frame in self._decoder.feed(data):
                self._on_frame(frame)

    def _flush(self) -> None:
        size = frames.CHUNK
        while self._out:
            try:
                count = os.write(self._port, self._out[0][:size])
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                if size == _LITTLE:
                    break  # later: the loop comes back as long as something is left
                size = _LITTLE
                continue
            if count == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][count:]
        mask = select.EPOLLIN | (select.EPOLLOUT if self._out else 0)
        self.watch(self._port, mask, self._on_port)

    def _on_frame(self, frame: frames.Frame) -> None:
        if frame.kind == frames.MESSAGE:
            self._on_request(frame.message())
            return
        stream = self._streams.get(frame.stream)
        if stream is None:
            return  # it has ended meanwhile
        if frame.kind == frames.DATA:
            stream.put(frame.data)
        elif frame.kind == frames.END:
            stream.end()
        else:
            stream.more(frame.credit())

    # -- requests -----------------------------------------------------------------------------------------

    def _on_request(self, request: dict[str, Any]) -> None:
        try:
            self._perform(request)
        except OSError as error:
            self.answer(request, {"error": f"{request['do']} in the machine: {error}"})

    def _perform(self, request: dict[str, Any]) -> None:
        do = request["do"]
        if do == "resize":
            stream = self._streams.get(request["stream"])
            if stream is not None:
                stream.resize(request["rows"], request["columns"])
            return
        if do == "grow":
            from executor.kvm.guest import growth

            growth.grow(request["memory"], request["had"], request["cpus"])
            self.answer(request, {})
            return
        if do in ("connect", "listen"):
            self._enter_network()
            if self._ports is None:
                from executor.kvm.guest import ports  # those pods that have none do without

                self._ports = ports.Ports(self)
            self._ports.perform(request)
            return
        if do == "run":
            self._begin(request)
        elif do == "update":
            self._write(request.pop("files"))
        numbers = request.pop("streams", [])
        request["pod"] = self._pod
        self._asked[request["id"]] = {**request, "streams": numbers}
        theirs: list[int] = []
        try:
            for direction, number in numbers:
                if direction != "terminal":
                    theirs.append(self._pipe(direction, number))
            channel.send_json(self._control, request, theirs)
        except OSError:
            del self._asked[request["id"]]
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def _begin(self, request: dict[str, Any]) -> None:
        """What the pod needs before its launcher makes it."""
        self._lay_out(request)
        if request["datagrams"]:
            from executor.kvm.guest import datagrams

            datagrams.listen(self, request.pop("datagrams"))
        if request["network"]:
            self._load_network()

    def _pipe(self, direction: str, number: int) -> int:
        """A pipe for one of the app's streams; its end of it."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ours, theirs = (writer, reader) if direction == "in" else (reader, writer)
        self._streams[number] = Stream(self, number, ours, reads=direction != "in", writes=direction == "in")
        return theirs

    def _enter_network(self) -> None:
        """To the pod's network, where this process is from the first time on: it needs no other."""
        if self._network >= 0:
            fd = os.open(f"/proc/{self._network}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, syscalls.CLONE_NEWNET)
            finally:
                os.close(fd)
            self._network = -1

    def _lay_out(self, request: dict[str, Any]) -> None:
        """The pod directory as stage1 wants it, in this machine's memory."""
        waking.reseed(bytes.fromhex(request.pop("seed")))
        now = float(request.pop("time"))
        if abs(time.time() - now) > _CLOCK_OFF:
            time.clock_settime(time.CLOCK_REALTIME, now)
        self._pod = f"{self._pods}/{request.pop('name')}"
        os.makedirs(f"{self._pod}/etc")
        overlays = request.pop("overlays")
        # It is mounted by whoever comes by first (virtiofs), and what comes to the launcher from here is the same file
        # system: one of its own would not notice at once what is renamed here.
        os.stat(f"{overlays}/.")
        os.symlink(overlays, f"{self._pod}/overlay")
        self._write(request.pop("files"))

    def _write(self, files: dict[str, str]) -> None:
        for path, text in files.items():
            target = f"{self._pod}/{path}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w", encoding="utf-8") as file:
                file.write(text)

    def answer(self, request: dict[str, Any], reply: dict[str, Any]) -> None:
        """To a request of the host's."""
        self.send(frames.message({"id": request["id"], **reply}))

    # -- the launcher -------------------------------------------------------------------------------------

    def _on_launcher(self) -> None:
        try:
            message, fds = channel.receive_json(self._control)
        except OSError:
            message, fds = None, []
        if message is None:
            raise OSError("the launcher has ended")
        asked = self._asked.pop(message.get("id", -1), None)
        if asked is not None:
            if "error" in message:
                self._drop(asked)
            elif asked["do"] == "run":
                self._network = message["pid"]
                message = self._give_network(asked, message)
            elif fds:
                ((_, number),) = asked["streams"]
                self._streams[number] = Stream(self, number, fds[0], reads=True, writes=True)
            elif asked["do"] == "remove":
                self._clear(asked["app"])
        self.send(frames.message(message))

    def _give_network(self, asked: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        """The answer: the pod runs when it has its network."""
        if not asked["network"]:
            return message
        from executor.kvm.guest import network

        try:
            network.give(asked["network"], message["pid"], self._enter_network)
        except OSError as error:
            return {"id": asked["id"], "error": f"the network in the machine: {error.strerror or error}"}
        return message

    def _drop(self, asked: dict[str, Any]) -> None:
        """What was to be started has not been: nothing comes from its streams but their end."""
        for _, number in asked["streams"]:
            stream = self._streams.get(number)
            if stream is not None:
                stream.end()

    def _clear(self, app: str) -> None:
        """What an app wrote to its root; the launcher leaves that to whoever asked, and the host removes it."""
        self._removals += 1
        overlay = f"{self._pod}/overlay"
        if os.path.isdir(f"{overlay}/{app}"):
            os.rename(f"{overlay}/{app}", f"{overlay}/.{app}.{self._removals}")
        for name in ("upper", "work"):
            os.makedirs(f"{overlay}/{app}/{name}")


class Stream:
    """A pipe or a terminal of an app. reads: its bytes go to the host; writes: the host's go into it."""

    def __init__(self, agent: Agent, number: int, fd: int, *, reads: bool, writes: bool) -> None:
        os.set_blocking(fd, False)
        self._agent = agent
        self._number = number
        self._fd = fd
        self._reads = reads
        self._writes = writes
        self._credit = frames.WINDOW
        self._pending: deque[memoryview] = deque()
        self._ending = False
        self._watch()

    def put(self, data: bytes) -> None:
        """Bytes for the app."""
        if not self._writes:
            self._agent.send(frames.credit(self._number, len(data)))  # nobody is there to read them
            return
        self._pending.append(memoryview(data))
        self._write()

    def end(self) -> None:
        """The host sends no more, and takes no more: a pipe is closed, a terminal hung up."""
        self._ending = True
        self._write()

    def more(self, count: int) -> None:
        self._credit += count
        self._watch()

    def resize(self, rows: int, columns: int) -> None:
        if self._reads and self._writes:
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _watch(self) -> None:
        if self._fd < 0:
            return
        mask = select.EPOLLIN if self._reads and self._credit > 0 else 0
        mask |= select.EPOLLOUT if self._pending else 0
        self._agent.watch(self._fd, mask, self._on_event)

    def _on_event(self, events: int) -> None:
        if events & select.EPOLLOUT or (self._writes and events & select.EPOLLERR):
            self._write()
        if self._fd >= 0 and self._reads and events & (select.EPOLLIN | select.EPOLLHUP) and self._credit > 0:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, min(frames.CHUNK, self._credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: nobody has the terminal open any more
        if not data:
            self._end_reading()
            return
        self._credit -= len(data)
        self._agent.send(frames.pack(frames.DATA, self._number, data))
        self._watch()

    def _write(self) -> None:
        while self._pending and self._fd >= 0:
            try:
                count = os.write(self._fd, self._pending[0])
            except BlockingIOError:
                break
            except OSError:
                count = len(self._pending[0])  # EPIPE: the app has closed it; what comes is thrown away
                self._ending = True
            self._agent.send(frames.credit(self._number, count))
            if count == len(self._pending[0]):
                self._pending.popleft()
            else:
                self._pending[0] = self._pending[0][count:]
        self._finish()

    def _finish(self) -> None:
        if self._ending and not self._pending:
            self._close()
        else:
            self._watch()

    def _end_reading(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._agent.watch(self._fd, 0, self._on_event)
        os.close(self._fd)
        self._fd = -1
        self._agent.forget(self._number)
        self._agent.send(frames.pack(frames.END, self._number))
