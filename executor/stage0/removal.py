"""Removing trees that images and apps have made: of any depth, with a dozen descriptors and as many frames.

shutil.rmtree goes down as deep as the tree is, with a frame (before Python 3.13) and a descriptor for each level: of an
app that makes a thousand directories in one another an executor could not rid itself. Here directories that are deep
below others are moved up first, and then removed one by one.
"""

import errno
import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEP: Final = 8

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
        if error.errno != errno.ENOTEMPTY:
            raise
    root = os.open(path, _DIRECTORY)
    try:
        names = (f".{os.urandom(4).hex()}.{number}" for number in itertools.count())
        todo = ["."]
        while todo:
            name = todo.pop()
            directory = os.open(name, _DIRECTORY, dir_fd=root)
            try:
                for below in _emptied(directory, _DEEP):
                    free = _free(root, names)
                    os.rename(below[1], free, src_dir_fd=below[0], dst_dir_fd=root)
                    todo.append(free)
            finally:
                os.close(directory)
            if name != ".":
                os.rmdir(name, dir_fd=root)
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
            os.unlink(name, dir_fd=directory)
        elif not _removed(directory, name):
            if not levels:
                yield directory, name
                continue
            below = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                yield from _emptied(below, levels - 1)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=directory)


def _removed(directory: int, name: str) -> bool:
    """Whether it was empty."""
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _free(root: int, names: Iterator[str]) -> str:
    """A name that nothing in `root` has."""
    while True:
        name = next(names)
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name
