"""A process that prepares apps one after another, and spawns each by a list of system calls (machine/app.py).

It builds an app's mounts in a mount namespace that is a fresh copy of the one it comes home to; whatever cannot be
taken back (a user, a cgroup, a pid namespace, a filter) it leaves to the program it spawns. It ends with the first
start that fails: what it is then, nobody has to know.
"""

import os
import signal
import socket
import struct
from typing import Any, Final

from executor.stage1 import channel, lsm, machine, ops, syscalls
from executor.stage1.children import TERMINAL, close_all_but
from executor.stage1.machine.app import FIRST_OWN
from executor.stage1.ops import StageError
from executor.stage1.process import Limit, Process, make_room, settle

_REPORT: Final = struct.Struct("<II")
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def worker(sock: socket.socket, native: machine.Machine, *, host: int, last_cap: int, spare: bool) -> None:
    """Serve until the launcher lets go of its end, or a start fails."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    close_all_but([sock.fileno(), host, native.program])
    syscalls.set_process_name("gantry-start")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    os.chdir("/")
    before = make_room()
    home = _Home(host)
    keep = [sock.fileno(), host, native.program, *home.descriptors]
    if spare:
        syscalls.prefault()
    while True:
        home.copy()
        message, fds = channel.receive(sock)
        if message is None:
            return
        try:
            said = _Job(sock, native, home, message, fds, before).run(last_cap)
        except StageError as error:
            channel.send(sock, str(error))
            return
        except Exception as error:
            channel.send(sock, f"start the app: {type(error).__name__}: {error}")
            raise
        home.come(keep)
        channel.send(sock, said)


class _Home:
    """What it comes back to: its mount namespace, of which every app gets a copy; the host's, and the host's /proc."""

    def __init__(self, host: int) -> None:
        self.host = host
        self.proc = os.open("/proc", _DIRECTORY)
        self._namespace = self._mount_namespace()
        self.descriptors = (self.proc, self._namespace)
        self.now = -1
        """The copy that the next app gets."""

    def _mount_namespace(self) -> int:
        return os.open("self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)

    def copy(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        self.now = self._mount_namespace()

    def come(self, keep: list[int]) -> None:
        """With root and working directory (setns(2)), as whom it makes files, and without any descriptor of a pod's."""
        syscalls.setns(self._namespace, syscalls.CLONE_NEWNS)
        syscalls.forget_file_ids()
        close_all_but(keep)


class _Job:
    """One start."""

    def __init__(
        self,
        sock: socket.socket,
        native: machine.Machine,
        home: _Home,
        message: Any,
        fds: list[int],
        before: Limit,
    ) -> None:
        packed, process, names = message
        count = len(fds) - len(names)
        self._sock = sock
        self._native = native
        self._home = home
        self._process = Process(*process).limited(before)
        self._todo = ops.unpack(packed)
        self._context = ops.Context(
            {"home": home.now, "host": home.host, **dict(zip(names, fds[count:], strict=True))}
        )
        self._context.streams = fds[:count]
        self._terminal = not count
        if self._terminal:
            self._todo.append(ops.Terminal(console="app" not in names))
        self._given: list[int] = []
        self._prelude = machine.Prelude()
        self._label: lsm.Label | None = None
        self._told = -1
        if self._process.own_proc:
            self._told = self._tell()

    def _tell(self) -> int:
        """Our end of a socket that says who has written to its other end, which is the first descriptor given."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._prelude = self._prelude._replace(told=self._give(theirs.detach()))
        return ours.detach()

    def _who(self) -> int:
        """The pid of the app that is the first of its own pid namespace, as the kernel tells us (unix(7))."""
        with socket.socket(fileno=self._told) as sock:
            try:
                _, ancillary, _, _ = sock.recvmsg(
                    1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                ancillary = []  # whoever should have said so was killed before
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
        raise StageError("")

    def run(self, last_cap: int) -> int:
        """Returns the app's pid; "" when whoever started it died. Raises StageError."""
        for op in self._todo:
            if not self._leave(op):
                ops.execute([op], self._context)
        ready = settle(self._process, self._context.streams, terminal=self._terminal)
        if self._terminal:
            channel.send(self._sock, TERMINAL, [self._context.fds["master"]])
        if "users" in self._context.fds:
            self._prelude = self._prelude._replace(users=self._give(self._context.fds["users"]))
        try:
            program = machine.start(
                self._process, ready.identity, ready.environment, ready.program, self._prelude,
                last_cap=last_cap, terminal=ready.terminal,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StageError(f"exec {self._process.argv[0]}: {reason}") from None
        return self._spawn(program)

    def _leave(self, op: ops.Op) -> bool:
        """Whether this operation is one for the program that we spawn (Enter: all but the mount namespace)."""
        prelude = self._prelude
        if isinstance(op, ops.OomScore):
            self._prelude = prelude._replace(oom_score=op.value, proc=self._give_proc())
        elif isinstance(op, ops.SetLabel):
            self._label = op.check()
            path, text = lsm.attribute(self._label)
            label = (op.describe(), path.removeprefix("/proc/"), text)
            self._prelude = prelude._replace(label=label, proc=self._give_proc())
        elif isinstance(op, ops.JoinCgroup):
            members = tuple(self._give(_open_member(path, op)) for path in op.members)
            cgroup = os.path.dirname(op.members[0])
            self._prelude = prelude._replace(members=members, cgroup=cgroup, cgroup_namespace=op.namespace)
        elif isinstance(op, ops.Enter) and (rest := op.flags & ~syscalls.CLONE_NEWNS):
            ops.execute([op._replace(flags=syscalls.CLONE_NEWNS)], self._context)
            whom = self._give(self._context.fds[op.fd])
            self._prelude = prelude._replace(namespaces=whom, whose=op.fd, flags=rest)
        else:
            return False
        return True

    def _give_proc(self) -> int:
        return self._prelude.proc if self._prelude.proc >= 0 else self._give(self._home.proc)

    def _give(self, fd: int) -> int:
        """The number that a descriptor of ours has in the program."""
        self._given.append(fd)
        return FIRST_OWN + len(self._given) - 1

    def _spawn(self, program: machine.Program) -> int:
        source = machine.readable(program.data)
        ready, report = os.pipe2(os.O_CLOEXEC)
        fds = [*self._context.streams, source, report, *self._given]
        try:
            pid = self._native.spawn(fds, name="gantry-start")
        except OSError as error:
            raise StageError(f"start the app: {error.strerror}") from None
        os.close(report)
        said = os.read(ready, _REPORT.size)
        os.waitpid(pid, 0)
        if len(said) != _REPORT.size:
            raise StageError("")
        value, number = _REPORT.unpack(said)
        if number:
            raise StageError(self._failure(program, value, number))
        return self._who() if self._told >= 0 else int(value)

    def _failure(self, program: machine.Program, record: int, number: int) -> str:
        said = program.failure(record, number) or f"call {record}: {os.strerror(number)}"
        if (
            self._label is None
            or self._prelude.label is None
            or not said.startswith(f"{self._prelude.label[0]}: ")
        ):
            return said
        return f"{self._prelude.label[0]}: {lsm.reason(self._label, number)}"


def _open_member(path: str, op: ops.JoinCgroup) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StageError(f"{op.describe()}: {error.strerror}") from None
