"""A process that prepares apps one after another, and spawns each by a list of system calls (machine/app.py).

It takes an app's mounts where they are, builds its root of them in a mount namespace that is the app's own, and comes
home; whatever cannot be taken back (a user, a cgroup, a pid namespace, a filter) it leaves to the program it spawns. It
ends with the first start that fails: what it is then, nobody has to know.
"""

import os
import signal
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

from executor.stage1 import channel, lsm, machine, ops, podfiles, syscalls
from executor.stage1.bare import Bare
from executor.stage1.children import TERMINAL, close_all_but
from executor.stage1.machine.app import FIRST_OWN
from executor.stage1.machine.tree import Refused, Trees
from executor.stage1.ops import StageError
from executor.stage1.process import SOCKET, Limit, Process, make_room, settle

_REPORT: Final = struct.Struct("<II")
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LEFT: Final = (ops.OomScore, ops.SetLabel, ops.JoinCgroup, ops.Enter)


def worker(sock: socket.socket, native: machine.Machine, bare: Bare, *, host: int, last_cap: int) -> None:
    """Serve until the launcher lets go of its end, or a start fails."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    own = [sock.fileno(), native.program]
    close_all_but([*own, host, *bare.descriptors])
    syscalls.set_process_name("gantry-start")
    before = make_room()
    system = machine.System(last_cap, _ignored_signals())
    home = _Home(own, host, bare)
    trees = Trees(native.function)
    home.come()
    while True:
        message, fds = channel.receive(sock)
        if message is None:
            return
        try:
            app, program = _Job(sock, native, home, message, fds, before).run(system, trees)
        except StageError as error:
            channel.send(sock, str(error))
            return
        except Exception as error:
            channel.send(sock, f"start the app: {type(error).__name__}: {error}")
            raise
        channel.send(sock, app)
        os.waitpid(program, 0)


def _ignored_signals() -> tuple[int, ...]:
    """Python ignores some, and so may whoever started the executor: exec keeps that (signal(7))."""
    for line in podfiles.read("/proc/self/status").splitlines():
        if line.startswith(b"SigIgn:"):
            mask = int(line.split()[1], 16)
            return tuple(number for number in range(1, 65) if mask >> (number - 1) & 1)
    raise OSError("no SigIgn in /proc/self/status")


class _Home:
    """What it comes back to: its mount namespace, the host's, that on which roots are built, and the host's /proc."""

    def __init__(self, own: list[int], host: int, bare: Bare) -> None:
        self.host = host
        self.bare = bare
        self.proc = os.open("/proc", _DIRECTORY)
        self._own = [*own, host, self.proc, *bare.descriptors]
        self.namespaces = {"host": host, "ground": bare.ground}

    def come(self, keep: Iterable[int] = ()) -> None:
        """With root and working directory (setns(2)), as whom it makes files, and without descriptors of a pod's."""
        syscalls.setns(self.bare.namespace, syscalls.CLONE_NEWNS)
        syscalls.forget_file_ids()
        close_all_but([*self._own, *keep])


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
        self._context = ops.Context({**home.namespaces, **dict(zip(names, fds[count:], strict=True))})
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
        sockets = [self._context.fds[f"{SOCKET}{number}"] for number in range(self._process.sockets)]
        self._prelude = self._prelude._replace(listening=tuple(map(self._give, sockets)))

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

    def run(self, system: machine.System, trees: Trees) -> tuple[int, int]:
        """The pids of the app and of the program that has started it. Raises StageError; "" when that died."""
        self._make_root([rest for op in self._todo if (rest := self._leave(op)) is not None], trees)
        ready = settle(self._process, self._context.streams, terminal=self._terminal)
        if self._terminal:
            channel.send(self._sock, TERMINAL, [self._context.fds["master"]])
        if "users" in self._context.fds:
            self._prelude = self._prelude._replace(users=self._give(self._context.fds["users"]))
        try:
            program = machine.start(
                self._process, ready.identity, tuple(ready.environment.items()), ready.program, self._prelude,
                ready.terminal, system,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StageError(f"exec {self._process.argv[0]}: {reason}") from None
        return self._spawn(program)

    def _make_root(self, todo: list[ops.Op], trees: Trees) -> None:
        context = self._context
        before = dict(context.fds)
        try:
            trees.execute(todo, context)
        except Refused:
            mine = {fd for name, fd in before.items() if name not in self._home.namespaces}
            self._home.come(
                [*mine, *context.streams, *self._given, *([self._told] if self._told >= 0 else [])]
            )
            context.fds, context.places = before, 0
            ops.execute(todo, context)

    def _leave(self, op: ops.Op) -> ops.Op | None:
        """What of this operation is to be executed here and now, the rest being for the program that we spawn."""
        prelude = self._prelude
        if type(op) not in _LEFT:
            return op
        if isinstance(op, ops.OomScore):
            self._prelude = prelude._replace(oom_score=op.value, proc=self._give_proc())
        elif isinstance(op, ops.SetLabel):
            self._label = op.check()
            path, text = lsm.attribute(self._label)
            label = (op.describe(), path.removeprefix("/proc/"), text)
            self._prelude = prelude._replace(label=label, proc=self._give_proc())
        elif isinstance(op, ops.JoinCgroup):
            members = tuple(self._give(self._open_member(path, op)) for path in op.members)
            cgroup = os.path.dirname(op.members[0])
            self._prelude = prelude._replace(members=members, cgroup=cgroup, cgroup_namespace=op.namespace)
        elif isinstance(op, ops.Enter) and (rest := op.flags & ~syscalls.CLONE_NEWNS):
            whom = self._give(self._context.fds[op.fd])
            self._prelude = prelude._replace(namespaces=whom, whose=op.fd, flags=rest)
            return op._replace(flags=syscalls.CLONE_NEWNS)
        else:
            return op
        return None

    def _give_proc(self) -> int:
        return self._prelude.proc if self._prelude.proc >= 0 else self._give(self._home.proc)

    def _open_member(self, path: str, op: ops.JoinCgroup) -> int:
        try:
            return self._home.bare.open(path, os.O_WRONLY)
        except OSError as error:
            raise StageError(f"{op.describe()}: {error.strerror}") from None

    def _give(self, fd: int) -> int:
        """The number that a descriptor of ours has in the program."""
        self._given.append(fd)
        return FIRST_OWN + len(self._given) - 1

    def _spawn(self, program: machine.Start) -> tuple[int, int]:
        source = machine.readable(program.data)
        ready, report = os.pipe2(os.O_CLOEXEC)
        fds = [*self._context.streams, source, report, *self._given]
        try:
            pid = self._native.spawn(fds, name="gantry-start")
        except OSError as error:
            raise StageError(f"start the app: {error.strerror}") from None
        # While it works we let go of the app's mounts: they shall end with the app.
        self._home.come([ready, self._told] if self._told >= 0 else [ready])
        said = os.read(ready, _REPORT.size)
        os.close(ready)
        if len(said) != _REPORT.size:
            raise StageError("")
        value, number = _REPORT.unpack(said)
        if number:
            raise StageError(self._failure(program, value, number))
        return (self._who() if self._told >= 0 else int(value)), pid

    def _failure(self, program: machine.Start, record: int, number: int) -> str:
        said = program.failure(record, number) or f"call {record}: {os.strerror(number)}"
        if (
            self._label is None
            or self._prelude.label is None
            or not said.startswith(f"{self._prelude.label[0]}: ")
        ):
            return said
        return f"{self._prelude.label[0]}: {lsm.reason(self._label, number)}"
