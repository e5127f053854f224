"""The event log on disk: a file for each boot, appended to by all executors of the machine in turn.

    DIRECTORY/pcr-15/lock  00000001.jsonl  00000002.jsonl …        the newest is of this boot

Whoever extends the PCR holds the lock from before the intent is written until the PCR has it, so that the order of the
log is that of the PCR. An intent is on the disk before it is extended; `done` may get lost: what became of an open
intent is seen from the PCR. Files of earlier boots are history; the last sixteen are kept.
"""

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from executor.tpm.errors import LogError, TpmError
from executor.tpm.events import Boot, Event, Intent, Replay, canonical

log = logging.getLogger(__name__)

KEEP_BOOTS: Final = 16
LOCK_SECONDS: Final = 60.0
_NAME: Final = re.compile(r"(\d{8})\.jsonl")


class EventLog:
    """One PCR's log. Not for several threads; for several processes it is."""

    def __init__(self, directory: Path, pcr: int) -> None:
        self._directory = directory / f"pcr-{pcr}"
        self._pcr = pcr
        self._number = 0
        self._size = 0
        self.replay = Replay()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the log, and knowing all of it. Raises LogError, TpmError or another OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(fd, self._directory)
            self._refresh()
            yield
        finally:
            os.close(fd)

    @property
    def path(self) -> Path:
        """The file of this boot; there is none before the first `begin`."""
        return self._directory / f"{self._number:08}.jsonl"

    def begin(self, boot: Boot) -> None:
        """A new boot."""
        number = self._number + 1
        path = self._directory / f"{number:08}.jsonl"
        made = path.with_suffix(".new")
        line = canonical(boot.record()) + b"\n"
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(made, path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._refresh()
        for old in self._numbers()[:-KEEP_BOOTS]:
            with suppress(FileNotFoundError):
                (self._directory / f"{old:08}.jsonl").unlink()

    def intend(self, events: list[Event]) -> Intent:
        """Write what is to be extended; it is on the disk when this returns."""
        intent = self.replay.next_intent(events)
        self._append(intent.record(), sync=True)
        return intent

    def resolve(self, intent: Intent, *, extended: bool) -> None:
        """Write what became of it. Not synced: it can be found out again."""
        self._append({"kind": "done" if extended else "void", "seq": intent.seq}, sync=False)

    def read(self) -> bytes:
        """All of this boot."""
        return self.path.read_bytes()[: self._size]

    def _append(self, record: dict[str, Any], *, sync: bool) -> None:
        line = canonical(record)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _write(fd, line + b"\n")
            if sync:
                os.fdatasync(fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(fd, self._size)
            raise OSError(f"event log {self.path}: {error.strerror or error}") from None
        finally:
            os.close(fd)
        self._size += len(line) + 1
        self.replay.feed([line])

    def _numbers(self) -> list[int]:
        return sorted(
            int(found[1]) for name in os.listdir(self._directory) if (found := _NAME.fullmatch(name))
        )

    def _refresh(self) -> None:
        """Take on what others wrote. A last line without an end was never acted on: it is dropped."""
        number = max(self._numbers(), default=0)
        if number != self._number or self.replay.boot is None:
            self._number, self._size, self.replay = number, 0, Replay()
        if not number:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            if size == self._size:
                return
            if size < self._size:
                raise LogError(f"event log {self.path} was cut from {self._size} bytes to {size}")
            with os.fdopen(os.dup(fd), "rb") as file:
                file.seek(self._size)
                data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                log.warning("event log %s: its last line was not finished, and is dropped", self.path)
                os.ftruncate(fd, self._size + whole)
        finally:
            os.close(fd)
        self._feed(data[:whole])
        boot = self.replay.boot
        if boot is None or boot.pcr != self._pcr:
            raise LogError(f"event log {self.path} is not one of PCR {self._pcr}")

    def _feed(self, data: bytes) -> None:
        try:
            self.replay.feed(data.splitlines())
        except LogError as error:
            self.replay = Replay()  # read it all again the next time
            self._size = 0
            raise LogError(f"{self.path}: {error}") from None
        self._size += len(data)


def _lock(fd: int, directory: Path) -> None:
    deadline, pause = time.monotonic() + LOCK_SECONDS, 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TpmError(f"somebody has held {directory}/lock for {LOCK_SECONDS:g} s") from None
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        else:
            return


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
