"""What is done with a pod's init between two pods, as lists for the function (see `reuse`).

`Look`: at all that the first could have left there. `Renewal`: so that of what cannot be looked at nothing is left.
`Counts`: what the kernel goes on counting there, in namespaces that are new.
"""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from executor.stage1 import syscalls
from executor.stage1.machine.assemble import ANY, RECORD, Label, List, Place, Value

Function = Callable[[int], int]
STAT, STATFS, NAME = 144, 120, 65
"""Sizes of a struct stat (of x86_64; that of aarch64 is no larger), a struct statfs, a name in a struct utsname."""
ROOTS: Final = 2 * STAT + STATFS
"""What is seen of /dev/shm and /dev/mqueue: stat(2) of both, statfs(2) of the first."""
NAMES, DOMAIN = 6 * NAME, 5 * NAME
"""Size of a struct utsname, and where in it the domain's is."""
_INODE: Final = 8  # in a struct stat
_SHM_INFO, _SEM_INFO, _MSG_INFO = 14, 19, 12
_SHM_SIZE, _SEM_SIZE, _MSG_SIZE = 48, 40, 32
_IPC_PRIVATE, _IPC_RMID = 0, 0
_FIRST_PROCESS: Final = 258  # in a directory of proc: fs/proc/base.c, TGID_OFFSET
_LENGTH: Final = 16  # of an entry, in a struct linux_dirent64
_ENTRIES: Final = 512
_FSPICK: Final = 8 | 1  # FSPICK_EMPTY_PATH, FSPICK_CLOEXEC
_RECONFIGURE: Final = 7  # FSCONFIG_CMD_RECONFIGURE
_CLONE: Final = (
    0x100000000 | 0x100000 | 0x400 | 0x100
)  # CLEAR_SIGHAND, PARENT_SETTID, FILES, VM: it needs no stack
_LAST_PID: Final = "2"  # of a new one: that of a child that init has had (machine/init.py)
_TMPFILE: Final = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC


class _Held:
    """A list in memory of its own. What of it is tried may fail: then it goes on at `_back`, and is not `done`."""

    inputs: tuple[str, ...] = ()
    """Names of the descriptors that it takes."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._buffer = ctypes.create_string_buffer(len(self._assemble(0)))
        self._base = ctypes.addressof(self._buffer)
        data = self._assemble(self._base)
        ctypes.memmove(self._buffer, data, len(data))

    def _assemble(self, base: int) -> bytes:
        self._todo = List(base=base)
        self._back = Label()
        self._done, self._given = self._todo.room(8), self._todo.room(8 * len(self.inputs))
        self._build()
        self._todo.call("end")
        self._start = len(self._todo) * RECORD
        return self._todo.finish()

    def _build(self) -> None:
        raise NotImplementedError

    def _input(self, name: str) -> Value:
        return Value(self._given.at(8 * self.inputs.index(name)))

    def _try(
        self, name: str, *arguments: int | str | bytes | Place | Value, result: Place | None = None
    ) -> None:
        self._todo.call(name, *arguments, result=result, tolerate=ANY, jump=self._back)

    def _end_of_trying(self) -> None:
        self._try("getpid", result=self._done)
        self._todo.label(self._back)

    def _execute(self, fds: bytes) -> bool:
        """Whether all of it has been done. fds: of the `inputs`, as `given` makes them. Raises OSError for one that may
        have ended in other namespaces than ours."""
        self._put(self._given, f"{len(fds)}s", fds)
        self._put(self._done, "<Q", 0)
        if (result := self._function(self._base)) < 0:
            raise OSError(-result, os.strerror(-result))
        return self._get(self._done, 8) != bytes(8)

    def _put(self, place: Place, form: str, *values: int | bytes) -> None:
        struct.pack_into(form, self._buffer, self._start + place.offset, *values)

    def _get(self, place: Place, size: int) -> bytes:
        return ctypes.string_at(self._base + self._start + place.offset, size)

    def _count(self) -> None:
        """How many ipc objects there are. And which number the next one of each kind gets, and the next file in
        /dev/shm: these go on though nothing is left."""
        todo = self._todo
        self._objects = todo.room(_SHM_SIZE + _SEM_SIZE + _MSG_SIZE)
        self._numbers = [todo.room(8) for _ in range(3)]
        self._file, file = todo.room(STAT), todo.room(8)
        self._try("shmctl", 0, _SHM_INFO, self._objects)
        self._try("semctl", 0, 0, _SEM_INFO, self._objects.at(_SHM_SIZE))
        self._try("msgctl", 0, _MSG_INFO, self._objects.at(_SHM_SIZE + _SEM_SIZE))
        shm, sem, msg = self._numbers
        self._try("shmget", _IPC_PRIVATE, 1, 0o600, result=shm)
        self._try("shmctl", Value(shm), _IPC_RMID, 0)
        self._try("semget", _IPC_PRIVATE, 1, 0o600, result=sem)
        self._try("semctl", Value(sem), 0, _IPC_RMID, 0)
        self._try("msgget", _IPC_PRIVATE, 0o600, result=msg)
        self._try("msgctl", Value(msg), _IPC_RMID, 0)
        self._try("openat", self._input("shm"), ".", _TMPFILE, 0o600, result=file)
        self._try("fstat", Value(file), self._file)
        self._try("close", Value(file))

    def _counted(self) -> bytes:
        size = _SHM_SIZE + _SEM_SIZE + _MSG_SIZE
        numbers = b"".join(self._get(place, 8) for place in self._numbers)
        return self._get(self._objects, size) + numbers + self._get(self._file.at(_INODE), 8)


class Counts(_Held):
    """What is counted in the ipc namespace that we are in, and in a tmpfs (`shm`); each call counts one further."""

    inputs = ("shm",)

    def _build(self) -> None:
        self._count()
        self._end_of_trying()

    def read(self, fds: bytes) -> bytes:
        """Raises OSError."""
        if not self._execute(fds):
            raise OSError(errno.EIO, "counting failed")
        return self._counted()


class Look(_Held):
    """All that can be looked at of what a pod could have left with its init.

    Its inputs: `init` (a pidfd), `shm`, `mqueue`, `proc` (directories of its own root), the namespaces that are our
    `own`, and the files whose texts it compares. told: what these say, the first of which may go on.
    """

    def __init__(self, function: Function, told: Mapping[str, bytes]) -> None:
        self.told = told
        self.inputs = ("init", "shm", "mqueue", "proc", "own uts", "own ipc", *told)
        super().__init__(function)
        read = [
            struct.pack("<Q", len(text)) + text.ljust(_aligned(len(text) + 1), b"\0")
            for text in told.values()
        ]
        self._expected = b"".join(read)

    def _build(self) -> None:
        todo, whole = self._todo, self._input("init")
        self._packets = todo.room(0)
        for number, (name, text) in enumerate(self.told.items()):
            size, place = todo.room(8), todo.room(_aligned(len(text) + 1))
            self._try(
                "pread64",
                self._input(name),
                place,
                len(text) + (1 if number else 0),
                0,
                result=size,
            )
        self._listed, self._entries = todo.room(8), todo.room(_ENTRIES)
        self._try("lseek", self._input("proc"), _FIRST_PROCESS, os.SEEK_SET)
        self._try("getdents64", self._input("proc"), self._entries, _ENTRIES, result=self._listed)
        self._roots = todo.room(ROOTS)
        self._try("fstat", self._input("shm"), self._roots)
        self._try("fstat", self._input("mqueue"), self._roots.at(STAT))
        self._try("fstatfs", self._input("shm"), self._roots.at(2 * STAT))
        self._names = todo.room(NAMES)
        self._try("setns", whole, syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
        self._try("uname", self._names)
        self._count()
        self._end_of_trying()
        todo.call("setns", self._input("own uts"), syscalls.CLONE_NEWUTS)
        todo.call("setns", self._input("own ipc"), syscalls.CLONE_NEWIPC)

    def is_as_new(self, fds: bytes, made: bytes, hostname: str, counted: bytes) -> bool:
        """Whether it is all as it was, or is with a new one. Raises OSError.

        made: `ROOTS` and the domain's name when it was. counted: what `Counts` says of new ones.
        """
        size = len(self._expected)
        ctypes.memset(self._base + self._start + self._packets.offset, 0, size)
        return (
            self._execute(fds)
            and self._get(self._packets, size) == self._expected
            and self._is_alone()
            and self._get(self._roots, ROOTS) + self._get(self._names.at(DOMAIN), NAME) == made
            and self._hostname() == hostname
            and self._counted() == counted
        )

    def _is_alone(self) -> bool:
        """Whether the only process in its pid namespace is that namespace's first."""
        (listed,) = struct.unpack("<Q", self._get(self._listed, 8))
        (length,) = struct.unpack("<H", self._get(self._entries.at(_LENGTH), 2))
        return bool(listed == length and self._get(self._entries.at(_LENGTH + 3), 2) == b"1\0")

    def _hostname(self) -> str:
        return os.fsdecode(self._get(self._names.at(NAME), NAME).partition(b"\0")[0])


class Renewal(_Held):
    """What is remembered of a pod, but cannot be looked at, goes; by a child, for an app can have made it long.

    Which files of /proc and /sys were looked at, and when that was first; which number the next process has: that of
    the first in a new one. Its inputs: as `Look`'s, `sys`, and `last pid`, the kernel's setting.
    """

    inputs = ("init", "proc", "sys", "own pid", "last pid")

    def _build(self) -> None:
        todo, child, parent, failed = self._todo, Label(), Label(), Label()
        self._pid, context = todo.room(8), todo.room(8)
        # By the kernel alone: what clone3 returns the child would write, too, and sooner or later.
        clone = todo.structure("QQQQQQQQ", _CLONE, 0, 0, self._pid, signal.SIGCHLD, 0, 0, 0)
        # The setting is that of the namespace of whoever writes it. The child meets nobody there.
        self._try("setns", self._input("init"), syscalls.CLONE_NEWPID)
        todo.call("clone3", clone, 64, forks=True, jump=child, then=parent)
        todo.label(child)
        calls: list[tuple[Any, ...]] = [("pwrite64", self._input("last pid"), _LAST_PID, len(_LAST_PID), 0)]
        for name in ("proc", "sys"):
            calls.append(("fspick", self._input(name), "", _FSPICK))
            calls.append(("fsconfig", Value(context), _RECONFIGURE, 0, 0, 0))
            calls.append(("close", Value(context)))
        for name, *arguments in calls:
            result = context if name == "fspick" else None
            todo.call(name, *arguments, result=result, tolerate=ANY, jump=failed)
        todo.call("exit_group", 0)
        todo.label(failed)
        todo.call("exit_group", 1)
        todo.label(parent)
        self._end_of_trying()
        todo.call("setns", self._input("own pid"), syscalls.CLONE_NEWPID)

    def begin(self, fds: bytes) -> int:
        """The pid of the child, which shares this list with us until it ends: with 0 if all is done. Raises OSError."""
        if not self._execute(fds):
            raise OSError(errno.EIO, "no child")
        return int.from_bytes(self._get(self._pid, 4), "little")


def given(inputs: tuple[str, ...], fds: Mapping[str, int]) -> bytes:
    """The descriptors that a list takes, out of some."""
    return struct.pack(f"<{len(inputs)}q", *[fds[name] for name in inputs])


def _aligned(size: int) -> int:
    return size + -size % 8
