"""A seccomp filter's program, made smaller: the kernel translates and compiles it anew at every start of an app.

libseccomp has a leaf for each call in a tree of comparisons. Calls that follow one another often have the same fate, so
where it changes is enough: a fraction of the instructions. What the smaller program does is asked of the larger one,
number by number; whatever looks at arguments is taken over as it is. Programs that are not as libseccomp makes them
stay what they are.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_INSTRUCTION: Final = struct.Struct("HBBI")  # struct sock_filter
# include/uapi/linux/bpf_common.h, and offsets in struct seccomp_data
_LOAD, _ALWAYS, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_COMPARES: Final = {_EQUAL, _GREATER, _AT_LEAST}
_HIGHEST: Final = 0xFFFFFFFF
_FAR: Final = 255  # no jump that depends on something is longer


class Instruction(NamedTuple):
    """struct sock_filter: jumps count from the instruction that follows."""

    code: int
    then: int
    otherwise: int
    value: int


Program = list[Instruction]
Fate = tuple[bool, int]
"""Of a call: whether the filter looks at arguments; where it begins to do so, or what it returns."""


class _Strange(Exception):
    """Nothing that libseccomp makes."""


def compact(code: bytes) -> bytes:
    """A program that does the same; the same one when no smaller is found."""
    program = [Instruction(*one) for one in _INSTRUCTION.iter_unpack(code)]
    try:
        made = _Maker(program).make()
    except _Strange:
        return code
    if len(made) >= len(program):
        return code
    return b"".join(_INSTRUCTION.pack(*one) for one in made)


def _follow(program: Program, architecture: int, number: int) -> int:
    """The instruction that returns for a call, or looks at an argument, whichever comes first. Raises _Strange."""
    value, of_number, loaded, at = 0, False, False, 0
    while at < len(program):
        code, then, otherwise, constant = program[at]
        if code == _EQUAL and loaded:
            at += 1 + (then if value == constant else otherwise)
        elif code == _AT_LEAST and of_number:
            at += 1 + (then if value >= constant else otherwise)
        elif code == _GREATER and of_number:
            at += 1 + (then if value > constant else otherwise)
        elif code == _ALWAYS:
            at += 1 + constant
        elif code == _LOAD and constant in (_NUMBER, _ARCHITECTURE):
            loaded, of_number = True, constant == _NUMBER
            value = number if of_number else architecture
            at += 1
        elif code in (_RETURN, _LOAD):
            return at
        else:
            break
    raise _Strange


class _Maker:
    def __init__(self, program: Program) -> None:
        self._old = program
        self._architectures = sorted(set(self._named()))
        bounds = {0}
        for one in program:
            if one.code in _COMPARES:
                bounds |= {one.value, min(one.value + 1, _HIGHEST)}
        self._bounds = sorted(bounds)

    def _named(self) -> Iterator[int]:
        """The architectures that the program knows: it asks for one after another before anything else."""
        if not self._old or self._old[0] != Instruction(_LOAD, 0, 0, _ARCHITECTURE):
            raise _Strange
        at = 1
        while at < len(self._old):
            one = self._old[at]
            if one.code == _EQUAL:
                yield one.value
                at += 1 + one.otherwise
            elif one.code == _ALWAYS:
                at += 1 + one.value
            elif one.code == _RETURN:
                return
            else:
                break
        raise _Strange

    def make(self) -> Program:
        """The smaller program. Raises _Strange."""
        others = {self._fate(one, number) for one in self._strangers() for number in self._bounds}
        if len(others) != 1 or (other := others.pop())[0]:
            raise _Strange
        made = [self._old[0]]
        for architecture in self._architectures:
            made += [Instruction(_EQUAL, 0, 1, architecture), Instruction(_ALWAYS, 0, 0, 0)]
        made.append(Instruction(_RETURN, 0, 0, other[1]))
        for index, architecture in enumerate(self._architectures):
            jump = 2 + 2 * index  # over the comparisons and the parts that are between
            made[jump] = Instruction(_ALWAYS, 0, 0, len(made) - jump - 1)
            made += self._part(architecture)
        return made

    def _strangers(self) -> list[int]:
        """Architectures that stand for all that the program does not name: between any two of those."""
        named = set(self._architectures)
        around = {0, _HIGHEST, *(one + 1 for one in named), *(one - 1 for one in named)}
        return sorted(one for one in around if 0 <= one <= _HIGHEST and one not in named)

    def _fate(self, architecture: int, number: int) -> Fate:
        at = _follow(self._old, architecture, number)
        one = self._old[at]
        return (False, one.value) if one.code == _RETURN else (True, at)

    def _part(self, architecture: int) -> Program:
        """What is done for an architecture: a tree of comparisons with the numbers at which the fate changes."""
        changes: list[tuple[int, Fate]] = []
        for number in self._bounds:
            fate = self._fate(architecture, number)
            if not changes or changes[-1][1] != fate:
                changes.append((number, fate))
        tree = _tree(changes)
        places: dict[Fate, int] = {}
        ends: Program = []
        for _, fate in changes:
            if fate not in places:
                places[fate] = len(tree) + len(ends)
                ends += self._block(fate[1]) if fate[0] else [Instruction(_RETURN, 0, 0, fate[1])]
        made = [Instruction(_LOAD, 0, 0, _NUMBER)]
        for index, (bound, *targets) in enumerate(tree):
            reach = [(places[to] if isinstance(to, tuple) else to) - index - 1 for to in targets]
            if not all(0 <= one <= _FAR for one in reach):
                raise _Strange
            made.append(Instruction(_AT_LEAST, reach[0], reach[1], bound))
        if not tree:  # one fate for all
            return made[:1] + ends
        return made + ends

    def _block(self, begin: int) -> Program:
        """The instructions that can be reached from there, in their order."""
        reached, open_ = set(), [begin]
        while open_:
            at = open_.pop()
            if at in reached:
                continue
            if not 0 <= at < len(self._old):
                raise _Strange
            reached.add(at)
            open_ += self._next(at)
        order = sorted(reached)
        place = {at: index for index, at in enumerate(order)}
        return [self._moved(at, place) for at in order]

    def _next(self, at: int) -> list[int]:
        one = self._old[at]
        if one.code == _RETURN:
            return []
        if one.code == _ALWAYS:
            return [at + 1 + one.value]
        if one.code & 7 == _ALWAYS:  # BPF_JMP of any kind
            return [at + 1 + one.then, at + 1 + one.otherwise]
        return [at + 1]

    def _moved(self, at: int, place: dict[int, int]) -> Instruction:
        one, base = self._old[at], place[at] + 1
        if one.code == _ALWAYS:
            return one._replace(value=place[at + 1 + one.value] - base)
        if one.code & 7 == _ALWAYS:
            then, otherwise = (place[at + 1 + jump] - base for jump in (one.then, one.otherwise))
            return one._replace(then=then, otherwise=otherwise)
        return one


Target = int | Fate


def _tree(changes: list[tuple[int, Fate]]) -> list[tuple[int, Target, Target]]:
    """Comparisons, each before those that it leads to: at least this number, then there, otherwise there."""
    made: list[tuple[int, Target, Target]] = []

    def add(part: list[tuple[int, Fate]]) -> Target:
        if len(part) == 1:
            return part[0][1]
        middle = len(part) // 2
        index = len(made)
        made.append((part[middle][0], 0, 0))
        otherwise = add(part[:middle])
        made[index] = (part[middle][0], add(part[middle:]), otherwise)
        return index

    add(changes)
    return made
