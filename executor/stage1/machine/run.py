"""Starts the program that executes lists: from memory, without a copy of this process (vfork), as its child.

What does the spawning is itself a list, executed by the function in this process: the child of a vfork shares our
memory, so between that and its exec nothing of Python may run in it.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from executor.stage1 import syscalls
from executor.stage1.machine import assemble
from executor.stage1.machine.assemble import List, Value

SOURCE: Final = 3
"""Descriptor from which the program reads its list."""
REPORT: Final = 4
"""Descriptor on which it says what failed: two 32 bit numbers, the record's and the errno."""
_CLONE_VM, _CLONE_VFORK, _CLONE_CLEAR_SIGHAND = 0x100, 0x4000, 0x100000000
_F_DUPFD_CLOEXEC: Final = 1030
_ABOVE: Final = 64
_BLOCK, _SET = 0, 2
_PIPE: Final = 65_536
_FAILED: Final = 127


class Machine:
    """The program in a sealed file, and the function, for this process and what is forked from it. Raises OSError."""

    def __init__(self) -> None:
        module = assemble.machine()
        if module is None:
            raise OSError(f"no lists for {os.uname().machine}")
        self.program = _sealed(assemble.program())
        code = _sealed(module.FUNCTION)
        address = syscalls.map_code(code, len(module.FUNCTION))
        os.close(code)
        self._function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(address)
        self._lists: dict[tuple[int, str, int], Spawn] = {}

    @property
    def function(self) -> Callable[[int], int]:
        """Executes the list at an address; negative: the errno of the call that failed."""
        return self._function

    def spawn(self, fds: Sequence[int], *, name: str, flags: int = 0) -> int:
        """Start the program; its pid. `fds`: what becomes its descriptors, from 0 on. `flags` of clone(2), in addition.

        It has no other descriptor and no environment; all signals are blocked. Raises OSError.
        """
        key = (len(fds), name, flags)
        made = self._lists.get(key)
        if made is None:
            made = self._lists[key] = Spawn(self, *key)
        return made.execute(fds)


class Spawn:
    """A list that spawns: assembled once for a number of descriptors; what changes is written into its memory.

    afterwards: calls that are made when the program runs.
    """

    def __init__(
        self,
        machine: Machine,
        count: int,
        name: str,
        flags: int = 0,
        afterwards: Sequence[tuple[str, Sequence[int]]] = (),
    ) -> None:
        self._machine = machine
        self._buffer = ctypes.create_string_buffer(64 * (16 + 2 * count + len(afterwards)) + 1024)
        self._base = ctypes.addressof(self._buffer)
        todo = List(base=self._base)
        self._pid = todo.room(8)
        self._fds = [todo.room(8) for _ in range(count + 1)]
        self._mask = mask = todo.room(8)
        everything = todo.room(8, b"\xff" * 8)
        flags |= _CLONE_VM | _CLONE_VFORK | _CLONE_CLEAR_SIGHAND
        clone = todo.structure("QQQQQQQQ", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
        child, failed, back = assemble.Label(), assemble.Label(), assemble.Label()
        todo.call("rt_sigprocmask", _BLOCK, everything, mask, 8)
        todo.call("clone3", clone, 64, result=self._pid, forks=True, jump=child, then=back)
        todo.label(child)
        self._child(todo, name, failed)
        todo.label(failed)
        todo.call("exit_group", _FAILED)
        todo.label(back)
        todo.call("rt_sigprocmask", _SET, mask, 0, 8)
        for call, arguments in afterwards:
            todo.call(call, *arguments)
        todo.call("end")
        self._offset = (len(todo)) * assemble.RECORD
        self._view = memoryview(self._buffer).cast("B")
        data = todo.finish()
        ctypes.memmove(self._buffer, data, len(data))

    def _child(self, todo: List, name: str, failed: assemble.Label) -> None:
        for place in self._fds:  # above any that is to be taken
            todo.call(
                "fcntl",
                Value(place),
                _F_DUPFD_CLOEXEC,
                _ABOVE,
                result=place,
                tolerate=assemble.ANY,
                jump=failed,
            )
        for number, place in enumerate(self._fds[1:]):
            todo.call("dup3", Value(place), number, 0, tolerate=assemble.ANY, jump=failed)
        last, cloexec = 0xFFFFFFFF, 4  # of close_range(2)
        todo.call("close_range", len(self._fds) - 1, last, cloexec, tolerate=assemble.ANY, jump=failed)
        argv, environment = todo.pointers([name]), todo.pointers([])
        at_empty_path = syscalls.AT_EMPTY_PATH
        todo.call(
            "execveat", Value(self._fds[0]), "", argv, environment, at_empty_path, tolerate=assemble.ANY, jump=failed
        )  # fmt: skip

    def execute(self, fds: Sequence[int]) -> int:
        """As `Machine.spawn`."""
        view = self._view
        for place, fd in zip(self._fds, (self._machine.program, *fds), strict=True):
            start = self._offset + place.offset
            view[start : start + 4] = fd.to_bytes(4, "little")
        result = self._machine.function(self._base)
        if result < 0:
            blocked = ctypes.c_uint64.from_buffer(self._buffer, self._offset + self._mask.offset).value
            signal.pthread_sigmask(
                signal.SIG_SETMASK, [one for one in range(1, 65) if blocked >> (one - 1) & 1]
            )
            raise OSError(-result, os.strerror(-result))
        start = self._offset + self._pid.offset
        return int.from_bytes(view[start : start + 4], "little")


def get() -> Machine | None:
    """The machine, if there is one for this processor and the kernel lets code be mapped and run."""
    try:
        return Machine()
    except OSError:
        return None


def readable(data: bytes) -> int:
    """A descriptor from which the program reads its list. Raises OSError."""
    if len(data) <= _PIPE:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.write(writer, data)
        os.close(writer)
        return reader
    memory = os.memfd_create("list", os.MFD_CLOEXEC)
    os.write(memory, data)
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


def _sealed(data: bytes) -> int:
    """A file in memory that nobody can change any more, open for reading: one open for writing cannot be executed."""
    import fcntl

    fd = os.memfd_create("gantry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
