"""Writes the files of a volume so that whoever reads sees all of the old ones or all of the new ones.

    volume/..2026_11_20_14_00_00.123456789/…    the files
    volume/..data  →  that directory            replaced by rename
    volume/NAME    →  ..data/NAME               what people see

As the kubelet does it (`pkg/volume/util/atomic_writer.go`), because programs watch for just that. Everything is done
below one directory descriptor. Owner and group of all are those of the volume's root (in a pod with users of its own
that is its root), and so is the setgid bit of directories.
"""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Final

from executor.pods.projections import Payload

DATA: Final = "..data"
NEW_DATA: Final = "..data_tmp"


def write(volume: str, files: Payload) -> None:
    """Make the volume hold these files and no others. Raises OSError."""
    root = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        info = os.fstat(root)
        owner = (info.st_uid, info.st_gid)
        mode = 0o755 | info.st_mode & stat.S_ISGID
        old = _target(root)
        new = _new_directory(root, mode, owner)
        for path, file in files.items():
            for parent in _parents(f"{new}/{path}"):
                try:
                    _directory(root, parent, mode, owner)
                except FileExistsError:
                    pass  # of another file, too
            _put(root, f"{new}/{path}", file.content, file.mode, owner)
        _remove(root, NEW_DATA)
        _link(root, NEW_DATA, new, owner)
        os.rename(NEW_DATA, DATA, src_dir_fd=root, dst_dir_fd=root)
        names = {path.partition("/")[0] for path in files}
        for name in names - set(os.listdir(root)):
            _link(root, name, f"{DATA}/{name}", owner)
        for name in set(os.listdir(root)) - names:
            if not name.startswith(".."):
                _remove(root, name)
        if old:
            shutil.rmtree(old, dir_fd=root)
    finally:
        os.close(root)


def _target(root: int) -> str:
    try:
        return os.readlink(DATA, dir_fd=root)
    except FileNotFoundError:
        return ""


def _new_directory(root: int, mode: int, owner: tuple[int, int]) -> str:
    now = time.time_ns()
    stamp = time.strftime("%Y_%m_%d_%H_%M_%S", time.gmtime(now // 10**9))
    name = f"..{stamp}.{now % 10**9:09d}"
    _directory(root, name, mode, owner)
    return name


def _directory(root: int, path: str, mode: int, owner: tuple[int, int]) -> None:
    os.mkdir(path, 0o755, dir_fd=root)
    os.chown(path, *owner, dir_fd=root)
    os.chmod(path, mode, dir_fd=root)


def _put(root: int, path: str, content: bytes, mode: int, owner: tuple[int, int]) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, 0o600, dir_fd=root)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        os.fchown(file, *owner)
        os.fchmod(file, mode)
    finally:
        os.close(file)


def _link(root: int, name: str, target: str, owner: tuple[int, int]) -> None:
    os.symlink(target, name, dir_fd=root)
    os.chown(name, *owner, dir_fd=root, follow_symlinks=False)


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    for count in range(2, len(parts)):
        yield "/".join(parts[:count])


def _remove(root: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=root)
    except FileNotFoundError:
        pass
