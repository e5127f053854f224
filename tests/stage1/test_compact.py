"""Smaller seccomp programs do what the larger ones do: both are executed here, as the kernel would."""

import random
import struct
from collections.abc import Iterator

import pytest

from executor.stage1 import caps, compact, seccomp

INSTRUCTION = struct.Struct("HBBI")
X86_64, I386, AARCH64, ARM, S390X = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0x80000016
SOME = 800


def execute(code: bytes, architecture: int, number: int, arguments: tuple[int, ...]) -> int:
    """What the program returns (Documentation/networking/filter.rst)."""
    data = struct.pack("<IIQ6Q", number, architecture, 0x1234, *arguments)
    program = list(INSTRUCTION.iter_unpack(code))
    a, at = 0, 0
    while True:
        operation, then, otherwise, k = program[at]
        at += 1
        if operation == 0x20:
            (a,) = struct.unpack_from("<I", data, k)
        elif operation == 0x06:
            return int(k)
        elif operation == 0x05:
            at += k
        elif operation == 0x54:
            a &= k
        else:
            holds = {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: bool(a & k)}[operation]
            at += then if holds else otherwise


FILTERS = {
    "default": seccomp.default_filter(caps.DEFAULT),
    "administrator": seccomp.default_filter(caps.DEFAULT | {"CAP_SYS_ADMIN"}),
    "all": seccomp.Filter(seccomp.ALLOW, ()),
    "blacklist": seccomp.remove(["@rkt/default-blacklist"], None, caps.DEFAULT),
    "whitelist": seccomp.retain(["@rkt/default-whitelist"], 1),
    "few": seccomp.retain(["read", "exit"], None),
    "one architecture": seccomp.default_filter(caps.DEFAULT)._replace(architectures=()),
    "all architectures": seccomp.default_filter(caps.DEFAULT)._replace(architectures=("x86", "x32")),
    "arguments": seccomp.from_profile(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {"names": list(seccomp.NEEDED), "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["ioctl"],
                    "action": "SCMP_ACT_KILL",
                    "args": [
                        {"index": 1, "value": 0x5401, "op": "SCMP_CMP_EQ"},
                        {"index": 2, "value": 7, "op": "SCMP_CMP_GT"},
                    ],
                },
                {
                    "names": ["prctl", "fcntl"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1 << 33, "op": "SCMP_CMP_LT"}],
                },
            ],
        }
    ),
}


def values(code: bytes) -> list[int]:
    """Numbers that the program compares with, and their neighbours."""
    compared = {one[3] for one in INSTRUCTION.iter_unpack(code)}
    return sorted({(one + step) & 0xFFFFFFFF for one in compared for step in (-1, 0, 1)})


def calls(code: bytes) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    chance = random.Random(1)
    known = values(code)
    nothing = (0,) * 6
    for architecture in (X86_64, I386, AARCH64, ARM, S390X):
        for number in (*range(512), *known, *(0x40000000 | one for one in range(0, 512, 17))):
            yield architecture, number, nothing
    for architecture in (X86_64, I386, AARCH64):
        for _ in range(SOME):
            arguments = [
                chance.choice(known) | chance.choice((0, 0, 1 << 33, chance.getrandbits(64)))
                for _ in range(6)
            ]
            yield architecture, chance.choice((chance.randrange(460), chance.choice(known))), tuple(arguments)


@pytest.mark.parametrize("name", FILTERS)
def test_it_does_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = FILTERS[name]
    assert wanted is not None
    small = seccomp.compile_filter(wanted)
    with monkeypatch.context() as patch:
        patch.setattr(seccomp, "compact", lambda code: code)
        large = seccomp.compile_filter.__wrapped__(wanted)
    assert len(small) <= len(large)
    for call in calls(large):
        assert execute(small, *call) == execute(large, *call), call


def test_the_default_is_small() -> None:
    """It is translated, and compiled, at every start."""
    assert len(seccomp.compile_filter(FILTERS["default"])) < 300 * INSTRUCTION.size


LOAD_NUMBER, LOAD_ARCHITECTURE = (0x20, 0, 0, 0), (0x20, 0, 0, 4)


@pytest.mark.parametrize(
    "program",
    [
        [],
        [(0x06, 0, 0, 0)],
        [LOAD_NUMBER, (0x15, 0, 1, 3), (0x06, 0, 0, 0), (0x06, 0, 0, 1)],
        [LOAD_ARCHITECTURE, (0x35, 0, 1, X86_64), (0x06, 0, 0, 0), (0x06, 0, 0, 1)],
        [LOAD_ARCHITECTURE, (0x15, 1, 0, X86_64), (0x06, 0, 0, 0), LOAD_NUMBER, (0x45, 0, 0, 8), (0x06, 0, 0, 1)],
        [LOAD_ARCHITECTURE, (0x15, 1, 0, X86_64), (0x20, 0, 0, 16), (0x06, 0, 0, 0)],
        [LOAD_ARCHITECTURE, (0x15, 9, 9, X86_64)],
    ],
    ids=["empty", "no-architecture", "number-first", "ordered", "bits", "arguments-of-any", "out-of-it"],
)  # fmt: skip
def test_what_libseccomp_does_not_make_stays(program: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(INSTRUCTION.pack(*one) for one in program)
    assert compact.compact(code) == code
