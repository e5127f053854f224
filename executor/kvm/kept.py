"""What machines are started with lies in directories that are kept, and how those of former times come to an end.

A directory belongs to a kernel, an interpreter and a version of ours (`executor.kvm.boot`). Whoever uses one holds a
lock on a file in it until it ends, however it ends; nobody removes what is held. Another one may be making what is
removed: both look again when they have the lock.
"""

import fcntl
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Final

DAYS_UNUSED: Final = 1.0
"""Others go when nobody has used them for so long: two versions may take turns."""
_LOCK: Final = "used"
_TRASH: Final = "removed-"
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_DAY: Final = 86_400.0


def hold(place: Path) -> int:
    """The directory is there, and stays until the descriptor is closed. Raises OSError."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # it has just been removed
        fcntl.flock(fd, fcntl.LOCK_SH)
        if _is_at(fd, place / _LOCK):
            os.utime(fd)
            return fd
        os.close(fd)


def collect(directory: Path, now: float | None = None) -> list[Path]:
    """Remove those in `directory` that nobody uses, or has used lately; returns them. Raises OSError."""
    limit = (time.time() if now is None else now) - DAYS_UNUSED * _DAY
    gone = []
    for place in sorted(directory.iterdir()):
        if _NAME.fullmatch(place.name) and _used(place) < limit:
            trash = _take(place)
            if trash is not None:
                shutil.rmtree(trash, ignore_errors=True)
                gone.append(place)
        elif place.name.startswith(_TRASH):  # whoever wanted to remove it was killed
            shutil.rmtree(place, ignore_errors=True)
    return gone


def _take(place: Path) -> Path | None:
    """Where it is from now on, all of it at once; None when it is used."""
    trash = place.with_name(f"{_TRASH}{uuid.uuid4()}")
    try:
        fd = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # somebody else has removed it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(fd, place / _LOCK):
            return None
        place.rename(trash)
    except BlockingIOError:
        return None
    finally:
        os.close(fd)
    return trash


def _used(place: Path) -> float:
    for path in (place / _LOCK, place):
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            continue  # of a version that knew no locks, or it is just being removed
    return time.time()


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
