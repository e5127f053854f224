"""Operations that make an app's root, as lists: executed by the function, in the process that does so (`worker`).

A list is made once for a shape of a plan, and its memory kept: what differs between pods (paths, ids, descriptors) is
written into it. A list only does what nearly every start does. Whenever a call of it fails, be it that an image lacks
a place to mount on, nothing of it counts: whoever has called goes back to where it was, and has the operations executed
one by one, which mend what can be mended, or say what is wrong.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import Any, Final

from executor.stage1 import ops, syscalls
from executor.stage1.machine.assemble import RECORD, List, Place, Value
from executor.stage1.ops import Context, Op
from executor.stage1.ops.base import IN_ROOT
from executor.stage1.ops.roots import UP, layer
from executor.stage1.ops.trees import DEVICE_NUMBERS, LINKS
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

_FEW: Final = 4
"""Operations that are not worth a list."""
_PATH, _OPTIONS = 1024, 4096
"""Room for a path, and for options of mount(2): a page."""
_REMEMBERED: Final = 8  # of some 40 KiB
_MOVE: Final = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINKS: Final = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_MOVE_TO_PATH: Final = syscalls.MOVE_MOUNT_F_EMPTY_PATH
_LOWERS: Final = 17
_USERS_IN_ATTR: Final = 24
_AT_REMOVEDIR: Final = 0x200

Variable = str | bytes | int
Split = tuple[tuple[Any, ...], tuple[Variable, ...]]
"""What of an operation is the same for many pods, and what is not: paths, options, ids."""


class Refused(Exception):
    """A call of a list has failed."""


class Trees:
    """The lists of one process. function: what executes one (machine/run.py)."""

    def __init__(self, function: Callable[[int], int]) -> None:
        self._function = function
        self._made: dict[tuple[Any, ...], _Made] = {}

    def execute(self, todo: list[Op], context: Context) -> None:
        """Raises Refused, and of what is no part of a list StageError."""
        run: list[Split] = []
        start = 0
        for number, op in enumerate([*todo, None]):
            split = _split(op)
            if split is not None:
                run.append(split)
                continue
            if len(run) >= _FEW:
                self._run(run, context)
            else:
                ops.execute(todo[start:number], context)
            if op is not None:
                ops.execute([op], context)
            run, start = [], number + 1

    def _run(self, run: list[Split], context: Context) -> None:
        key = tuple([one[0] for one in run])
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= _REMEMBERED:
                del self._made[next(iter(self._made))]
            made = self._made[key] = _Made(key)
        made.execute(self._function, [value for one in run for value in one[1]], context)


class _Made:
    """A list in memory of its own, and where in it is what."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self._buffer = ctypes.create_string_buffer(len(_Builder(key, 0).data))
        self._base = ctypes.addressof(self._buffer)
        builder = _Builder(key, self._base)
        ctypes.memmove(self._buffer, builder.data, len(builder.data))
        start = builder.start
        self._variables = [start + place.offset for place in builder.variables]
        self._inputs = [(name, start + place.offset) for name, place in builder.inputs]
        self._outputs = [(name, start + place.offset) for name, place in builder.trees.items()]
        self._taken = builder.taken
        self._places = builder.places

    def execute(self, function: Callable[[int], int], values: list[Variable], context: Context) -> None:
        buffer, fds = self._buffer, context.fds
        for offset, value in zip(self._variables, values, strict=True):
            if isinstance(value, int):
                struct.pack_into("<Q", buffer, offset, value)
            else:
                raw = os.fsencode(value)
                struct.pack_into(f"{len(raw) + 1}s", buffer, offset, raw)
        for name, offset in self._inputs:
            struct.pack_into("<Q", buffer, offset, fds[name])
        if function(self._base) < 0:
            raise Refused
        context.places += self._places
        for name in self._taken:
            fds.pop(name, None)
        for name, offset in self._outputs:
            (fds[name],) = struct.unpack_from("<i", buffer, offset)


def _split(op: Op | None) -> Split | None:
    """None: it is no part of a list."""
    how = None if op is None else _SPLITS.get(type(op))
    split: Split | None = None if how is None else how(op)
    if split is None:
        return None
    return split if all(map(_fits, split[1])) else None


def _fits(value: Variable) -> bool:
    if isinstance(value, int):
        return True
    raw = os.fsencode(value)
    return len(raw) < (_PATH if isinstance(value, str) else _OPTIONS) and b"\0" not in raw


def _split_layers(op: ops.TakeLayers) -> Split | None:
    if len(op.lowers) > _LOWERS or not op.writable:
        return None
    return ("layers", op.name, len(op.lowers)), (*op.lowers, op.writable, *op.marks())


def _split_root(op: ops.MountRoot) -> Split | None:
    return (("root", *op), ()) if op.number <= _LOWERS else None


def _split_dev(op: ops.MountDev) -> Split | None:
    if op.every or not op.base:
        return None
    return ("dev",), tuple(map(os.fsencode, op.options()))


def _split_attach(op: ops.Attach) -> Split | None:
    """Not of a volume: images seldom have a place for it."""
    if op.name.startswith("volume:"):
        return None
    return ("attach", *op), ()


_SPLITS: Final[dict[type, Callable[[Any], Split | None]]] = {
    ops.Enter: lambda op: (("enter", op.fd), ()) if op.flags == CLONE_NEWNS else None,
    ops.ActAs: lambda op: (("act",), (op.base,)),
    ops.TakeTree: lambda op: (("take", op.name, op.recursive), (op.path,)),
    ops.TakeVolume: lambda op: None if op.sub_path else (("take", op.name, op.recursive), (op.source,)),
    ops.Unshare: lambda op: (("unshare",), ()) if op.flags == CLONE_NEWNS else None,
    ops.TakeLayers: _split_layers,
    ops.MountRoot: _split_root,
    ops.MountDev: _split_dev,
    ops.Attach: _split_attach,
    ops.ReadOnlyRoot: lambda op: (("read-only",), ()),
    ops.ChangeRoot: lambda op: (("change",), ()),
}


class _Builder:
    """A list for a run of operations.

    variables: places for what differs, in the order of the operations'. inputs, trees: descriptors that are there
    before and afterwards. taken: those that are not there any more. places: so many of the ground it takes.
    """

    def __init__(self, key: tuple[Any, ...], base: int) -> None:
        self._todo = todo = List(base=base)
        self.variables: list[Place] = []
        self.inputs: list[tuple[str, Place]] = []
        self.trees: dict[str, Place] = {}
        self.taken: list[str] = []
        self.places = 0
        for kind, *static in key:
            _EMITTERS[kind](self, *static)
        todo.call("end")
        self.start = len(todo) * RECORD
        self.data = todo.finish()

    def _variable(self, size: int) -> Place:
        place = self._todo.room(size)
        self.variables.append(place)
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

    def _enter(self, name: str) -> None:
        self._todo.call("setns", Value(self._fd(name)), CLONE_NEWNS)

    def _unshare(self) -> None:
        self._todo.call("unshare", CLONE_NEWNS)

    def _act(self) -> None:
        number = self._variable(8)
        self._todo.call("prctl", syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NO_SETUID_FIXUP)
        self._todo.call("setfsgid", Value(number))
        self._todo.call("setfsuid", Value(number))

    def _clone(self, path: Place, flags: int) -> Place:
        tree = self._todo.room(8)
        self._todo.call("open_tree", AT_FDCWD, path, OPEN_TREE_CLONE | os.O_CLOEXEC | flags, result=tree)
        return tree

    def _take(self, name: str, recursive: bool) -> None:
        self.trees[name] = self._clone(self._variable(_PATH), AT_RECURSIVE if recursive else 0)

    def _attach(
        self,
        name: str,
        target: str,
        attributes: int,
        recursive: bool,
        no_links: bool,
        mapped: bool,
        propagation: int,
    ) -> None:
        todo, tree = self._todo, self._fd(name)
        place = self._open(target, os.O_PATH, _NO_LINKS if no_links else IN_ROOT)
        attr = self._attributes(attributes, propagation, mapped=mapped)
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
        todo.call("mount_setattr", Value(tree), "", flags, attr, 32)
        todo.call("move_mount", Value(tree), "", Value(place), "", _MOVE)
        todo.call("close", Value(place))
        self._close(name)

    def _layers(self, name: str, lowers: int) -> None:
        for number in range(lowers + 1):
            self.trees[layer(name, number)] = self._clone(self._variable(_PATH), 0)
        for flag in (0, _AT_REMOVEDIR, _AT_REMOVEDIR):
            self._todo.call("unlinkat", AT_FDCWD, self._variable(_PATH), flag, tolerate=errno.ENOENT)

    def _root(self, *fields: Any) -> None:
        """In the order of `ops.MountRoot`, which is the first to take places."""
        op, todo = ops.MountRoot(*fields), self._todo
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

    def _dev(self) -> None:
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

    def _read_only(self) -> None:
        attr = self._attributes(syscalls.MOUNT_ATTR_RDONLY, 0, mapped=False)
        self._todo.call("mount_setattr", Value(self._fd("root")), "", AT_EMPTY_PATH, attr, 32)

    def _change(self) -> None:
        todo = self._todo
        todo.call("fchdir", Value(self._fd("root")))
        todo.call("chroot", ".")


_EMITTERS: Final[dict[str, Callable[..., None]]] = {
    "enter": _Builder._enter,
    "act": _Builder._act,
    "take": _Builder._take,
    "attach": _Builder._attach,
    "unshare": _Builder._unshare,
    "layers": _Builder._layers,
    "root": _Builder._root,
    "dev": _Builder._dev,
    "read-only": _Builder._read_only,
    "change": _Builder._change,
}
