"""What must not be removed from the store now: the layers of pulls under way, the images of pods that run.

A pin is a file in store/pins that lists them, flocked by whoever needs them: a pin whose owner died has no lock holder
and means nothing. Pins are written under the store's lock, shared; whoever removes reads them under the same lock,
exclusively, and has moved its prey away before it lets go. So nobody holds that lock for long.
"""

import fcntl
import os
import threading
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


_Things = tuple[tuple[str, ...], tuple[str, ...]]


class _Counted:
    def __init__(self, things: _Things, pin: Pin) -> None:
        self.things, self.pin, self.count = things, pin, 1


class Share:
    """A part in a pin, which is there until the last one is closed."""

    def __init__(self, pins: "Pins", counted: _Counted) -> None:
        self._pins = pins
        self._counted: _Counted | None = counted

    def close(self) -> None:
        """No more needed."""
        counted, self._counted = self._counted, None
        if counted is not None:
            self._pins.leave(counted)

    def __del__(self) -> None:
        self.close()  # nobody can need it any more


class Pins:
    """Those of one process: what many need at a time is in one file. For any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shared: dict[_Things, _Counted] = {}
        self._lock = threading.RLock()  # a share may be collected in the middle of anything

    def share(self, layers: Iterable[str], images: Iterable[str]) -> Share:
        """Waits for who is removing something, if nobody here needs the same already. Raises OSError."""
        things = tuple(layers), tuple(images)
        again = self.again(*things)
        if again is not None:
            return again
        counted = _Counted(things, Pin(self._store, *things))
        with self._lock:
            self._shared[things] = counted
        return Share(self, counted)

    def again(self, layers: Iterable[str], images: Iterable[str]) -> Share | None:
        """At once; None when nobody here needs the same."""
        with self._lock:
            counted = self._shared.get((tuple(layers), tuple(images)))
            if counted is None:
                return None
            counted.count += 1
        return Share(self, counted)

    def leave(self, counted: _Counted) -> None:
        """One needs it no more."""
        with self._lock:
            counted.count -= 1
            last = not counted.count
            if last and self._shared.get(counted.things) is counted:
                del self._shared[counted.things]
        if last:
            counted.pin.close()


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
