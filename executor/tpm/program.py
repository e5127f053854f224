"""What stage1 is made of: the digest of our own code, and those of the host's programs that a flavor starts."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import executor
import shared
from executor.tpm.errors import TpmError
from executor.tpm.events import canonical

PACKAGES: Final[Mapping[str, list[str]]] = {
    "executor": list(executor.__path__),
    "shared": list(shared.__path__),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What stage1 is made of beside our own code.

    files: programs or files of the host, programs by name as stage1 finds them. image: the id of the image that it is.
    """

    files: tuple[str, ...] = ()
    image: str = ""


FLAVORS: Final[Mapping[str, Parts]] = {
    "linux": Parts(),
    "fly": Parts(),
    "nspawn": Parts(("systemd-nspawn",)),
}
_BUILT: Final = frozenset({"__pycache__"})


def digest_of(packages: Mapping[str, list[str]]) -> str:
    """SHA-256 of the canonical JSON of {path below the package's parent: SHA-256 of the file} of all files.

    Compiled files (`__pycache__`) are left out. The same program has the same digest on every machine, wherever it is
    installed. Raises OSError.
    """
    files: dict[str, str] = {}
    for name, places in packages.items():
        for root in map(Path, places):
            for path in root.rglob("*"):
                below = path.relative_to(root)
                if path.is_file() and not _BUILT & set(below.parts):
                    files[f"{name}/{below}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    if not files:
        raise TpmError(f"the code of {', '.join(packages)} is in no files that could be measured")
    return f"sha256:{hashlib.sha256(canonical(files)).hexdigest()}"


@cache
def program_digest() -> str:
    """Of the program as it is now, once: what a process has loaded does not change when files do. Takes some ms."""
    return digest_of(PACKAGES)


class Stage1:
    """What an event says of stage1."""

    def __init__(self) -> None:
        self._hashes: dict[str, tuple[tuple[int, ...], str]] = {}

    def describe(self, flavor: str, parts: Parts | None) -> dict[str, Any]:
        """Raises TpmError for a flavor of which it is not known what it is made of, or another OSError."""
        if parts is None:
            raise TpmError(f"stage1 flavor {flavor!r} cannot be measured: it is not known what it is made of")
        paths = (shutil.which(name, path=os.defpath) or name for name in parts.files)
        files = {path: self._hash(path) for path in paths}
        return {"digest": program_digest(), "flavor": flavor, "files": files, "image": parts.image}

    def _hash(self, path: str) -> str:
        """Of a file, and again when it changed."""
        with open(path, "rb") as file:
            now = os.fstat(file.fileno())
            stamp = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            known = self._hashes.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
                self._hashes[path] = known
        return known[1]
