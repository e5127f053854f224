"""Writes cpio archives of the kind that the kernel unpacks as its first root (newc; initramfs-buffer-format.rst)."""

import stat
from typing import Final

_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"


class Archive:
    """Files are added parents first: missing directories are made. Everything belongs to root, times are zero."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def directory(self, name: str) -> None:
        """`name`, like all names, is relative to the root. One that is there is left as it is."""
        if name and name not in self._names:
            self.directory(name.rpartition("/")[0])
            self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        self.directory(name.rpartition("/")[0])
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self.directory(name.rpartition("/")[0])
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def pack(self) -> bytes:
        """The whole archive."""
        return b"".join((*self._parts, _entry(0, _END, 0, b"", (0, 0))))

    def _add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        if name in self._names:
            raise ValueError(f"{name} is in the archive already")
        self._names.add(name)
        self._parts.append(_entry(len(self._names), name, mode, data, device))


def _entry(inode: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = _MAGIC + b"".join(b"%08x" % field for field in fields) + encoded
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
