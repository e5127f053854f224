"""The guest's kernel: the host's package of it, or a file, and the modules that belong to it.

A compressed kernel unpacks itself slowly in an emulated machine, so it is unpacked here, once (Documentation/arch/x86/
boot.rst: payload_offset, payload_length), and started by its PVH entry. One whose compression Python does not know is
started as it is.
"""

import gzip
import lzma
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from executor.kvm import lz4

PACKAGE: Final = "linux-image-cloud-amd64"
BOOT: Final = Path("/boot")
MODULES: Final = Path("/lib/modules")
_MAGIC_AT, _MAGIC, _VERSION_AT, _SECTORS_AT, _PAYLOAD_AT = 0x202, b"HdrS", 0x20E, 0x1F1, 0x248
_SECTOR: Final = 512


class KernelError(Exception):
    """There is no kernel to start machines with; one line that says what to do."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and the directory of its modules. release: as `uname -r` says in it."""

    path: Path
    release: str
    modules: Path


def find(given: Path | None = None, boot: Path = BOOT, modules: Path = MODULES) -> Kernel:
    """The kernel given, or the newest one in `boot`; those made for clouds first, they are the smallest.

    Raises KernelError.
    """
    if given is not None:
        return _kernel(given, modules)
    found = sorted(boot.glob("vmlinuz-*"), key=lambda path: ("cloud" in path.name, _numbers(path.name)))
    reasons = []
    for path in reversed(found):
        try:
            return _kernel(path, modules)
        except KernelError as error:
            reasons.append(str(error))
    why = reasons[0] if reasons else f"there is none in {boot}"
    raise KernelError(
        f"no kernel for virtual machines: {why}; install {PACKAGE} (Debian) or give --kvm-kernel FILE"
    )


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))


def _kernel(path: Path, modules: Path) -> Kernel:
    try:
        with path.open("rb") as file:
            head = file.read(0x10000)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}") from None
    if head[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise KernelError(f"{path} is no bzImage of Linux for x86")
    (offset,) = struct.unpack_from("<H", head, _VERSION_AT)
    words = head[offset + _SECTOR :].partition(b"\0")[0].decode("ascii", "replace").split()
    if not words:
        raise KernelError(f"{path} does not say its version")
    if not (modules / words[0] / "modules.dep").is_file():
        raise KernelError(f"{path}: its modules are not in {modules / words[0]}")
    return Kernel(path, words[0], modules / words[0])


def unpack(image: bytes) -> bytes:
    """The ELF file in a bzImage; the bzImage itself where its compression is not known here. Raises KernelError."""
    sectors = image[_SECTORS_AT] or 4
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = (sectors + 1) * _SECTOR + offset
    payload = image[start : start + length]
    try:
        if payload.startswith(lz4.MAGIC):
            return lz4.decompress(payload)
        if payload.startswith(b"\x1f\x8b"):
            return gzip.decompress(payload[:-4])  # the size, which the boot code wants, follows
        if payload.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor().decompress(payload)
    except (ValueError, OSError, EOFError, lzma.LZMAError) as error:
        raise KernelError(f"the kernel's payload is damaged: {error}") from None
    return image


def modules(kernel: Kernel, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(name, contents) of modules and of what they need, in an order to load them in. Raises KernelError, OSError.

    What is built into the kernel needs no loading.
    """
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[_name(path)] = (path, tuple(map(_name, rest.split())))
    builtin = {_name(line) for line in (kernel.modules / "modules.builtin").read_text().split()}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in needs:
            raise KernelError(f"kernel {kernel.release} has no module {name}: machines need it")
        path, others = needs[name]
        for other in reversed(others):  # the deepest is named last
            add(other)
        order[name] = _contents(kernel.modules / path)

    for name in names:
        add(name)
    return list(order.items())


def _name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")


def _contents(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix != ".ko":
        raise KernelError(f"{path}: modules compressed with {path.suffix[1:]} cannot be read")
    return data
