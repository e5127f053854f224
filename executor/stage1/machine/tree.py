"""Operations that make an app's root, as lists: executed by the function, in the process that does so (`worker`).

A list is made once for the shape of a plan, and its memory kept: what differs between pods (paths, ids, descriptors) is
written into it. A list only does what nearly every start does. Whenever a call of it fails, be it that an image lacks
a place to mount on, nothing of it counts: whoever has called goes back to where it was, and has the operations executed
one by one, which mend what can be mended, or say what is wrong.
"""

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from executor.stage1 import ops, syscalls
from executor.stage1.machine.assemble import ANY, RECORD, Label, List, Place, Value
from executor.stage1.ops import Context, Op
from executor.stage1.ops.base import IN_ROOT
from executor.stage1.ops.roots import UP, layer
from executor.stage1.ops.trees import DEVICE_NUMBERS, LINKS, marks
from executor.stage1.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
)
from executor.stage1.users import IDENTITIES, TO_READ

_FEW: Final = 4
"""Operations that are not worth a list."""
_MANY: Final = 256
"""Operations of one list: its records have numbers of 16 bits."""
_PATH, _OPTIONS = 1024, 4096
"""Room for a path, and for options of mount(2): a page."""
_MOVE: Final = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINKS: Final = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_MOVE_TO_PATH: Final = syscalls.MOVE_MOUNT_F_EMPTY_PATH
_LOWERS: Final = 17
_USERS_IN_ATTR: Final = 24
_NONE: Final = (-1).to_bytes(8, "little", signed=True)
_ENCODING: Final = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
_AT_REMOVEDIR: Final = 0x200

Variable = str | bytes | int
Packed = tuple[Any, ...]
"""An operation, as `ops.pack` makes it."""


class Refused(Exception):
    """A call of a list has failed."""


def divide(todo: Sequence[Packed]) -> tuple[tuple[Packed, ...], list[Variable]]:
    """A plan's shape, which it has in common with many pods', and what only this one has: paths, options, ids."""
    shape: list[Packed] = []
    values: list[Variable] = []
    for op in todo:
        how = _VARIABLES.get(op[0])
        if how is None:
            shape.append(op)
        else:
            how(op, shape, values)
    return tuple(shape), values


def _divide_path(op: Packed, shape: list[Packed], values: list[Variable]) -> None:
    """What has a name, a path, and more."""
    shape.append((op[0], op[1], *op[3:]))
    values.append(op[2])


def _divide_layers(op: Packed, shape: list[Packed], values: list[Variable]) -> None:
    kind, name, lowers, writable, work = op
    shape.append((kind, name, len(lowers), not writable, work))
    values += lowers
    if writable:
        values.append(writable)


def _divide_dev(op: Packed, shape: list[Packed], values: list[Variable]) -> None:
    kind, every, base, context = op
    shape.append((kind, every, bool(base), context))
    values += map(os.fsencode, ops.MountDev(every, base, context).options())


def _divide_id(op: Packed, shape: list[Packed], values: list[Variable]) -> None:
    shape.append(op[:1])
    values.append(op[1])


def _divide_members(op: Packed, shape: list[Packed], values: list[Variable]) -> None:
    kind, members, namespace = op
    shape.append((kind, len(members), namespace))
    values += members


_VARIABLES: Final[Mapping[str, Callable[[Packed, list[Packed], list[Variable]], None]]] = {
    "ActAs": _divide_id,
    "TakeTree": _divide_path,
    "TakeVolume": _divide_path,
    "TakeLayers": _divide_layers,
    "MountDev": _divide_dev,
    "JoinCgroup": _divide_members,
}


class Trees:
    """How one process executes plans of one shape.

    function: what executes a list (machine/run.py). plan: one of that shape. instead: of some of its operations, by
    their numbers, what is to be executed in their place.
    """

    def __init__(
        self, function: Callable[[int], int], plan: Sequence[Packed], instead: Mapping[int, Op | None]
    ) -> None:
        self._instead = instead
        self._parts: list[_Made | list[int]] = []
        run: list[tuple[int, Op, list[int]]] = []
        position = 0
        for number, packed in enumerate(plan):
            (op,) = ops.unpack([packed])
            first, position = position, position + len(divide([packed])[1])
            rest = instead.get(number, op)
            if rest is None:
                continue
            one = (number, rest, [*range(first, position)])
            if type(rest) in _EMITTERS and _EMITTERS[type(rest)][0](rest):
                run.append(one)
                if len(run) < _MANY:
                    continue
            else:
                self._add(function, run)
                run = [one]
            self._add(function, run)
            run = []
        self._add(function, run)
        self.opens_members = any(isinstance(part, _Made) and part.opens_members for part in self._parts)

    def _add(self, function: Callable[[int], int], run: list[tuple[int, Op, list[int]]]) -> None:
        if len(run) >= _FEW:
            self._parts.append(_Made(function, [(op, positions) for _, op, positions in run]))
        else:
            self._parts.append([number for number, _, _ in run])

    def execute(self, plan: Sequence[Packed], values: Sequence[Variable], context: Context) -> None:
        """Raises Refused, and of what is no part of a list StageError."""
        for part in self._parts:
            if isinstance(part, _Made):
                part.execute(values, context)
            else:
                ops.execute(self._operations(plan, part), context)

    def execute_singly(self, plan: Sequence[Packed], context: Context) -> None:
        """Likewise without lists. Raises StageError."""
        ops.execute(self._operations(plan, range(len(plan))), context)

    def _operations(self, plan: Sequence[Packed], numbers: Sequence[int]) -> list[Op]:
        found = [
            self._instead[number] if number in self._instead else ops.unpack([plan[number]])[0]
            for number in numbers
        ]
        return [op for op in found if op is not None]


class OpenMembers(NamedTuple):
    """Open files of cgroups, for the program. directories: where their paths begin, which are values of the plan.

    Whoever cannot do so in a list does it before.
    """

    directories: tuple[int, ...]
    names: tuple[str, ...]

    def describe(self) -> str:
        return "open the files of the cgroup"

    def execute(self, context: Context) -> None:
        pass


class _Made:
    """A list in memory of its own, and where in it is what."""

    def __init__(self, function: Callable[[int], int], run: list[tuple[Op, list[int]]]) -> None:
        self._function = function
        self._buffer = ctypes.create_string_buffer(len(_Builder(run, 0).data))
        self._base = ctypes.addressof(self._buffer)
        self._view = memoryview(self._buffer).cast("B")
        builder = _Builder(run, self._base)
        ctypes.memmove(self._buffer, builder.data, len(builder.data))
        start = builder.start
        self._variables = [(number, start + place.offset, size) for number, place, size in builder.variables]
        self._inputs = [(name, start + place.offset) for name, place in builder.inputs]
        self._outputs = [(name, start + place.offset) for name, place in builder.trees.items()]
        self._taken = builder.taken
        self._unless = [start + place.offset for place in builder.unless]
        self._places = builder.places
        self.opens_members = any(isinstance(op, OpenMembers) for op, _ in run)

    def execute(self, values: Sequence[Variable], context: Context) -> None:
        view, fds = self._view, context.fds
        for offset in self._unless:
            view[offset : offset + 8] = _NONE
        for number, offset, size in self._variables:
            value = values[number]
            if isinstance(value, int):
                view[offset : offset + 8] = value.to_bytes(8, "little")
                continue
            raw = (value if isinstance(value, bytes) else value.encode(*_ENCODING)) + b"\0"
            length = len(raw)
            if length > size or raw.find(0) != length - 1:
                raise Refused
            view[offset : offset + length] = raw
        for name, offset in self._inputs:
            view[offset : offset + 8] = fds[name].to_bytes(8, "little")
        if self._function(self._base) < 0:
            raise Refused
        context.places += self._places
        for name in self._taken:
            fds.pop(name, None)
        for name, offset in self._outputs:
            fds[name] = int.from_bytes(view[offset : offset + 4], "little", signed=True)


class _Builder:
    """A list for a run of operations.

    run: operations, and the numbers of their values. variables: those numbers, the places of such values, and the room
    that is there. inputs, trees: descriptors that are there before and afterwards. taken: those that are not there any
    more. unless: places that have -1 in them before, for descriptors that there may not be. places: so many of the
    ground it takes.
    """

    def __init__(self, run: list[tuple[Op, list[int]]], base: int) -> None:
        self._todo = todo = List(base=base)
        self._positions: list[int] = []
        self.variables: list[tuple[int, Place, int]] = []
        self.inputs: list[tuple[str, Place]] = []
        self.trees: dict[str, Place] = {}
        self.taken: list[str] = []
        self.unless: list[Place] = []
        self.places = 0
        for op, positions in run:
            self._positions = [*positions]
            _EMITTERS[type(op)][1](self, op)
        todo.call("end")
        self.start = len(todo) * RECORD
        self.data = todo.finish()

    def _variable(self, size: int) -> Place:
        place = self._todo.room(size)
        self.variables.append((self._positions.pop(0), place, size))
        return place

    def _fd(self, name: str) -> Place:
        """Of what an operation before has opened, or whoever executes the list."""
        if name in self.trees:
            return self.trees[name]
        place = self._todo.room(8)
        self.inputs.append((name, place))
        return place

    def _attributes(self, attributes: int, propagation: int, *, mapped: bool) -> Place:
        if mapped:
            attributes |= syscalls.MOUNT_ATTR_IDMAP
        place = self._todo.structure("QQQQ", attributes, 0, propagation, 0)
        if mapped:
            self.inputs.append(("users", place.at(_USERS_IN_ATTR)))
        return place

    def _open(self, path: str, flags: int, resolve: int) -> Place:
        """Below the app's root."""
        todo, fd = self._todo, self._todo.room(8)
        how = todo.structure("QQQ", flags | os.O_CLOEXEC, 0, resolve)
        todo.call("openat2", Value(self._fd("root")), path, how, 24, result=fd)
        return fd

    def enter(self, op: ops.Enter) -> None:
        self._todo.call("setns", Value(self._fd(op.fd)), CLONE_NEWNS)

    def unshare(self, _: ops.Unshare) -> None:
        self._todo.call("unshare", CLONE_NEWNS)

    def act(self, _: ops.ActAs) -> None:
        number = self._variable(8)
        self._todo.call("prctl", syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NO_SETUID_FIXUP)
        self._todo.call("setfsgid", Value(number))
        self._todo.call("setfsuid", Value(number))

    def _clone(self, path: Place, flags: int) -> Place:
        tree = self._todo.room(8)
        self._todo.call("open_tree", AT_FDCWD, path, OPEN_TREE_CLONE | os.O_CLOEXEC | flags, result=tree)
        return tree

    def take(self, op: ops.TakeTree | ops.TakeVolume) -> None:
        self.trees[op.name] = self._clone(self._variable(_PATH), AT_RECURSIVE if op.recursive else 0)

    def attach(self, op: ops.Attach) -> None:
        todo, tree = self._todo, self._fd(op.name)
        if op.name.startswith("volume:"):
            place = self._open_or_make(op.target, tree)
        else:
            place = self._open(op.target, os.O_PATH, _NO_LINKS if op.no_links else IN_ROOT)
        attr = self._attributes(op.attributes, op.propagation, mapped=op.mapped)
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if op.recursive else 0)
        todo.call("mount_setattr", Value(tree), "", flags, attr, 32)
        todo.call("move_mount", Value(tree), "", Value(place), "", _MOVE)
        todo.call("close", Value(place))
        self._close(op.name)

    def place(self, op: ops.MakePlace) -> None:
        """Where it is not yet, they are executed one by one."""
        self._todo.call("close", Value(self._open(op.target, _DIRECTORY, _NO_LINKS)))

    def _open_or_make(self, target: str, tree: Place | None) -> Place:
        """Below the app's root, made when nothing but it is missing: an image seldom has a place for a volume.

        A directory, or whatever `tree` is.
        """
        todo, root = self._todo, Value(self._fd("root"))
        above, _, name = target.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            return self._open(target, os.O_PATH, IN_ROOT)
        how, directory, file = todo.structure("QQQ", os.O_PATH | os.O_CLOEXEC, 0, IN_ROOT), Label(), Label()
        missing, made, there = Label(), Label(), Label()
        place, made_file = todo.room(8), todo.room(8)
        todo.call(
            "openat2", root, target, how, 24, result=place, tolerate=errno.ENOENT, jump=missing, then=there
        )
        todo.label(missing)
        parent = self._open(above or ".", _DIRECTORY, IN_ROOT)
        if tree is not None:
            only = todo.structure("QQQ", _DIRECTORY, 0, 0)
            todo.call(
                "openat2", Value(tree), ".", only, 24, result=made_file, tolerate=errno.ENOTDIR, jump=file
            )
            todo.call("close", Value(made_file), then=directory)
            todo.label(file)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            todo.call("openat", Value(parent), name, flags, 0o644, result=made_file)
            todo.call("close", Value(made_file), then=made)
        todo.label(directory)
        todo.call("mkdirat", Value(parent), name, 0o755)
        todo.label(made)
        todo.call("close", Value(parent))
        todo.call("openat2", root, target, how, 24, result=place)
        todo.label(there)
        return place

    def own_volume(self, op: ops.OwnVolume) -> None:
        todo, tree = self._todo, self._todo.room(8)
        place = self._open_or_make(op.path, None)
        flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH
        todo.call("open_tree", Value(place), "", flags, result=tree)
        todo.call("move_mount", Value(tree), "", Value(place), "", _MOVE)
        todo.call("close", Value(place))
        todo.call("close", Value(tree))

    def null(self, _: ops.OpenNull) -> None:
        place = self.trees[ops.NULL] = self._todo.room(8)
        self._todo.call("openat", AT_FDCWD, "/dev/null", os.O_PATH | os.O_CLOEXEC, result=place)

    def layers(self, op: ops.TakeLayers) -> None:
        """What `volatile` has left is found through the tree: its path would be one more to write into the list."""
        for number in range(len(op.lowers) + bool(op.writable)):
            self.trees[layer(op.name, number)] = self._clone(self._variable(_PATH), 0)
        if op.writable:
            above = Value(self.trees[layer(op.name, len(op.lowers))])
            new = Label()  # which most are
            for name, flag in zip(marks(op.work), (0, _AT_REMOVEDIR, _AT_REMOVEDIR), strict=True):
                self._todo.call("unlinkat", above, name, flag, tolerate=errno.ENOENT, jump=new)
            self._todo.label(new)

    def root(self, op: ops.MountRoot) -> None:
        """It is the first to take places."""
        todo = self._todo
        self.places = op.number + 1
        for number in range(op.number + 1):
            tree, only = self._fd(layer(op.name, number)), number < op.number
            read_only = syscalls.MOUNT_ATTR_RDONLY if only else 0
            attr = self._attributes(read_only, syscalls.MS_PRIVATE, mapped=op.mapped)
            todo.call("mount_setattr", Value(tree), "", AT_EMPTY_PATH, attr, 32)
            todo.call("move_mount", Value(tree), "", AT_FDCWD, f"/{number}", _MOVE_TO_PATH)
            self._close(layer(op.name, number))
        flags = 0 if op.device_files else MS_NODEV
        lowers = tuple(f"/{number}" for number in range(op.number))
        todo.call("mount", "overlay", "/", "overlay", flags, op.options(lowers, f"/{op.number}"))
        root = self.trees["root"] = todo.room(8)
        todo.call("openat", AT_FDCWD, UP, _DIRECTORY, result=root)

    def _close(self, name: str) -> None:
        self._todo.call("close", Value(self._fd(name)))
        self.trees.pop(name, None)
        self.taken.append(name)

    def dev(self, _: ops.MountDev) -> None:
        todo = self._todo
        place = self._open("dev", _DIRECTORY, _NO_LINKS)
        todo.call("fchdir", Value(place))
        todo.call("mount", "tmpfs", ".", "tmpfs", MS_NOSUID | MS_NOEXEC, self._variable(_OPTIONS))
        todo.call("close", Value(place))
        dev = self._open("dev", _DIRECTORY, _NO_LINKS)
        todo.call("fchdir", Value(dev))
        todo.call("umask", 0)
        for name, (major, minor) in DEVICE_NUMBERS.items():
            todo.call("mknodat", AT_FDCWD, name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        todo.call("umask", 0o022)
        for name in ("pts", "shm", "mqueue"):
            todo.call("mkdirat", AT_FDCWD, name, 0o755)
        for name, to in LINKS.items():
            todo.call("symlinkat", to, AT_FDCWD, name)
        todo.call("mount", "devpts", "pts", "devpts", MS_NOSUID | MS_NOEXEC, self._variable(_OPTIONS))
        todo.call("close", Value(dev))

    def members(self, op: OpenMembers) -> None:
        for directory, name in zip(op.directories, op.names, strict=True):
            file = self.trees[name] = self._todo.room(8)
            path = self._variable(_PATH)
            self._todo.call("openat", directory, path, os.O_WRONLY | os.O_CLOEXEC, result=file)

    def read_only(self, _: ops.ReadOnlyRoot) -> None:
        attr = self._attributes(syscalls.MOUNT_ATTR_RDONLY, 0, mapped=False)
        self._todo.call("mount_setattr", Value(self._fd("root")), "", AT_EMPTY_PATH, attr, 32)

    def change(self, _: ops.ChangeRoot) -> None:
        todo = self._todo
        todo.call("fchdir", Value(self._fd("root")))
        todo.call("chroot", ".")
        for path in IDENTITIES:
            file, how = todo.room(8), todo.structure("QQQ", TO_READ, 0, IN_ROOT)
            self.unless.append(file)
            self.trees[path] = file
            todo.call("openat2", Value(self._fd("root")), path, how, 24, result=file, tolerate=ANY)


def _always(_: Any) -> bool:
    return True


_EMITTERS: Final[Mapping[type, tuple[Callable[[Any], bool], Callable[[_Builder, Any], None]]]] = {
    ops.Enter: (lambda op: op.flags == CLONE_NEWNS, _Builder.enter),
    ops.Unshare: (lambda op: op.flags == CLONE_NEWNS, _Builder.unshare),
    ops.ActAs: (_always, _Builder.act),
    ops.TakeTree: (_always, _Builder.take),
    ops.TakeVolume: (lambda op: not op.sub_path, _Builder.take),
    ops.TakeLayers: (lambda op: len(op.lowers) <= _LOWERS, _Builder.layers),
    ops.MountRoot: (lambda op: op.number <= _LOWERS, _Builder.root),
    ops.MountDev: (lambda op: op.base and not op.every, _Builder.dev),
    ops.Attach: (_always, _Builder.attach),
    ops.OwnVolume: (_always, _Builder.own_volume),
    OpenMembers: (_always, _Builder.members),
    ops.OpenNull: (_always, _Builder.null),
    ops.MakePlace: (_always, _Builder.place),
    ops.ReadOnlyRoot: (_always, _Builder.read_only),
    ops.ChangeRoot: (_always, _Builder.change),
}
"""Which operations can be in a list, and how they get there."""
