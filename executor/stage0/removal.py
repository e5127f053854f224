"""Removing trees that images and apps have made: of any depth, with a dozen descriptors and as many frames.

shutil.rmtree goes down as deep as the tree is, with a frame (before Python 3.13) and a descriptor for each level: of an
app that makes a thousand directories in one another an executor could not rid itself. Here directories that are deep
below others are moved up first, and then removed one by one.
"""

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEP: Final = 8
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # include/uapi/linux/fs.h, as on every machine of 64 bits
_PROTECTED: Final = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL

Known = Mapping[str, "Known | None"]
"""Names in a directory: of directories, with what is in them, and of files (None)."""


def remove_tree(path: Path | str) -> None:
    """The directory `path` and everything in it; no link is followed, and whoever is killed here leaves less of it.

    Raises OSError; FileNotFoundError, or one of ENOTEMPTY, also when somebody else is removing it.
    """
    try:
        os.rmdir(path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EPERM):
            raise
        refused = error.errno == errno.EPERM
    root = os.open(path, _DIRECTORY)
    try:
        if refused:
            _unprotect(root)
        names = (f".{os.urandom(4).hex()}.{number}" for number in itertools.count())
        todo = ["."]
        while todo:
            name = todo.pop()
            directory = os.open(name, _DIRECTORY, dir_fd=root)
            try:
                for below in _emptied(directory, _DEEP):
                    free = _free(root, names)
                    _do(_move, below[1], below[0], free, root)
                    todo.append(free)
            finally:
                os.close(directory)
            if name != ".":
                _do(_rmdir, name, root)
    finally:
        os.close(root)
    os.rmdir(path)


def remove_known(directory: Path | str, tree: Known) -> None:
    """What of `tree` is there, below `directory`, in fewer calls than it takes to look for it. The rest stays."""
    with suppress(OSError):
        root = os.open(directory, _DIRECTORY)
        try:
            _remove_known(root, tree)
        finally:
            os.close(root)


def _remove_known(directory: int, tree: Known) -> None:
    for name, below in tree.items():
        with suppress(OSError):
            if below is None:
                os.unlink(name, dir_fd=directory)
                continue
            if below:
                found = os.open(name, _DIRECTORY, dir_fd=directory)
                try:
                    _remove_known(found, below)
                finally:
                    os.close(found)
            os.rmdir(name, dir_fd=directory)


def remove_if_there(path: Path) -> None:
    """As far as that is possible; for what is only in the way."""
    with suppress(OSError):
        remove_tree(path)


def _emptied(directory: int, levels: int) -> Iterator[tuple[int, str]]:
    """Removes all that is in a directory but what is deep below it: that it yields, to be taken away at once."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            _do(_unlink, name, directory)
        elif not _removed(directory, name):
            if not levels:
                yield directory, name
                continue
            below = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                yield from _emptied(below, levels - 1)
            finally:
                os.close(below)
            _do(_rmdir, name, directory)


def _removed(directory: int, name: str) -> bool:
    """Whether it was empty."""
    try:
        _do(_rmdir, name, directory)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _unlink(name: str, directory: int) -> None:
    os.unlink(name, dir_fd=directory)


def _rmdir(name: str, directory: int) -> None:
    os.rmdir(name, dir_fd=directory)


def _move(name: str, directory: int, new: str, root: int) -> None:
    os.rename(name, new, src_dir_fd=directory, dst_dir_fd=root)


def _do(work: Callable[..., None], name: str, directory: int, *more: str | int) -> None:
    """Once more if it is refused, without what whoever has CAP_LINUX_IMMUTABLE may have protected it by (chattr(1))."""
    try:
        work(name, directory, *more)
    except PermissionError:
        _unprotect(directory)
        kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if stat.S_ISDIR(kind) or stat.S_ISREG(kind):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                _unprotect(fd)
            finally:
                os.close(fd)
        work(name, directory, *more)


def _unprotect(fd: int) -> None:
    with suppress(OSError):  # there is no such thing on this file system
        flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8)), "little")
        if flags & _PROTECTED:
            fcntl.ioctl(fd, _SET_FLAGS, (flags & ~_PROTECTED).to_bytes(8, "little"))


def _free(root: int, names: Iterator[str]) -> str:
    """A name that nothing in `root` has."""
    while True:
        name = next(names)
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name
