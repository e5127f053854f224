"""What a machine is started with: the kernel, unpacked, and the first root; made once and kept in a directory.

Made anew when the kernel, the interpreter or our own code is another. Safe beside other executors that do the same.
"""

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from executor.kvm import acpi, kept, kernel, runtime
from executor.kvm.cpio import Archive
from executor.kvm.kernel import Kernel

log = logging.getLogger(__name__)

MODULES: Final = ("virtio_mmio", "virtio_console", "virtiofs", "overlay")
NETWORK_MODULES: Final = ("virtio_net",)
"""For those machines that have a network card."""
TEMPLATE_MODULES: Final = ("virtio_pci", *NETWORK_MODULES)
"""For machines that others go on from: what any of them may need."""
_INIT: Final = f"#!/{runtime.PROGRAM} -IS\nfrom executor.kvm.guest.main import main\nmain()\n"
_DIRECTORIES: Final = ("dev", "proc", "sys", "share", "pods", "run", "tmp", "root", "etc")
_CONSOLE: Final = (5, 1)  # Documentation/admin-guide/devices.txt
_PACKAGE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Boot:
    """The files for QEMU's -kernel and -initrd. held: keeps them there until this process ends (executor/kvm/kept)."""

    kernel: Path
    root: Path
    held: int = field(default=-1, compare=False)

    @property
    def template(self) -> Path:
        """The root for machines that others go on from (executor/kvm/template.py)."""
        return self.root.with_name("template.cpio")


def make(found: Kernel, directory: Path) -> Boot:
    """Slow the first time (seconds). Those that nobody needs go. Raises KernelError, RuntimeFailure, OSError."""
    place = directory / _key(found)
    made = Boot(place / "kernel", place / "root.cpio", kept.hold(place))
    for gone in kept.collect(directory):
        log.info("removed %s: nobody uses it any more", gone)
    if made.root.exists():
        return made
    _put(made.kernel, kernel.unpack(found.path.read_bytes()))
    root = first_root(found)
    tables = Archive()
    tables.file(acpi.PATH, acpi.table())
    _put(
        made.template, tables.pack() + root
    )  # the kernel takes one archive after the other, and tables from the first
    _put(made.root, root)
    return made


def first_root(found: Kernel) -> bytes:
    """The archive that the kernel unpacks: modules, Python, our code, and `init`. Raises as `make`."""
    archive = Archive()
    for name in _DIRECTORIES:
        archive.directory(name)
    archive.device("dev/console", *_CONSOLE)
    archive.file("init", _INIT.encode(), executable=True)
    always = kernel.modules(found, MODULES)
    lists = {"order": always}
    for name, wanted in (("network", NETWORK_MODULES), ("template", TEMPLATE_MODULES)):
        lists[name] = [one for one in kernel.modules(found, wanted) if one not in always]
    for name, data in dict(one for modules in lists.values() for one in modules).items():
        archive.file(f"modules/{name}.ko", data)
    for name, modules in lists.items():
        archive.file(f"modules/{name}", "".join(f"{module}.ko\n" for module, _ in modules).encode())
    runtime.add(archive)
    return archive.pack()


def _key(found: Kernel) -> str:
    """Of everything that goes in, without reading it all. What Python keeps of sources comes and goes."""
    found_code = (*(_PACKAGE.parent / "stage1").rglob("*.py*"), *_PACKAGE.rglob("*.py*"))
    code = [path for path in found_code if path.parent.name != "__pycache__"]
    facts = [sys.version, *_stats((found.path, Path(os.path.realpath(sys.executable)), *sorted(code)))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _stats(paths: Iterable[Path]) -> list[str]:
    found = []
    for path in paths:
        info = path.stat()
        found.append(f"{path} {info.st_size} {info.st_mtime_ns}")
    return found


def _put(path: Path, data: bytes) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o644)  # QEMU runs as nobody
        file.write(data)
    os.rename(name, path)
