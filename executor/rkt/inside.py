"""Paths of an app, looked up from outside: in its image's layers, and in what is mounted over them from the host."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.rkt.podmanifest import settle

_STEPS: Final = 400
_OPAQUE: Final = "trusted.overlay.opaque"


@dataclass(frozen=True)
class Inside:
    """layers: rendered trees, uppermost first; mounts: (path in the app, its source on the host)."""

    layers: Sequence[str]
    mounts: Sequence[tuple[str, str]] = ()

    def follow(self, path: str) -> tuple[str, Path | None]:
        """A path without links (they are followed in the app), and where that is on the host: None when nowhere."""
        left = _parts(path)
        at = ""
        for _ in range(_STEPS):
            if not left:
                return at or "/", self._place(at)
            part = left.pop(0)
            if part == "..":
                at = at.rpartition("/")[0]
                continue
            place = self._place(f"{at}/{part}")
            if place is not None and place.is_symlink():
                target = os.readlink(place)
                at = "" if target.startswith("/") else at
                left = _parts(target) + left
            else:
                at = f"{at}/{part}"
        return path, None  # links that go round

    def _place(self, path: str) -> Path | None:
        """Of a path whose parents are no links."""
        for target, source in sorted(self.mounts, reverse=True):
            if path == target or path.startswith(f"{target}/"):
                found = Path(source + path[len(target) :])
                return found if os.path.lexists(found) else None
        for layer in self.layers:
            try:
                info = os.lstat(layer + path)
            except OSError:
                if any(_is_opaque(layer + parent) for parent in _parents(path)):
                    return None
                continue
            whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
            return None if whiteout else Path(layer + path)
        return None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _is_opaque(path: str) -> bool:
    """Whether nothing of the layers below is seen there: an opaque directory, or no directory at all."""
    try:
        info = os.lstat(path)
        return not stat.S_ISDIR(info.st_mode) or _OPAQUE in os.listxattr(path, follow_symlinks=False)
    except OSError:
        return False


def keep_image_files(entry: dict[str, Any], layers: Sequence[str], wanted: Mapping[str, bool]) -> None:
    """Have an app of a manifest see its image's own files of /etc in the place of the pod's, if they say something.

    wanted: their names; True: also one that is not there.
    """
    found = [name for name, always in wanted.items() if always or _says_something(layers, f"/etc/{name}")]
    settle(entry, image_files=" ".join(found))


def _says_something(layers: Sequence[str], path: str) -> bool:
    _, place = Inside(layers).follow(path)
    try:
        info = None if place is None else os.stat(place, follow_symlinks=False)
    except OSError:
        return False
    return info is not None and stat.S_ISREG(info.st_mode) and info.st_size > 0
