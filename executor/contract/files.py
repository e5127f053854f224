"""What a stage1 writes about its pod, read without believing it: `pid`, `ppid`, `rkt/status/APP`,
`rkt/supervisor-status`.

Every file is looked at without following links, is a plain file, and is short; a process is the pod's if it is in
the pod's cgroup.
"""

import logging
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from executor.contract.interface import ContractError
from executor.stage1 import syscalls

log = logging.getLogger(__name__)

_PLAIN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_RESOLVE: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_LONGEST: Final = 64


def read(root: Path, path: str) -> str | None:
    """The text of a small plain file below `root`, None when there is none. ContractError for anything else."""
    try:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fd = syscalls.openat2(top, path, _PLAIN, _RESOLVE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # ENXIO: overlayfs' mark of a file that was removed, or somebody's device or socket.
        if _is_removed(top, path):
            return None
        raise ContractError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ContractError(f"{path} is not a plain file")
        data = os.read(fd, _LONGEST + 1)
    finally:
        os.close(fd)
    if len(data) > _LONGEST:
        raise ContractError(f"{path} is longer than {_LONGEST} bytes")
    return data.decode(errors="replace").strip()


def _is_removed(top: int, path: str) -> bool:
    try:
        info = os.stat(path, dir_fd=top, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def pod_pid(pod_dir: Path, members: Callable[[], set[int]] | None) -> int | None:
    """The process that `enter` gets: `pid`, or the only child of `ppid`; None while neither names one that lives.

    ContractError when what they name is no process of the pod, whose processes are `members`; None: all are dead.
    """
    for name in ("pid", "ppid"):
        text = read(pod_dir, name)
        if not text:
            continue
        if not text.isdecimal() or not text.isascii():
            raise ContractError(f"it wrote {text!r} into {name}, which is no process id")
        if members is None:
            return int(text)
        if int(text) not in members():
            if not _lives(text):
                return None
            raise ContractError(f"it wrote {text} into {name}, which is no process of the pod")
        if name == "pid":
            return int(text)
        children = _children(int(text))
        if len(children) > 1:
            raise ContractError(
                f"it wrote {text} into ppid, a process with {len(children)} children: one is allowed"
            )
        return children[0] if children else None
    return None


def _lives(pid: str) -> bool:
    """Whether there is such a process, and it has not ended (one that nobody has waited for is in no cgroup)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def members(directories: list[str]) -> set[int]:
    """Every process in these cgroups and those below."""
    found: set[int] = set()
    for directory in directories:
        for path, _, _ in os.walk(directory):
            try:
                with open(f"{path}/cgroup.procs", encoding="ascii") as file:
                    found.update(map(int, file.read().split()))
            except OSError:
                continue
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:
        return []
    return found


def exit_status(upper: Path, app: str) -> int | None:
    """What `rkt/status/APP` says, None while it says nothing. ContractError for what is no exit status."""
    text = read(upper, f"rkt/status/{app}")
    if not text:
        return None
    if not text.isdecimal() or not text.isascii() or int(text) > 255:
        raise ContractError(f"it wrote {text!r} as the exit status of {app}")
    return int(text)


class Appearance:
    """Notices that a name appears in a directory, even if it goes at once: the kernel remembers. Where it cannot be
    watched, nothing is ever noticed."""

    def __init__(self, directory: Path, name: str) -> None:
        self._name = name.encode()
        self._seen = False
        try:
            self._fd = syscalls.inotify(str(directory), syscalls.IN_CREATE | syscalls.IN_MOVED_TO)
        except OSError as error:
            log.warning("%s cannot be watched: %s", directory, error.strerror)
            self._fd = -1

    def seen(self) -> bool:
        """Until now."""
        while self._fd >= 0 and not self._seen:
            try:
                events = os.read(self._fd, 4096)
            except BlockingIOError:
                break
            at = 0
            while at < len(events):
                (length,) = struct.unpack_from("I", events, at + 12)
                name = events[at + 16 : at + 16 + length].rstrip(b"\0")
                self._seen = self._seen or name == self._name
                at += 16 + length
        return self._seen

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def supervisor_ready(upper: Path) -> bool:
    """Whether `rkt/supervisor-status` is a link to `ready`."""
    try:
        return os.readlink(upper / "rkt" / "supervisor-status") == "ready"
    except OSError:
        return False
