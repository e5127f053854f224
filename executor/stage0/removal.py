"""Removing trees that images and apps have made: of any depth, with three descriptors and no recursion.

shutil.rmtree goes down as deep as the tree is, with a frame (before Python 3.13) and a descriptor for each level: of an
app that makes a thousand directories in one another an executor could not rid itself. Here directories that are below
others are moved up first, and then removed one by one.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path | str) -> None:
    """The directory `path` and everything in it; no link is followed, and whoever is killed here leaves less of it.

    Raises OSError; FileNotFoundError, or one of ENOTEMPTY, also when somebody else is removing it.
    """
    root = os.open(path, _DIRECTORY)
    try:
        names = (f".{os.urandom(4).hex()}.{number}" for number in itertools.count())
        todo = list(_emptied(root))
        while todo:
            name = todo.pop()
            directory = os.open(name, _DIRECTORY, dir_fd=root)
            try:
                for below in _emptied(directory):
                    free = _free(root, names)
                    os.rename(below, free, src_dir_fd=directory, dst_dir_fd=root)
                    todo.append(free)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    os.rmdir(path)


def remove_if_there(path: Path) -> None:
    """As far as that is possible; for what is only in the way."""
    with suppress(OSError):
        remove_tree(path)


def _emptied(directory: int) -> Iterator[str]:
    """Removes all files; the names of the directories that are left."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            yield name
        else:
            os.unlink(name, dir_fd=directory)


def _free(root: int, names: Iterator[str]) -> str:
    """A name that nothing in `root` has."""
    while True:
        name = next(names)
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name
