"""The program a pod's init becomes once its work is done: 222 bytes that name themselves and wait.

A Python process per pod would hold megabytes for nothing; this holds a page. Orphans need no wait(2) from it:
its SIGCHLD is ignored, so the kernel reaps them. Built here, for there is no compiler on an agent.
"""

import os
import struct
from typing import Final

_ADDRESS: Final = 0x400000
_HEADERS: Final = 64 + 56
# Ignores SIGCHLD, dies with its parent, is not dumpable (no app of the pod may trace it, and so get out of its own
# cgroup and seccomp filter), has its name, and then: for (;;) pause();
_X86_64: Final = (
    bytes.fromhex("6a00 6a00 6a00 6a01 4889e6 b80d000000 bf11000000 31d2 41ba08000000 0f05")
    + bytes.fromhex("b89d000000 bf01000000 be09000000 0f05")
    + bytes.fromhex("b89d000000 bf04000000 31f6 0f05")
    + bytes.fromhex("b89d000000 bf0f000000 488d350b000000 0f05 b822000000 0f05 ebf7")
    + b"gantry-init\0"
)


def image() -> bytes | None:
    """A static ELF executable for this machine; None where we have none (init then waits in Python)."""
    if os.uname().machine != "x86_64":
        return None
    size = _HEADERS + len(_X86_64)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little endian
        2,  # ET_EXEC
        62,  # EM_X86_64
        1,
        _ADDRESS + _HEADERS,
        64,
        0,
        0,
        64,
        56,
        1,
        64,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)  # PT_LOAD, r-x
    return header + segment + _X86_64


def become(program: bytes) -> None:
    """Replace this process by `program`; returns only by OSError."""
    fd = os.memfd_create("gantry-init", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, program)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)  # a file that is open for writing cannot be executed
    os.execve(reader, ["gantry-init"], {})
