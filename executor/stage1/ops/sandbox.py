"""Operations that make the pod's own root: what its apps share, and what of it they must not see or change."""

import os
import stat
from typing import Final, NamedTuple

from executor.stage1 import syscalls
from executor.stage1.ops.base import O_DIR, Context
from executor.stage1.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

DIRECTORIES: Final = ("proc", "sys", "mqueue", "shm", "proc.sysctl")
"""In the pod's own root, to mount on."""
MORE: Final = "more"
"""A directory there, for what not every pod has."""
_OWN: Final = "mode=755,size=64k"


class NewRoot(NamedTuple):
    """A tmpfs over `path` becomes the root to be: it will hold the pod's shared mounts and nothing of the host.

    Inits that execute lists have a copy of one that was made once (`bare`), and nobody writes to.
    """

    path: str

    def describe(self) -> str:
        return f"mount an empty root on {self.path}"

    def execute(self, context: Context) -> None:
        syscalls.mount("tmpfs", self.path, "tmpfs", MS_NOSUID | MS_NODEV, _OWN)
        root = context.fds["root"] = os.open(self.path, O_DIR | os.O_CLOEXEC)
        os.fchdir(root)
        os.mkdir("empty", 0o555)
        for name in (*DIRECTORIES, MORE):
            os.mkdir(name, 0o755)
        os.close(os.open("null", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        syscalls.mount("/dev/null", "null", None, MS_BIND)


class MountNew(NamedTuple):
    """A fresh file system on a new directory of the pod's own root."""

    fstype: str
    name: str
    flags: int
    data: str = ""

    def describe(self) -> str:
        return f"mount {self.fstype} as the pod's {self.name}"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        if self.name not in DIRECTORIES:
            os.mkdir(self.name, 0o755)
        syscalls.mount(self.fstype, self.name, self.fstype, self.flags & ~MS_RDONLY, self.data or None)
        if self.flags & MS_RDONLY:
            # The mount, not the file system: other mounts of the same sysfs stay as they are.
            syscalls.mount("none", self.name, None, self.flags | MS_BIND | MS_REMOUNT)


class Hide(NamedTuple):
    """Cover files with /dev/null and directories with an empty one, where they exist in the pod's own root."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"hide {', '.join(self.paths)}"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        for path in self.paths:
            try:
                mode = os.stat(path).st_mode
            except FileNotFoundError:
                continue
            syscalls.mount("empty" if stat.S_ISDIR(mode) else "null", path, None, MS_BIND)


class MakeReadOnly(NamedTuple):
    """Bind paths of the pod's own root onto themselves, read-only, where they exist."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"make {', '.join(self.paths)} read-only"

    def execute(self, context: Context) -> None:
        os.fchdir(context.fds["root"])
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        for path in self.paths:
            if os.path.exists(path):
                syscalls.mount(path, path, None, MS_BIND)
                syscalls.mount("none", path, None, flags)


class SealRoot(NamedTuple):
    """Nobody writes to the pod's own root any more."""

    def describe(self) -> str:
        return "make the pod's own root read-only"

    def execute(self, context: Context) -> None:
        syscalls.mount("none", "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
