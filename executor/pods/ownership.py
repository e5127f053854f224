"""Gives a volume to a group (`fsGroup`), as the kubelet does: `pkg/volume/volume_linux.go`, SetVolumeOwnership.

The group and its rights are added to everything in it, and new files get the group from the directories' setgid bit.
What is in a volume is the pods' that use it, also while this goes on: no link is followed, and rights are changed of
what was looked at and nothing else.
"""

import errno
import os
import stat
from typing import Final

ALWAYS, ON_ROOT_MISMATCH = "Always", "OnRootMismatch"
READ_WRITE: Final = 0o660
READ: Final = 0o440
SEARCH: Final = 0o110


def give(path: str, group: int, *, read_only: bool = False, policy: str = ALWAYS) -> None:
    """The tree at `path` to `group`; with OnRootMismatch only if its root is not yet. Slow: for a thread.

    Raises OSError. What goes away meanwhile is no error.
    """
    rights = READ if read_only else READ_WRITE
    if policy == ON_ROOT_MISMATCH and _is_given(os.stat(path), group, rights):
        return
    try:
        for _, directories, files, here in os.fwalk(path, topdown=False):
            for name in (*directories, *files):
                _give(here, name, group, rights)
    except RecursionError:  # before Python 3.12
        raise OSError(errno.ENAMETOOLONG, "its directories are too deep in one another", path) from None
    parent = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _give_open(parent, group, rights)  # last: whoever is interrupted begins anew
    finally:
        os.close(parent)


def _is_given(info: os.stat_result, group: int, rights: int) -> bool:
    wanted = rights | SEARCH | stat.S_ISGID
    return info.st_gid == group and info.st_mode & wanted == wanted


def _give(directory: int, name: str, group: int, rights: int) -> None:
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        _give_open(fd, group, rights)
    finally:
        os.close(fd)


def _give_open(fd: int, group: int, rights: int) -> None:
    """Of a descriptor that only names a place: nothing is opened, so no device, no pipe. A link is given itself."""
    mode, place = os.fstat(fd).st_mode, f"/proc/self/fd/{fd}"
    os.chown(place, -1, group)
    if stat.S_ISLNK(mode):
        return
    more = SEARCH | stat.S_ISGID if stat.S_ISDIR(mode) else 0
    os.chmod(place, stat.S_IMODE(mode) | rights | more)
