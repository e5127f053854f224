"""A root file system made of this machine's own programs, for the demo image.

No registry is needed to try Gantry: the shell and a few tools are copied together with the shared libraries that
`ldd` names. Nothing here is a base image for real work; it is as old as the machine it was copied from.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

REQUIRED = ("sh", "cat", "echo", "sleep", "ls")
WANTED = (
    *(
        "bash",
        "chmod",
        "cp",
        "cut",
        "date",
        "dd",
        "df",
        "env",
        "false",
        "find",
        "grep",
        "head",
        "hostname",
        "id",
    ),
    *(
        "kill",
        "ln",
        "mkdir",
        "mktemp",
        "mount",
        "mv",
        "perl",
        "printf",
        "ps",
        "pwd",
        "readlink",
        "rm",
        "sed",
        "seq",
    ),
    *("sort", "stat", "tail", "tar", "tee", "timeout", "touch", "tr", "true", "uname", "wc", "whoami"),
)
# perl-base, which Debian always has: a scripting language with sockets, without copying half the machine.
PERL_LIBRARIES = "/usr/lib/*-linux-gnu*/perl-base"
_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+)\s+\(0x[0-9a-f]+\)")


class RootfsError(Exception):
    """A program that the image cannot do without is not on this machine."""


def shared_libraries(program: Path) -> set[Path]:
    """The libraries (absolute paths, the dynamic loader among them) that `program` needs; empty for a static one."""
    result = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return {Path(path) for path in _LIBRARY.findall(result.stdout)}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(
            source, target
        )  # follows symbolic links: the image has files where the machine has links


def _programs(names: Iterable[str]) -> dict[str, Path]:
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=path) for name in names}
    return {name: Path(where) for name, where in found.items() if where}


def build(target: Path) -> None:
    """Fill the directory `target`, which must not exist, with a small root file system.

    Raises RootfsError when one of REQUIRED is missing; what else is missing is left out.
    """
    required = _programs(REQUIRED)
    if missing := sorted(set(REQUIRED) - required.keys()):
        raise RootfsError(f"this machine has no {', '.join(missing)}, which the demo image is made of")
    target.mkdir(parents=True)
    for name, program in (_programs(WANTED) | required).items():
        _copy(program, target / "bin" / name)
        for library in shared_libraries(program):
            _copy(library, target / library.relative_to("/"))
    for libraries in Path("/").glob(PERL_LIBRARIES.lstrip("/")):
        shutil.copytree(libraries, target / libraries.relative_to("/"), symlinks=True)
    for directory, mode in (
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("dev", 0o755),
        ("proc", 0o755),
    ):
        (target / directory).mkdir(exist_ok=True)
        (target / directory).chmod(mode)
    (target / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    (target / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
