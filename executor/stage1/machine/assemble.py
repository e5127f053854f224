"""Lists of system calls as bytes, and the static program that executes them.

A list is what a process does that must not, or need not, be a copy of this one: no interpreter of Python's memory is
copied, nothing of it can be found in the process. Memory from LIST on: records of 64 bytes, then what they refer to
(strings, structures, results). A record (little endian):

    u32 number     of the call; END ends a list that is run as a function
    u16 flags      bit 0 … 3: this argument is the address of a 32 bit value; FORKS: go to `jump` on result 0
    u16 tolerated  the errno with which to go to `jump`; ANY; 0 for none
    u64 argument   six of them
    u32 result     offset at which the 64 bit result is stored; 0: nowhere
    u16 then       the record that follows
    u16 jump       the record that follows when the above says so

A call that fails otherwise ends the program, which first writes 8 bytes to descriptor 4: the record's number, the
errno.
Numbers of calls and the code itself are the machine's: `x86_64`, `aarch64`.
"""

import errno
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Final, NamedTuple

from executor.stage1.machine import aarch64, x86_64

LIST: Final = 0x20000000
SIZE: Final = 0x3FFF00  # the report is behind it
_CODE: Final = 0x10000000
_MEMORY: Final = 0x400000
RECORD: Final = 64
END: Final = 0xFFFFFFFF
ANY: Final = 0xFFFF
_FORKS: Final = 0x8000
_MACHINES: Final = {"x86_64": x86_64, "aarch64": aarch64}
# The same everywhere (include/uapi/asm-generic/unistd.h).
SAME: Final = {
    "open_tree": 428, "move_mount": 429, "fsconfig": 431, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "openat2": 437, "mount_setattr": 442,
}  # fmt: skip
_RECORD: Final = struct.Struct("<IHHQQQQQQIHH")
_HEADER: Final = 64
_SEGMENT: Final = 56


def machine(name: str = "") -> ModuleType | None:
    """The module of a machine (as uname(2) names it), of this one without a name; None where we have none."""
    return _MACHINES.get(name or os.uname().machine)


@functools.cache
def _numbers(name: str) -> dict[str, int]:
    module = machine(name)
    if module is None:
        raise OSError(errno.ENOEXEC, f"no lists for {name or os.uname().machine}")
    return {**SAME, **module.NUMBERS}


def program(name: str = "") -> bytes:
    """A static ELF executable: reads a list from descriptor 3 into its memory, and executes it."""
    module = machine(name)
    if module is None:
        raise OSError(errno.ENOEXEC, f"no program for {name or os.uname().machine}")
    start = _HEADER + 3 * _SEGMENT
    size = start + len(module.PROGRAM)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little endian
        2,  # ET_EXEC
        module.MACHINE,
        1,
        _CODE + start,
        _HEADER,
        *(0, 0, _HEADER, _SEGMENT, 3, 0, 0, 0),
    )
    load, stack, read, write, execute, aligned = 1, 0x6474E551, 4, 2, 1, 0x10000
    segments = (
        (load, read | execute, 0, _CODE, _CODE, size, size, aligned),
        (load, read | write, 0, LIST, LIST, 0, _MEMORY, aligned),
        (stack, read | write, 0, 0, 0, 0, 0, 16),
    )
    code: bytes = module.PROGRAM
    return header + b"".join(struct.pack("<IIQQQQQQ", *one) for one in segments) + code


class Place(NamedTuple):
    """Bytes in a list's memory, by their offset in its data."""

    offset: int

    def at(self, more: int) -> "Place":
        """A place `more` bytes further."""
        return Place(self.offset + more)


class Value(NamedTuple):
    """The 32 bit value at a place, when the call is made."""

    place: Place


class Label:
    """A record that is not there yet."""

    def __init__(self) -> None:
        self.number = -1


Argument = int | Place | Value | str | bytes


class _Record(NamedTuple):
    number: int
    flags: int
    tolerated: int
    arguments: tuple[int | Place | Value, ...]
    result: Place | None
    then: Label | None
    jump: Label | None


class List:
    """Builds a list. `base`: the address of record 0; `first`: the number of the first record here.

    `steps` says for every record what it was for.
    """

    def __init__(self, name: str = "", *, base: int = LIST, first: int = 0) -> None:
        self._numbers = _numbers(name)
        self._base = base
        self._first = first
        self._records: list[_Record] = []
        self._data = bytearray()
        self._addresses: list[tuple[int, Place]] = []
        self._strings: dict[bytes, Place] = {}
        self.doing = ""
        """What the calls that are added belong to, for people."""
        self.steps: list[str] = []

    def __len__(self) -> int:
        return len(self._records)

    def call(
        self,
        name: str,
        *arguments: Argument,
        result: Place | None = None,
        tolerate: int = 0,
        jump: Label | None = None,
        then: Label | None = None,
        forks: bool = False,
    ) -> None:
        """One call. `tolerate` an errno (or ANY): then on at `jump`, or as if nothing had been wrong.

        `forks`: the child, in which the result is 0, goes on at `jump`. `then`: where to go on if not with the next.
        """
        flags = _FORKS if forks else 0
        for position, argument in enumerate(arguments):
            if isinstance(argument, Value):
                flags |= 1 << position
        number = END if name == "end" else self._numbers[name]
        placed = tuple(self.string(one) if isinstance(one, str | bytes) else one for one in arguments)
        self.steps.append(self.doing)
        self._records.append(_Record(number, flags, tolerate, placed, result, then, jump))

    def label(self, label: Label | None = None) -> Label:
        """The next record's place."""
        label = label or Label()
        label.number = self._first + len(self._records)
        return label

    def room(self, size: int, content: bytes = b"") -> Place:
        """Memory, aligned to 8 bytes, of zeros or with this in it."""
        self._data += bytes(-len(self._data) % 8)
        place = Place(len(self._data))
        self._data += content.ljust(size, b"\0")
        return place

    def string(self, text: str | bytes) -> Place:
        """With its NUL at the end; the same one for the same text."""
        raw = os.fsencode(text)
        if raw not in self._strings:
            if b"\0" in raw:
                raise ValueError("embedded null byte")
            self._strings[raw] = Place(len(self._data))
            self._data += raw + b"\0"
        return self._strings[raw]

    def structure(self, form: str, *fields: int | Place) -> Place:
        """A packed structure in whose fields addresses may be; `form` as in `struct`, without padding, all of one size
        where a field is a Place: 8 bytes.
        """
        place = self.room(0)
        position = place.offset
        for kind, field in zip(form, fields, strict=True):
            if isinstance(field, Place):
                self._addresses.append((position, field))
                field = 0
            raw = struct.pack("<" + kind, field)
            self._data += raw
            position += len(raw)
        return place

    def pointers(self, texts: Iterable[str | bytes | Place]) -> Place:
        """An array of strings, or of places where there are some, NULL at its end."""
        strings = [text if isinstance(text, Place) else self.string(text) for text in texts]
        return self.structure("Q" * (len(strings) + 1), *strings, 0)

    def finish(self) -> bytes:
        """The list's bytes. Raises OSError when it is too long."""
        start = (self._first + len(self._records)) * RECORD
        data = bytearray(self._data)
        for position, place in self._addresses:
            struct.pack_into("<Q", data, position, self._base + start + place.offset)
        out = bytearray()
        for index, record in enumerate(self._records):
            out += self._pack(self._first + index, start, record)
        out += data
        if self._base == LIST and self._first * RECORD + len(out) > SIZE:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return bytes(out)

    def finish_before(self) -> bytes:
        """The bytes of a list that another follows: its first record is the next after them."""
        end = Label()
        end.number = self._first + len(self._records) - (-len(self._data) // RECORD)
        self._records[-1] = self._records[-1]._replace(then=end)
        return self.finish().ljust((end.number - self._first) * RECORD, b"\0")

    def _pack(self, index: int, start: int, record: _Record) -> bytes:
        following = index + 1 if record.then is None else record.then.number
        target = following if record.jump is None else record.jump.number
        if following < 0 or target < 0:
            raise ValueError("a jump to a record that is not in the list")
        values = [self._value(start, argument) for argument in record.arguments]
        padding: Sequence[int] = (0,) * (6 - len(values))
        offset = start + record.result.offset if record.result is not None else 0
        return _RECORD.pack(
            record.number, record.flags, record.tolerated, *values, *padding, offset, following, target
        )

    def _value(self, start: int, argument: int | Place | Value) -> int:
        if isinstance(argument, int):
            return argument & 0xFFFFFFFFFFFFFFFF
        place = argument.place if isinstance(argument, Value) else argument
        return self._base + start + place.offset
