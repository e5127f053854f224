"""What this machine can run virtual machines with, found by starting one: /dev/kvm may be there and yet run no guest.

Kept in a file for as long as the machine is up and QEMU is the same: where KVM hangs it takes seconds to be sure.
"""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from executor.kvm import tiny
from executor.kvm.cpio import Archive

QEMU: Final = "qemu-system-x86_64"
QEMU_PACKAGE: Final = "qemu-system-x86"
VIRTIOFSD: Final = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
SETPRIV: Final = "setpriv"
VIRTIOFSD_PACKAGE: Final = "qemu-system-common"
DEVICE: Final = Path("/dev/kvm")
MACHINE: Final = "x86_64"
TRY_SECONDS: Final = 8.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class ProbeError(Exception):
    """This machine cannot run virtual machines; one line that says what to do."""


@dataclass(frozen=True)
class Accelerator:
    """name: kvm or tcg. cpu: for QEMU's -cpu. khz: of the time stamp counter, which an emulated machine is told.
    why: it is not kvm."""

    name: str
    cpu: str
    khz: int
    why: str

    @property
    def parameters(self) -> str:
        """For the command line of the kernel, after a space. An emulated processor does not speculate, and its kernel
        needs no tests of its own at each start."""
        clock = f" tsc=reliable tsc_early_khz={self.khz}"
        return f"{clock} mitigations=off cryptomgr.notests" if self.khz else ""


@dataclass(frozen=True)
class Tools:
    qemu: Path
    virtiofsd: Path


def tools() -> Tools:
    """The programs that are needed. Raises ProbeError."""
    if os.uname().machine != MACHINE:
        raise ProbeError(f"flavor kvm knows {MACHINE} only, and this machine is {os.uname().machine}")
    qemu = shutil.which(QEMU, path="/usr/bin:/usr/local/bin")
    if qemu is None:
        raise ProbeError(f"flavor kvm needs {QEMU}: install {QEMU_PACKAGE} (Debian)")
    virtiofsd = next((path for path in VIRTIOFSD if os.access(path, os.X_OK)), None)
    if virtiofsd is None:
        raise ProbeError(f"flavor kvm needs virtiofsd: install {VIRTIOFSD_PACKAGE} (Debian 12) or virtiofsd")
    if shutil.which(SETPRIV, path="/usr/bin:/bin") is None:
        raise ProbeError(f"flavor kvm needs {SETPRIV}: install util-linux")
    return Tools(Path(qemu), Path(virtiofsd))


def accelerator(qemu: Path, kernel: Path, cache: Path, device: Path = DEVICE) -> Accelerator:
    """Blocks: a second, or TRY_SECONDS where KVM hangs. Raises ProbeError, OSError."""
    times = f"{qemu.stat().st_mtime_ns} {kernel} {kernel.stat().st_mtime_ns}"
    boot = f"{_BOOT_ID.read_text().strip()} {times} {device.exists()}"
    try:
        known = json.loads(cache.read_text())
        if known.pop("boot") == boot:
            return Accelerator(**known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # none yet, or of another version
    found = _find(qemu, kernel, device)
    fd, name = tempfile.mkstemp(dir=cache.parent)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump({"boot": boot, **asdict(found)}, file)
    os.rename(name, cache)
    return found


def _find(qemu: Path, kernel: Path, device: Path) -> Accelerator:
    if not device.exists():
        why = f"there is no {device}"
    elif not os.access(device, os.R_OK | os.W_OK):
        why = f"{device} may not be opened"
    else:
        why = try_boot(qemu, kernel, ["-accel", "kvm", "-cpu", "host"])
        if not why:
            return Accelerator("kvm", "host", 0, "")
    return Accelerator("tcg", "max", tiny.counter_khz(), why)


def try_boot(
    qemu: Path,
    kernel: Path,
    how: list[str],
    append: str = "",
    seconds: float = TRY_SECONDS,
    memory: int = 128,
) -> str:
    """Why the smallest machine does not come as far as its first program; "" when it does. memory: MiB."""
    archive = Archive()
    archive.directory("dev")
    archive.file("init", tiny.first(), executable=True)
    with tempfile.NamedTemporaryFile() as root:
        root.write(archive.pack())
        root.flush()
        command = [
            str(qemu),
            "-machine",
            "microvm,rtc=on",
            *how,
            "-m",
            str(memory),
            "-nodefaults",
            "-no-user-config",
        ]
        command += ["-display", "none", "-no-reboot", "-kernel", str(kernel), "-initrd", root.name]
        command += ["-append", f"quiet panic=-1 reboot=t {append}"]
        command += ["-device", f"isa-debug-exit,iobase={tiny.DOOR:#x},iosize=1"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return f"a guest does not start within {seconds:.0f} s"
    if done.returncode == tiny.EXIT_CODE:
        return ""
    last = (done.stderr.strip().splitlines() or [f"QEMU ended with status {done.returncode}"])[-1]
    return f"a guest does not start: {last}"
