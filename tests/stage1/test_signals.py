"""What an app would inherit of whoever started the executor: the C library's own signals."""

import subprocess
import sys

from executor.stage1 import syscalls

IGNORE_AND_FORGET = """
import ctypes, struct
from executor.stage1 import syscalls
def ignored():
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("SigIgn"))
for number in syscalls._C_LIBRARYS:
    assert not syscalls._syscall(
        syscalls._SIGACTION, number, struct.pack("QQQQ", 1, 0, 0, 0), None, ctypes.c_size_t(8)
    )
before = int(ignored(), 16)
syscalls.forget_signals()
print(f"{before ^ int(ignored(), 16):x}")
"""


def test_signals_of_the_c_library_s_are_ignored_no_more() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORE_AND_FORGET], capture_output=True, text=True)
    changed = sum(1 << number - 1 for number in syscalls._C_LIBRARYS)
    assert (done.stdout.strip(), done.stderr) == (f"{changed:x}", "")
