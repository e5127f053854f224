"""Capability names and the sets an app gets (capabilities(7), include/uapi/linux/capability.h)."""

import functools
import os
from collections.abc import Iterable
from typing import Final

from executor.stage1 import syscalls

_IN_ORDER: Final = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID "
    "CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW "
    "CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT "
    "CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD "
    "CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG "
    "CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE"
)
NAMES: Final = tuple(_IN_ORDER.split())
NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}
EVERYTHING: Final = frozenset(NAMES)

# The 14 of rkt and docker (rkt: stage1/init/common/app.go; the same list as moby's oci/caps/defaults.go).
_FOURTEEN: Final = (
    "CAP_AUDIT_WRITE CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_KILL CAP_MKNOD CAP_NET_RAW "
    "CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_SETFCAP CAP_SYS_CHROOT"
)
DEFAULT: Final = frozenset(_FOURTEEN.split())


def mask(names: Iterable[str]) -> int:
    """The bit mask of capability names; raises KeyError for a name that Linux does not have."""
    result = 0
    for name in names:
        result |= 1 << NUMBERS[name]
    return result


FOR_SECCOMP: Final = mask(["CAP_SYS_ADMIN"])
"""What installing a seccomp filter without no_new_privs takes (seccomp(2))."""


def last_cap() -> int:
    """The highest capability number of the running kernel."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def held() -> int:
    """The permitted set of this process as a bit mask."""
    with open(f"/proc/{os.getpid()}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    raise OSError("no CapPrm in /proc/self/status")


@functools.cache
def lacking(wanted: int) -> tuple[str, ...]:
    """Those of a bit mask that this process (the launcher; whoever it starts) does not have and so cannot give."""
    missing = wanted & ~held()
    return tuple(name for name in NAMES if missing >> NUMBERS[name] & 1)


def limit_bounding_set(keep: int, last: int) -> None:
    """Drop everything outside `keep` from the bounding set, and clear the ambient set. Needs CAP_SETPCAP."""
    for number in range(last + 1):
        if not keep >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)


def limit_own_sets(keep: int) -> None:
    """Make effective = permitted = `keep`; inheritable stays empty (CVE-2022-24769 is what it is good for)."""
    syscalls.capset(keep, keep, 0)
