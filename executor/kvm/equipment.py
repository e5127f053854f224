"""What all virtual machines of this host are made of; found when the first one is started."""

import os
from dataclasses import dataclass
from pathlib import Path

from executor.kvm import boot, kernel, probe
from executor.kvm.boot import Boot
from executor.kvm.probe import Accelerator, Tools


@dataclass(frozen=True)
class Equipment:
    """system: a directory that is their programs' root."""

    tools: Tools
    boot: Boot
    how: Accelerator
    system: Path


def find(directory: Path, given_kernel: Path | None) -> Equipment:
    """Blocks, the first time for seconds; what is made stays in `directory`.

    Raises ProbeError, KernelError, RuntimeFailure, OSError: what is missing, and how to get it.
    """
    tools = probe.tools()
    found = kernel.find(given_kernel)
    directory.mkdir(parents=True, exist_ok=True)
    made = boot.make(found, directory)
    how = probe.accelerator(tools.qemu, made.kernel, directory / "accelerator.json")
    return Equipment(tools, made, how, _system(directory / "system"))


def _system(directory: Path) -> Path:
    """The root of QEMU and virtiofsd: the host's links into /usr, all else is mounted."""
    directory.mkdir(exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        host, link = Path("/") / name, directory / name
        if host.is_symlink() and not link.is_symlink():
            link.symlink_to(os.readlink(host))
    return directory
