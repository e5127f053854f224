"""Which shared libraries a set of ELF files needs, and where this machine has them.

The names are read from the files; where they are, the dynamic loader itself is asked (`ld.so --list`, what `ldd`
does), because only it knows all of its rules.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.bundle import elf

BY_NAME: Final = ("libseccomp.so.2",)
"""What is opened by name while the program runs, and therefore no file says that it needs it (executor/stage1)."""

_LINE: Final = re.compile(r"^\s*(\S+) => (\S+)(?: \(0x[0-9a-f]+\))?$")


class LibraryError(Exception):
    """A library is missing, or the loader is of no use; one line."""


def loader_of(program: Path) -> Path:
    """The dynamic loader of a program. Raises LibraryError, OSError."""
    try:
        interpreter = elf.read(program.read_bytes()).interpreter
    except elf.ElfError as error:
        raise LibraryError(f"{program}: {error}") from error
    if not interpreter:
        raise LibraryError(f"{program}: names no dynamic loader, so it cannot be taken along")
    return Path(interpreter)


def check(loader: Path) -> None:
    """Raises LibraryError when the loader cannot give a program another name than its file's (glibc before 2.33)."""
    done = subprocess.run([loader, "--help"], capture_output=True, text=True, check=False)
    if "--argv0" not in done.stdout + done.stderr:
        raise LibraryError(
            f"{loader} is too old to make a bundle from: glibc 2.33 is needed (Debian 12, Ubuntu 22.04, RHEL 9)"
        )


def closure(loader: Path, program: Path, objects: Iterable[Path]) -> dict[str, Path]:
    """Every library that `program` and the objects need, by name; the loader itself aside.

    Libraries that one of the objects is are left out: they are found from each other, by relative run paths.
    Raises LibraryError, OSError.
    """
    objects = list(objects)
    found: dict[str, Path] = _list(loader, program, *BY_NAME)
    own = {path.resolve() for path in objects}
    missing: dict[str, Path] = {}
    for path in objects:
        try:
            needed = elf.read(path.read_bytes()).needed
        except elf.ElfError as error:
            raise LibraryError(f"{path}: {error}") from error
        if not found.keys() >= {name for name in needed if name != loader.name}:
            found = _list(loader, path) | found
        missing |= {name: path for name in needed if name not in found and name != loader.name}
    missing |= {name: program for name in BY_NAME if name not in found}
    for name, path in missing.items():
        if name not in found:
            raise LibraryError(f"{path} needs {name}, which is not on this machine")
    return {name: path for name, path in found.items() if path.resolve() not in own}


def _list(loader: Path, path: Path, *also: str) -> dict[str, Path]:
    command = [loader, *(("--preload", " ".join(also)) if also else ()), "--list", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "statically linked" not in done.stdout + done.stderr:
        raise LibraryError(f"{loader} --list {path}: {(done.stderr or done.stdout).strip()}")
    found = {}
    for line in done.stdout.splitlines():
        if (match := _LINE.match(line)) and match[2].startswith("/") and match[1] != str(loader):
            found[match[1]] = Path(match[2])
    return found
