"""What a machine does that is to be a template, and what one does that goes on from it (executor/kvm/template.py).

A template has no devices: they come when a machine goes on from it. Until then it looks for one again and again; the
machine that looks and finds one is a new one. Its memory and cpus come then, too (executor/kvm/guest/growth.py).
"""

import errno
import fcntl
import os
import struct
import time
from typing import Final

from executor.stage1 import cgroups

READY: Final = b"gantry: ready"
"""What a template says on its console."""
VARIABLE: Final = "GANTRY_TEMPLATE"
"""Set by the kernel's command line: what the kernel does not know is its first program's (kernel-parameters.rst)."""

_DEVICES: Final = "/sys/bus/platform/devices"
_DRIVER: Final = "/sys/bus/platform/drivers/virtio-mmio"
_PLACE: Final = "LNRO0005"
_SLOT: Final = "/sys/bus/pci/devices/0000:00:01.0"
"""Where there will be the shared tree."""
_QUIET_ROUNDS: Final = 10
_ROUNDS: Final = 500
_ROUND_SECONDS: Final = 0.02
# Of include/uapi/linux/random.h:
_ADD_ENTROPY: Final = 0x40085203
_RESEED: Final = 0x5207


def is_template() -> bool:
    """Whether this machine is to be one, or goes on from one."""
    return VARIABLE in os.environ


def become_template() -> None:
    """Wait until all is done that can be done without knowing the pod, and say so. Raises OSError."""
    from executor.kvm.guest import growth

    for path in (f"{_DEVICES}/{_PLACE}:00", _DRIVER, _SLOT):
        os.stat(path)  # a kernel that takes no further tables, or knows no PCI, would find no devices later
    growth.prepare()
    _settle()
    os.write(2, READY + b"\n")


def _settle() -> None:
    """Wait until nothing else runs, but not for ever."""
    quiet = 0
    for _ in range(_ROUNDS):
        time.sleep(_ROUND_SECONDS)
        with open("/proc/loadavg", encoding="ascii") as file:
            running = file.read().split()[3].partition("/")[0]
        quiet = quiet + 1 if running == "1" else 0  # it is this one
        if quiet == _QUIET_ROUNDS:
            return


def look_for_memory() -> None:
    """A machine that goes on from a template has more of it. The kernel takes it while other things are done."""
    if is_template():
        from executor.kvm.guest import growth

        growth.look()


def find_first() -> None:
    """Let the driver look for the device that every machine has. Not there yet is no error."""
    _look(f"{_PLACE}:00")


def find_others() -> None:
    """Let the driver look at all places."""
    for name in os.listdir(_DEVICES):
        if name.startswith(_PLACE):
            _look(name)


def find_share() -> None:
    """Let the kernel look for what is below the port of the shared tree."""
    cgroups.write(f"{_SLOT}/rescan", "1")


def reseed(seed: bytes) -> None:
    """From here on random numbers are this machine's own, and not those of all that went on from the template."""
    fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _ADD_ENTROPY, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(fd, _RESEED)
    finally:
        os.close(fd)


def _look(name: str) -> None:
    if os.path.exists(f"{_DEVICES}/{name}/driver"):
        return
    try:
        cgroups.write(f"{_DRIVER}/bind", name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
