"""Downloads that were not finished: a file of what has come, kept until the rest does, also when we are killed.

    store/partial/HASH         of the address: what has come; flocked by whoever downloads
    store/partial/HASH.json    which address, and how its server tells whether it still serves the same (rkt kept these,
                               too: rkt/image/resumablesession.go)

Only after the same boot is it gone on with: a file's size may be on the disk before its content.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import orjson

DIRECTORY = "partial"
KEPT = 24 * 3600.0
"""Seconds, after the last byte."""


class Partial:
    """What one download goes into. `file` is open, and at its end what has come ends; `notes`: see `begin`."""

    def __init__(self, file: IO[bytes], path: Path | None, notes: dict[str, Any]) -> None:
        self.file, self._path, self.notes = file, path, notes

    @classmethod
    def take(cls, root: Path, address: str) -> "Partial":
        """What there is of an address, or an empty file; one without a name when somebody else downloads it. OSError.

        root: of the store.
        """
        directory = root / DIRECTORY
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / hashlib.sha256(address.encode()).hexdigest()
        fd = _locked(path)
        if fd < 0:
            return cls(tempfile.TemporaryFile(dir=root / "tmp", buffering=0), None, {})
        made = cls(os.fdopen(fd, "r+b", buffering=0), path, {})
        notes = _read(_beside(path))
        if os.fstat(fd).st_size and notes.get("address") == address and notes.get("boot") == _boot():
            made.notes = notes
        else:
            os.ftruncate(fd, 0)
        return made

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return os.fstat(self.file.fileno()).st_size

    def begin(self, address: str, notes: dict[str, Any]) -> None:
        """From the beginning. notes: how to ask for the rest, later, in another process; values of JSON. OSError."""
        os.ftruncate(self.file.fileno(), 0)
        self.notes = {**notes, "address": address, "boot": _boot()}
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            new.write_bytes(orjson.dumps(self.notes))
            new.rename(_beside(self._path))

    def drop(self) -> None:
        """It is needed no more, or no good."""
        if self._path is not None:
            for path in (self._path, _beside(self._path)):
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Keeps what has come, but for nothing."""
        if not self.size:
            self.drop()
        self.file.close()


def sweep(root: Path, kept: float = KEPT) -> None:
    """Remove what nobody has gone on with for so many seconds. OSError."""
    with suppress(FileNotFoundError):
        for path in (root / DIRECTORY).iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= kept:
                    _remove(path)


def _remove(path: Path) -> None:
    if path.suffix:  # notes: they go with their file
        if not path.with_suffix("").exists():
            path.unlink()
        return
    fd = _locked(path)
    if fd >= 0:
        with os.fdopen(fd, "r+b", buffering=0) as file:
            Partial(file, path, {}).drop()


def _locked(path: Path) -> int:
    """A descriptor that locks the file; -1 when somebody else does."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        os.close(fd)  # it was removed meanwhile


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        notes = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
