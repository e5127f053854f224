"""What every operation is made of: the protocol, the context, errors, and paths that stay inside a root.

Paths inside an app's root file system are never given to the kernel as they are: they are resolved by
openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), and the mount goes on the descriptor that comes out.
"""

import os
from typing import Final, Protocol

from executor.stage1 import cgroups, syscalls
from executor.stage1.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS

IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
O_DIR: Final = os.O_PATH | os.O_DIRECTORY


class StageError(Exception):
    """An operation failed; the message is "<what was being done>: <why>"."""


class Context:
    """What operations of one execution share: named descriptors, and the app's stdin, stdout and stderr.

    `places`: of the ground (see `roots`), so many are taken. `home`: a directory from which paths begin that are
    no app's (cgroups' files), -1 for the root.
    """

    def __init__(self, fds: dict[str, int], *, home: int = -1) -> None:
        self.fds = fds
        self.home = home
        self.streams: list[int] = []
        self.places = 0


class Op(Protocol):
    """One step of a plan."""

    def describe(self) -> str: ...

    def execute(self, context: Context) -> None: ...


def execute(ops: "list[Op]", context: Context) -> None:
    """Run a plan; raises StageError that names the operation that failed."""
    for op in ops:
        try:
            op.execute(context)
        except OSError as error:
            raise StageError(f"{op.describe()}: {os.strerror(error.errno or 0)}") from None
        except cgroups.CgroupError as error:
            raise StageError(f"{op.describe()}: {error}") from None


def open_or_make(
    root: int, path: str, resolve: int, *, directory: bool, links: int = 8, mode: int = 0o755
) -> int:
    """An O_PATH descriptor of `path` under `root`, made (parents too) when it is missing.

    `resolve` are openat2's RESOLVE flags, so that no link on the way leads out of `root`. What a dangling
    symbolic link at the end points to is made instead, `links` times at most. `mode`: of directories that are made.
    """
    wanted = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    try:
        return syscalls.openat2(root, path, wanted, resolve)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part not in ("", ".")]
    parent = "/".join(parts[:-1]) or "."
    above = len(parts) > 1
    place = open_or_make(root, parent, resolve, directory=True, mode=mode) if above else os.dup(root)
    try:
        try:
            _make(place, parts[-1], mode if directory else None)
        except FileExistsError:
            target = _link(place, parts[-1])
            if target is None or not links:
                raise
            path = target if target.startswith("/") else f"{parent}/{target}"
            return open_or_make(root, path, resolve, directory=directory, links=links - 1, mode=mode)
        return syscalls.openat2(root, "/".join(parts), wanted, resolve)
    finally:
        os.close(place)


def _make(place: int, name: str, mode: int | None) -> None:
    """`mode`: of a directory; None: a file."""
    if mode is not None:
        mask = os.umask(0)
        try:
            os.mkdir(name, mode, dir_fd=place)
        finally:
            os.umask(mask)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=place))


def _link(place: int, name: str) -> str | None:
    """Target of a symbolic link; None when it is something else (made by somebody else meanwhile)."""
    try:
        return os.readlink(name, dir_fd=place)
    except OSError:
        return None
