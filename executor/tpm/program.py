"""The digest of our own code, which is stage1 for the flavors that we bring along."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import executor
import shared
from executor.tpm.errors import TpmError
from executor.tpm.events import canonical

PACKAGES: Final[Mapping[str, list[str]]] = {
    "executor": list(executor.__path__),
    "shared": list(shared.__path__),
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
