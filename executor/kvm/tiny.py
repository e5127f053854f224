"""Two programs of a few dozen bytes of machine code, for there is no compiler on an agent (as stage1's pause).

`first`: an init that says to QEMU that it runs, and nothing else. `clock`: how fast this processor's time stamp counter
counts, which an emulated machine without a timer chip has to be told (QEMU shows it the host's counter).
"""

import os
import struct
import subprocess
from typing import Final

DOOR: Final = 0xF4
SAID: Final = 0x31
EXIT_CODE: Final = SAID << 1 | 1
"""What QEMU's isa-debug-exit ends with when SAID is written to the port DOOR."""

_ADDRESS: Final = 0x400000
_HEADERS: Final = 64 + 56
# ioperm(0xf4, 1, 1); out 0xf4, 0x31; reboot(RB_AUTOBOOT); for (;;) ;
_FIRST: Final = bytes.fromhex(
    "b8ad000000 bff4000000 be01000000 ba01000000 0f05 b031 e6f4"
    "b8a9000000 bfaddee1fe be69191228 ba67452301 0f05 ebfe"
)
# Room for two struct timespec and two counters on the stack; r12 points at it, rbx counts the two rounds.
# round: clock_gettime(CLOCK_MONOTONIC_RAW, r12); rdtsc to r12[16]; r12 += 24; nanosleep(50 ms) after the first.
# Then write(1, start, 48); exit(0).
_CLOCK: Final = bytes.fromhex(
    "4883ec60"  # sub rsp, 96
    "4989e4"  # mov r12, rsp
    "31db"  # xor ebx, ebx
    "b8e4000000 bf04000000 4c89e6 0f05"  # clock_gettime(4, r12)
    "0f31 48c1e220 4809d0 4989442410"  # rdtsc; [r12+16] = rdx:rax
    "4983c418"  # add r12, 24
    "ffc3 83fb02 7422"  # inc ebx; cmp ebx, 2; je done
    "48c744245000000000 48c744245880f0fa02"  # [rsp+80] = 0; [rsp+88] = 50,000,000
    "488d7c2450 31f6 b823000000 0f05"  # nanosleep(rsp+80, 0)
    "ebb6"  # jmp round
    "b801000000 bf01000000 4889e6 ba30000000 0f05"  # write(1, rsp, 48)
    "b83c000000 31ff 0f05"  # exit(0)
)
_ROUNDS: Final = 5


def first() -> bytes:
    """An ELF executable for a machine's /init."""
    return _elf(_FIRST)


def counter_khz() -> int:
    """How often the time stamp counter counts in a millisecond, from the least disturbed of some measurements.

    Raises OSError.
    """
    fd = os.memfd_create("clock", os.MFD_CLOEXEC)
    try:
        os.write(fd, _elf(_CLOCK))
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    try:
        found = [_measure(reader) for _ in range(_ROUNDS)]
    finally:
        os.close(reader)
    return sorted(found)[_ROUNDS // 2]


def _measure(program: int) -> int:
    path = f"/proc/self/fd/{program}"
    done = subprocess.run([path], pass_fds=[program], stdout=subprocess.PIPE, check=True)
    s0, n0, c0, s1, n1, c1 = struct.unpack("<qqQqqQ", done.stdout)
    return int((c1 - c0) * 1_000_000 // ((s1 - s0) * 1_000_000_000 + n1 - n0))


def _elf(code: bytes) -> bytes:
    size = _HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian
    executable, x86_64 = 2, 62
    entry = _ADDRESS + _HEADERS
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, executable, x86_64, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    load, read_and_execute = 1, 5
    segment = struct.pack("<IIQQQQQQ", load, read_and_execute, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    return header + segment + code
