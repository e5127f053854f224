"""A machine that goes on from a template gets the memory and the cpus of its own size. Imported by templates only.

What the kernel has derived from the memory that it had at boot it does not derive again: that is done here.
"""

import os
import time
from typing import Final

from executor.stage1 import cgroups

_MEMORY: Final = "/sys/devices/system/memory"
_CPUS: Final = "/sys/devices/system/cpu"
_LOOKED_AT: Final = "/sys/bus/acpi/devices/GNTR0001:00/status"
"""A device of executor/kvm/acpi.py."""
_HANDLER: Final = "/sys/firmware/acpi/hotplug/memory"
_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.003
_SETTINGS: Final = "/proc/sys"
_SHARES: Final = (
    "kernel/threads-max", "fs/file-max", "fs/epoll/max_user_watches", "net/ipv4/tcp_mem", "net/ipv4/udp_mem",
)  # fmt: skip
"""What is a share of memory: kernel/fork.c, fs/file_table.c, fs/eventpoll.c, net/ipv4/tcp.c, net/ipv4/udp.c."""
_WATCHES: Final = "user/max_inotify_watches"
_MOST_WATCHES: Final = 1 << 20  # fs/notify/inotify/inotify_user.c
_NAMESPACES: Final = "_namespaces"  # kernel/ucount.c: a share of the threads


def prepare() -> None:
    """What a template does. Raises OSError: this kernel would not take more memory later."""
    for path in (_HANDLER, _LOOKED_AT):
        os.stat(path)
    cgroups.write(f"{_MEMORY}/auto_online_blocks", "online_kernel")


def look() -> None:
    """Let the kernel look how much memory there is now. It takes it meanwhile."""
    _read(_LOOKED_AT)


def grow(memory: int, had: int, cpus: int) -> None:
    """Up to so many bytes of memory, of which the template had some, and to so many cpus. Raises OSError."""
    for number in range(cpus):
        path = f"{_CPUS}/cpu{number}/online"
        if os.path.exists(path) and _read(path) == "0":  # the first one always is, and has no such file
            cgroups.write(path, "1")
    if memory == had:
        return
    blocks = memory // int(_read(f"{_MEMORY}/block_size_bytes"), 16)
    deadline = time.monotonic() + _SECONDS
    while not _has(blocks):
        if time.monotonic() > deadline:
            raise OSError("its kernel does not take the memory that it has more than its template")
        time.sleep(_LOOK_SECONDS)
    _share(memory, had)


def _has(blocks: int) -> bool:
    """They are taken in order."""
    names = [name.removeprefix("memory") for name in os.listdir(_MEMORY)]
    numbers = [int(name) for name in names if name.isdecimal()]
    return len(numbers) >= blocks and _read(f"{_MEMORY}/memory{max(numbers)}/state") == "online"


def _share(memory: int, had: int) -> None:
    names = [f"user/{name}" for name in os.listdir(f"{_SETTINGS}/user") if name.endswith(_NAMESPACES)]
    for name in (*_SHARES, _WATCHES, *names):
        path = f"{_SETTINGS}/{name}"
        try:
            numbers = [int(number) * memory // had for number in _read(path).split()]
        except FileNotFoundError:
            continue  # a kernel without it
        if name == _WATCHES:
            numbers = [min(numbers[0], _MOST_WATCHES)]
        cgroups.write(path, " ".join(map(str, numbers)))


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
