"""Where an app's root has what stage1 mounts on: a layer below the image's, shared by all pods.

An image seldom has /etc/resolv.conf. Made in the app's own layer, the places for our mounts would be a copy of /etc and
three files, written to the disk at each start and removed after it; out of a layer below they cost nothing.
"""

import os
import sys
from typing import Final

DIRECTORIES: Final = ("proc", "sys", "dev", "etc")
FILES: Final = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
_MANY: Final = 16
"""Layers: more are found faster by their names in one directory (ops/trees.py), and the kernel takes 500."""


class Points:
    """The layer at `path`; none without one, or where it cannot be made."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        if path:
            try:
                _make(path)
            except OSError as error:
                self._path = ""
                sys.stderr.write(f"stage1: a layer of mount points in {path}: {error.strerror}\n")

    def below(self, lowers: tuple[str, ...]) -> tuple[str, ...]:
        """An image's layers, uppermost first, and this one: if it lies on their file system.

        On another one it would change the numbers of the app's files (overlayfs.rst, "Inode properties"), and might
        not be id-mapped where they can.
        """
        if not self._path or len(lowers) > _MANY or self._path in lowers:
            return lowers
        try:
            own = os.stat(f"{self._path}/{FILES[-1]}").st_dev
            if any(os.stat(path).st_dev != own for path in lowers):
                return lowers
        except OSError:  # somebody has removed ours; what is wrong with a layer its mount will say
            return lowers
        return (*lowers, self._path)


def _make(path: str) -> None:
    """Whoever else makes it does the same."""
    os.makedirs(path, 0o755, exist_ok=True)
    for name in DIRECTORIES:
        os.makedirs(f"{path}/{name}", 0o755, exist_ok=True)
    for name in FILES:
        os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
