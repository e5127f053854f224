"""A fingerprint of each thing in a rendered tree: whether anybody has touched it since it was imported.

One record for each path: 8 bytes of a hash of the path, 8 of a hash of its inode number, mode, owner, size, mtime and
ctime; sorted, so that one path is found by bisection. The kernel sets ctime with every change, to content, owner or
mode, and lets nobody set it back. Checking a path costs one lstat and reads no content. What this cannot find is a
change that no system call made: a bad disk, or somebody who writes the device or moves the clock.
"""

import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_RECORD = struct.Struct("<QQ")
_STAT = struct.Struct("<QIIIqqqQ")


def write(tree: Path, path: Path) -> None:
    """Seal a finished tree. Nothing of it may be changed or linked afterwards."""
    records = sorted((_hash(os.fsencode(name)), _fingerprint(info)) for name, info in walk(tree))
    with path.open("wb") as file:
        file.write(b"".join(_RECORD.pack(*record) for record in records))


def walk(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path relative to the tree, lstat) of everything, the root as ""."""
    yield "", tree.lstat()
    todo = [""]
    while todo:
        directory = todo.pop()
        with os.scandir(tree / directory) as entries:
            for entry in entries:
                name = f"{directory}/{entry.name}" if directory else entry.name
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(name)


def changed(tree: Path, path: Path, names: Iterable[str]) -> str:
    """The first of `names` that is not as it was, with what became of it; "" when all are. OSError without a seal."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as sealed:
        for name in names:
            wanted = _find(sealed, _hash(os.fsencode(name)))
            try:
                info = os.lstat(tree / name)
            except (FileNotFoundError, NotADirectoryError):
                if wanted is not None:
                    return f"/{name} is gone"
                continue
            if wanted is None:
                return f"/{name} is not of the image"
            if wanted != _fingerprint(info):
                return f"/{name} was changed"
    return ""


def changes(tree: Path, path: Path, limit: int = 20) -> list[str]:
    """Everything that is not as it was, at most `limit` of it. OSError without a seal."""
    found: list[str] = []
    data = path.read_bytes()
    left = {_RECORD.unpack_from(data, at) for at in range(0, len(data), _RECORD.size)}
    known = {record[0] for record in left}
    for name, info in walk(tree):
        key = _hash(os.fsencode(name))
        record = (key, _fingerprint(info))
        if record in left:
            left.discard(record)
        elif len(found) < limit:
            found.append(f"/{name} was changed" if key in known else f"/{name} is not of the image")
            left = {other for other in left if other[0] != key}
    if left and len(found) < limit:
        found.append(f"{len(left)} of its files are gone")
    return found


def _find(sealed: mmap.mmap, key: int) -> int | None:
    low, high = 0, len(sealed) // _RECORD.size
    while low < high:
        middle = (low + high) // 2
        there, fingerprint = _RECORD.unpack_from(sealed, middle * _RECORD.size)
        if there == key:
            return int(fingerprint)
        if there < key:
            low = middle + 1
        else:
            high = middle
    return None


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _fingerprint(info: os.stat_result) -> int:
    return _hash(
        _STAT.pack(
            info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns, info.st_ctime_ns,
            info.st_rdev,
        )
    )  # fmt: skip
