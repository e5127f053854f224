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
from executor.stage1.machine.tree import OpenMembers, Refused, Trees, Variable, divide
from executor.stage1.ops import StageError
from executor.stage1.process import SOCKET, Limit, Process, make_room, settle
from executor.stage1.users import IDENTITIES, Identity

_REPORT: Final = struct.Struct("<II")
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_REMEMBERED: Final = 16  # shapes of starts, of some 60 KiB
_OPERATIONS: Final = 128
"""Of a plan that is remembered: one may have thousands of volumes."""
_GROUPS: Final = 64
"""Of a user that is remembered: an image may have put one into thousands."""
_PIPE: Final = 65_536
_MEMBER, _PROC, _TOLD, _USERS = "member.", "host's /proc", "told", "users"


def worker(sock: socket.socket, native: machine.Machine, bare: Bare, *, host: int, last_cap: int) -> None:
    """Serve until the launcher lets go of its end, or a start fails."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    own = [sock.fileno(), native.program]
    close_all_but([*own, host, *bare.descriptors])
    syscalls.set_process_name("gantry-start")
    limit = make_room()
    home = _Home(own, native, bare, host, machine.System.here(last_cap, _ignored_signals()))
    home.come()
    shapes: dict[Any, _Shape] = {}
    while True:
        message, fds = channel.receive(sock)
        if message is None:
            return
        try:
            job = _Job(sock, home, message, fds)
            shape = shapes.get(job.key)
            if shape is None:
                shape = _Shape(home, job, limit)
                if len(shapes) >= _REMEMBERED:
                    del shapes[next(iter(shapes))]
                if len(job.plan) <= _OPERATIONS:
                    shapes[job.key] = shape
            app = job.run(shape)
        except StageError as error:
            channel.send(sock, str(error))
            return
        except Exception as error:
            channel.send(sock, f"start the app: {type(error).__name__}: {error}")
            raise
        channel.send(sock, app)


def _ignored_signals() -> tuple[int, ...]:
    """Python ignores some, and so may whoever started the executor: exec keeps that (signal(7))."""
    for line in podfiles.read("/proc/self/status").splitlines():
        if line.startswith(b"SigIgn:"):
            mask = int(line.split()[1], 16)
            return tuple(number for number in range(1, 65) if mask >> (number - 1) & 1)
    raise OSError("no SigIgn in /proc/self/status")


class _Home:
    """What it comes back to: its mount namespace, the host's, that on which roots are built, and the host's /proc.

    source, report: ends of pipes, from which the program reads, and to which it says what became of it. telling: of a
    socket to which an app that is the first of its own pid namespace says that it is there.
    """

    def __init__(
        self, own: list[int], native: machine.Machine, bare: Bare, host: int, system: machine.System
    ) -> None:
        self.native, self.bare, self.system = native, bare, system
        self.proc = os.open("/proc", _DIRECTORY)
        self.source, self._given = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.source, True)
        self._said, self.report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.telling = telling.detach()
        pipes = (self.source, self._given, self._said, self.report, self._told.fileno(), self.telling)
        self._own = sorted([*own, host, self.proc, *pipes, *bare.descriptors])
        self.namespaces = {"host": host, "ground": bare.ground}

    def come(self, keep: Iterable[int] = ()) -> None:
        """With root and working directory (setns(2)), as whom it makes files, and without descriptors of a pod's."""
        syscalls.setns(self.bare.namespace, syscalls.CLONE_NEWNS)
        syscalls.forget_file_ids()
        close_all_but([*self._own, *keep])

    def coming(self) -> list[tuple[str, tuple[int, ...]]]:
        """The same as calls of a list."""
        calls: list[tuple[str, tuple[int, ...]]] = [
            ("setns", (self.bare.namespace, syscalls.CLONE_NEWNS)),
            ("setfsuid", (0,)),
            ("setfsgid", (0,)),
            ("prctl", (syscalls.PR_SET_SECUREBITS, 0)),
        ]
        first = 3
        for fd in self._own:
            if fd > first:
                calls.append(("close_range", (first, fd - 1, 0)))
            first = fd + 1
        return [*calls, ("close_range", (first, 0xFFFFFFFF, 0))]

    def hand(self, data: bytes) -> int:
        """Where the program finds its list: the pipe, or what is closed when we come home."""
        if len(data) <= _PIPE:
            try:
                written = os.write(self._given, data)
            except BlockingIOError:
                written = 0
            if written == len(data):
                return self.source
            while written:  # who may have no pipe of the usual size has one that is full
                written -= len(os.read(self.source, written))
        return machine.readable(data)

    def hear(self) -> tuple[int, int]:
        """What a program has said that has ended. Raises StageError, of nothing, when it died before."""
        try:
            said = os.read(self._said, _REPORT.size)
        except BlockingIOError:
            said = b""
        if len(said) != _REPORT.size:
            raise StageError("")
        value, number = _REPORT.unpack(said)
        return value, number

    def who(self) -> int:
        """The pid of the app that has told us that it is there, as the kernel says it (unix(7)). Raises StageError, of
        nothing, when whoever should have done so was killed before."""
        size = socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            _, ancillary, _, _ = self._told.recvmsg(1, size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            ancillary = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
        raise StageError("")


class _Shape:
    """What a start has in common with others: how its root is made, and what its program does.

    given: names of what is handed to that, from descriptor FIRST_OWN on. members: which values are cgroups' files.
    """

    def __init__(self, home: _Home, job: "_Job", limit: Limit) -> None:
        self._home = home
        self._process = job.process.limited(limit)
        self.label: lsm.Label | None = None
        self.given: list[str] = []
        self.members: list[int] = []
        self.roots: tuple[int, ...] = ()
        self.prelude = machine.Prelude()
        if job.process.own_proc:
            self.prelude = self.prelude._replace(told=self._give(_TOLD))
            null = self._give(ops.NULL) if job.process.own_proc == "masked" else -1
            self.prelude = self.prelude._replace(null=null)
        sockets = tuple(self._give(f"{SOCKET}{number}") for number in range(job.process.sockets))
        self.prelude = self.prelude._replace(listening=sockets)
        instead: dict[int, ops.Op | None] = {}
        position = 0
        for number, packed in enumerate(job.plan):
            (op,) = ops.unpack([packed])
            if (rest := self._leave(op, position)) is not op:
                instead[number] = rest
            position += len(divide([packed])[1])
        if _USERS in job.names:
            self.prelude = self.prelude._replace(users=self._give(_USERS))
        self.trees = Trees(home.native.function, job.plan, instead)
        self._starts: dict[tuple[Identity, str, str], machine.Start] = {}
        count = 3 + 2 + len(self.given)  # streams, source and report
        self.spawn = machine.Spawn(home.native, count, "gantry-start", afterwards=home.coming())

    def start(self, identity: Identity, terminal: str, base: str) -> machine.Start:
        """What the program does for this user (see machine/app.py)."""
        key = identity, terminal, base
        made = self._starts.get(key)
        if made is None:
            made = machine.start(self._process, identity, self.prelude, terminal, self._home.system, base)
            if len(self._starts) >= _REMEMBERED:
                self._starts.clear()
            if len(identity.groups) <= _GROUPS:
                self._starts[key] = made
        return made

    def _leave(self, op: ops.Op, position: int) -> ops.Op | None:
        """What of this operation is to be executed by us, the rest being for the program. position: of its values."""
        prelude = self.prelude
        if isinstance(op, ops.OomScore):
            self.prelude = prelude._replace(oom_score=op.value, proc=self._give_proc())
        elif isinstance(op, ops.SetLabel):
            self.label = op.check()
            path, text = lsm.attribute(self.label)
            label = (op.describe(), path.removeprefix("/proc/"), text)
            self.prelude = prelude._replace(label=label, proc=self._give_proc())
        elif isinstance(op, ops.JoinCgroup):
            self.members = [*range(position, position + len(op.members))]
            names = tuple(f"{_MEMBER}{number}" for number in self.members)
            members = tuple(map(self._give, names))
            self.prelude = prelude._replace(members=members, cgroup_namespace=op.namespace)
            self.roots = tuple(self._home.bare.find(path)[0] for path in op.members)
            if -1 not in self.roots:
                return OpenMembers(self.roots, names)
        elif isinstance(op, ops.Enter) and (rest := op.flags & ~syscalls.CLONE_NEWNS):
            self.prelude = prelude._replace(namespaces=self._give(op.fd), whose=op.fd, flags=rest)
            return op._replace(flags=syscalls.CLONE_NEWNS)
        else:
            return op
        return None

    def _give_proc(self) -> int:
        return self.prelude.proc if self.prelude.proc >= 0 else self._give(_PROC)

    def _give(self, name: str) -> int:
        """The number that a descriptor of ours has in the program."""
        self.given.append(name)
        return FIRST_OWN + len(self.given) - 1


class _Job:
    """One start. key: of its shape."""

    def __init__(
        self,
        sock: socket.socket,
        home: _Home,
        message: tuple[list[Any], Any, tuple[str, ...]],
        fds: list[int],
    ) -> None:
        self.plan, process, names = message
        self.names, self.process = names, Process(*process)
        count = len(fds) - len(names)
        self._sock = sock
        self._home = home
        self._terminal = not count
        if self._terminal:
            self.plan += ops.pack([ops.Terminal(console="app" not in names)])
        self._fds = dict(zip(names, fds[count:], strict=True))
        if self.process.own_proc:
            self._fds[_TOLD] = home.telling
        shape, self._values = divide(self.plan)
        self.key = (shape, names, count, *process[6:9], *process[10:])
        self._context = ops.Context({**home.namespaces, **self._fds})
        self._context.streams = fds[:count]

    def run(self, shape: _Shape) -> int:
        """The pid of the app. Raises StageError; "" when that, or what should have started it, died."""
        context, process = self._context, self.process
        self._fds[_PROC] = self._home.proc
        self._make_root(shape)
        there = context.fds
        files = [there[name] for name in IDENTITIES if name in there]
        ready = settle(
            process,
            context.streams,
            root=there.get("root", -1),
            terminal=self._terminal,
            look=False,
            files=files,
        )
        if self._terminal:
            channel.send(self._sock, TERMINAL, [context.fds["master"]])
        name = process.argv[0]
        base = "/" if name.startswith("/") else "." if "/" in name else ""
        start = shape.start(ready.identity, ready.terminal, base)
        try:
            data = start.of(ready.program, process.argv, ready.environment.items())
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StageError(f"exec {name}: {reason}") from None
        there = {**there, **self._fds}
        given = [there[one] for one in shape.given]
        try:
            program = shape.spawn.execute(
                [*context.streams, self._home.hand(data), self._home.report, *given]
            )
        except OSError as error:
            raise StageError(f"start the app: {error.strerror}") from None
        # We are at home, and have let go of the app's mounts: they shall end with the app.
        os.waitpid(program, 0)
        value, number = self._home.hear()
        if number:
            raise StageError(self._failure(shape, start, value, number))
        return self._home.who() if process.own_proc else value

    def _make_root(self, shape: _Shape) -> None:
        context = self._context
        before = dict(context.fds)
        try:
            values = self._find_members(shape)
            shape.trees.execute(self.plan, values, context)
        except Refused:
            self._home.come([*self._fds.values(), *context.streams])
            context.fds, context.places = before, 0
            self._open_members(shape)
            shape.trees.execute_singly(self.plan, context)

    def _find_members(self, shape: _Shape) -> list[Variable]:
        """The values, in which a list can open the cgroups' files; or they are opened now. Raises Refused."""
        if not shape.trees.opens_members:
            self._open_members(shape)
            return self._values
        values = self._values.copy()
        for number, root in zip(shape.members, shape.roots, strict=True):
            directory, values[number] = self._home.bare.find(str(values[number]))
            if directory != root:
                raise Refused
        return values

    def _open_members(self, shape: _Shape) -> None:
        for number in shape.members:
            path = str(self._values[number])
            try:
                self._fds[f"{_MEMBER}{number}"] = self._home.bare.open(path, os.O_WRONLY)
            except OSError as error:
                raise StageError(f"join the cgroup {os.path.dirname(path)}: {error.strerror}") from None

    def _failure(self, shape: _Shape, start: machine.Start, record: int, number: int) -> str:
        cgroup = os.path.dirname(str(self._values[shape.members[0]])) if shape.members else ""
        said = start.failure(record, number, cgroup, self.process.argv[0])
        label = shape.prelude.label
        if shape.label is not None and label is not None and said and said.startswith(f"{label[0]}: "):
            return f"{label[0]}: {lsm.reason(shape.label, number)}"
        return said or f"call {record}: {os.strerror(number)}"
