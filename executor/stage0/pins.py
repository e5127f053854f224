"""What must not be removed from the store now: the layers of pulls under way, the images of pods that run.

A pin is a file in store/pins that lists them, flocked by whoever needs them: a pin whose owner died has no lock holder
and means nothing. Pins are written under the store's lock, shared; whoever removes reads them under the same lock,
exclusively, and has moved its prey away before it lets go. So nobody holds that lock for long.
"""

import fcntl
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from secrets import token_hex
from typing import Protocol, Self

import orjson


class Store(Protocol):
    """Of cas.Cas, what pins need."""

    @property
    def root(self) -> Path: ...

    def lock(self, name: str, *, shared: bool = False) -> AbstractContextManager[None]: ...


class Pin:
    """Keeps layers (by diff_id) and images (by id) from being removed until it is closed or its process ends."""

    def __init__(self, store: Store, layers: Iterable[str] = (), images: Iterable[str] = ()) -> None:
        self._fd = -1
        self._store, self._path = store, store.root / "pins" / token_hex(12)
        self._things: set[str] = set()
        with store.lock("store", shared=True):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._write([*layers, *images])
            except BaseException:
                self.close()
                raise

    def add(self, layers: Iterable[str] = (), images: Iterable[str] = ()) -> None:
        """From now on these as well."""
        with self._store.lock("store", shared=True):
            self._write([*layers, *images])

    def close(self) -> None:
        """No more needed."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()  # nobody can need it any more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, things: list[str]) -> None:
        self._things |= set(things)
        data = orjson.dumps(sorted(self._things))
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))


def pinned(store: Store) -> set[str]:
    """All layers and images that somebody alive needs. Call with the store's lock held exclusively."""
    things: set[str] = set()
    for path in (store.root / "pins").iterdir():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)  # its owner is dead
        except BlockingIOError:
            things |= set(orjson.loads(path.read_bytes()))
        finally:
            os.close(fd)
    return things
