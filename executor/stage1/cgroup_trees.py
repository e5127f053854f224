"""Directories of cgroups: made, held, emptied, removed, read. What they are for, and where they are, says `cgroups`."""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

PREFIX: Final = "gantry."
_PAGES: Final = 65_536
_NO_DIRECTORIES: Final = 2
_LOCK_SECONDS: Final = 10.0  # nobody has it for more than milliseconds, unless he is stopped


class Layout(NamedTuple):
    """`base`: controller → directory below which pods' cgroups go. In v2 all controllers share one."""

    version: int
    base: dict[str, str]

    @property
    def roots(self) -> tuple[str, ...]:
        """The distinct directories, in the order of their controllers."""
        return tuple(dict.fromkeys(self.base.values()))


class CgroupError(Exception):
    """No usable cgroups, or a limit that cannot be enforced; the message says what to do."""


def kill_tree(directory: str, version: int) -> bool:
    """SIGKILL every process in the cgroup `directory` and below; True when there was none."""
    if version == 2:
        if not any(_pids(directory)):
            return True
        try:
            write(os.path.join(directory, "cgroup.kill"), "1")
            return False
        except FileNotFoundError:
            pass  # Linux < 5.14: one by one
    if not any(_pids(directory)):
        return True
    # A frozen fork bomb cannot fork away from its killer; in v1 the signals act when it is thawed.
    file, freeze, thaw = (
        ("freezer.state", "FROZEN", "THAWED") if version == 1 else ("cgroup.freeze", "1", "0")
    )
    frozen = os.path.exists(f"{directory}/{file}")
    if frozen:
        write(f"{directory}/{file}", freeze)
    try:
        for pid in _pids(directory):
            if pid > 0:  # 0: a process of a pid namespace that is not ours to see
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it was faster
    finally:
        if frozen:
            _thaw(directory, file, thaw)
    return False


def _thaw(directory: str, file: str, value: str) -> None:
    """Those below, too: whoever froze one of them may have been killed before it was thawed."""
    try:
        write(f"{directory}/{file}", value)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
    for path in _below_it(directory):
        _thaw(path, file, value)


def vacate(directory: str) -> bool:
    """Whether nobody is in a cgroup of v1 without others below; it is gone then.

    Cheaper than to ask who is: for that the kernel makes a list, keeps it for a while, and is busy to forget it.
    """
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def remove_tree(directory: str) -> bool:
    """rmdir a cgroup and the ones below; True when it is gone, False when the kernel still holds one."""
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    try:
        names = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    below = [remove_tree(path) for path in names]
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return all(below)


class Lock:
    """Holds off `leftovers` (shared) or creators of pods (exclusive) in every hierarchy, until it is released.

    For as long as it takes to make directories, or to list them: launchers that share a cgroup wait for it. Raises
    CgroupError when it cannot be had in `seconds`.
    """

    def __init__(self, layout: Layout, *, exclusive: bool, seconds: float = _LOCK_SECONDS) -> None:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        deadline = time.monotonic() + seconds
        self._fds: list[int] = []
        try:
            for root in layout.roots:
                self._fds.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                while not _locked(self._fds[-1], kind):
                    if time.monotonic() > deadline:
                        raise CgroupError(f"another executor has the lock of {root} for {seconds:.0f} s now")
                    time.sleep(0.001)
        except (OSError, CgroupError):
            self.release()
            raise

    def release(self) -> None:
        """Let go; idempotent."""
        while self._fds:
            os.close(self._fds.pop())


def leftovers(layout: Layout) -> dict[str, int]:
    """Pods' directories that no launcher holds any more, for theirs died; each with a descriptor that holds it now.

    The hold is a lock of the file system, for what is in a cgroup shows only to whoever sees its pid namespace.
    In every hierarchy, because executors may share some and not others (an agent nests only what it limits).
    Call it under the lock; whoever makes a pod of the same name then waits until the descriptor is closed.
    """
    found: dict[str, int] = {}
    for root in layout.roots:
        for entry in os.scandir(root):
            if entry.name.startswith(PREFIX):
                fd = hold_leftover(entry.path)
                if fd >= 0:
                    found[entry.path] = fd
    return found


def hold_leftover(directory: str) -> int:
    """The descriptor that holds a pod's directory from now on; -1 when a launcher has it, or it is gone."""
    return _hold(directory, fcntl.LOCK_EX)


def make_held(directory: str) -> tuple[int, bool]:
    """Make a directory of a pod's: the descriptor that holds it, and whether it is new. One that is being collected is
    made when it has gone."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        new = mkdir(directory)
        fd = _hold(directory, fcntl.LOCK_SH)
        if fd >= 0:
            return fd, new
        if time.monotonic() > deadline:
            raise CgroupError(f"{directory} is there, and another executor has it")
        time.sleep(0.001)


def _hold(directory: str, kind: int) -> int:
    """A descriptor with the lock of a directory; -1 when somebody else has it, or it has just been removed."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        if _locked(fd, kind) and os.path.samestat(os.fstat(fd), os.stat(directory)):
            return fd
    except FileNotFoundError:
        pass
    os.close(fd)
    return -1


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(path: str, value: str, directory: int | None = None) -> None:
    """One write(2), as cgroup files want it; never creates the file. directory: what a relative path begins from."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def mkdir(path: str) -> bool:
    """False when it was there: made with the pod, or kept since the app's last run."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    return True


def _pids(directory: str) -> Iterator[int]:
    """Process ids in a cgroup and all below."""
    yield from map(int, read(os.path.join(directory, "cgroup.procs")).split())
    for path in _below_it(directory):
        yield from _pids(path)


def _below_it(directory: str) -> list[str]:
    """The cgroups directly in one: as many as it has links more than two (stat(2), as everywhere but in btrfs)."""
    try:
        if os.stat(directory).st_nlink == _NO_DIRECTORIES:
            return []
        return [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def read(path: str) -> str:
    """A cgroup file; nothing for one whose cgroup goes away meanwhile (ENODEV between open and read)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, _PAGES):
                parts.append(part)
            return b"".join(parts).decode("ascii")
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return ""
