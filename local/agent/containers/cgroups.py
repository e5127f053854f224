"""Cgroups (v1) of containers: `<hierarchy>/<subsystem>/<root>/<container id>`, with everything nested in them.

Blocking; `destroy` takes as long as the kernel needs to end processes and belongs into a thread. A container's
processes may have made cgroups of their own below: they are killed and removed with it.

Source: Mesos src/slave/containerizer/mesos/linux_launcher.cpp (`destroy`), src/linux/cgroups.cpp (`TasksKiller`),
isolators/cgroups/subsystems/{cpu,memory}.cpp; kernel Documentation/admin-guide/cgroup-v1/*.rst.
"""

import errno
import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

CPU_SHARES = 1024  # of one CPU
MIN_CPU_SHARES = 2
MIN_MEMORY = 32 * 2**20
_DESTROY_SECONDS = 60.0


class CgroupError(Exception):
    """A cgroup cannot be made, changed or removed; one line."""


class Cgroups:
    """The cgroups of one agent."""

    def __init__(self, hierarchy: Path, root: str, subsystems: Iterable[str]) -> None:
        self._root = root
        found: dict[Path, str] = {}  # co-mounted subsystems are one directory
        for name in subsystems:
            path = hierarchy / name
            if not (path / "cgroup.procs").exists():
                raise CgroupError(f"{path} is not a mounted cgroup v1 hierarchy")
            found.setdefault(path.resolve(), name)
        self._mounts = {name: path for path, name in found.items()}
        self._memory = next(
            (p for p in self._mounts.values() if (p / "memory.limit_in_bytes").exists()), None
        )
        self._cpu = next((p for p in self._mounts.values() if (p / "cpu.shares").exists()), None)
        for mount in self._mounts.values():
            self._create(mount / root)

    def _tops(self, container_id: str) -> list[Path]:
        return [mount / self._root / container_id for mount in self._mounts.values()]

    @staticmethod
    def _create(path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (path / name).exists() and not (path / name).read_text().strip():
                    (path / name).write_text((path.parent / name).read_text())
        except OSError as error:
            raise CgroupError(f"cannot create the cgroup {path}: {error.strerror}") from error

    def create(self, container_id: str) -> None:
        """Empty cgroups in all hierarchies."""
        for top in self._tops(container_id):
            self._create(top)

    def assign(self, container_id: str, pid: int) -> None:
        """Move a process, that has no children yet, in."""
        for top in self._tops(container_id):
            _write(top / "cgroup.procs", str(pid))

    def update(self, container_id: str, cpus: int, memory: int) -> None:
        """Fit the limits to what executor and tasks are given: thousandths of CPUs and of MBs.

        As in Mesos memory's hard limit is only ever raised; the soft limit follows down too.
        """
        if self._cpu is not None:
            shares = max(MIN_CPU_SHARES, CPU_SHARES * cpus // 1000)
            _write(self._cpu / self._root / container_id / "cpu.shares", str(shares))
        if self._memory is not None:
            top = self._memory / self._root / container_id
            limit = max(MIN_MEMORY, memory * 2**20 // 1000)
            _write(top / "memory.soft_limit_in_bytes", str(limit))
            try:
                current = int((top / "memory.limit_in_bytes").read_text())
            except OSError as error:
                raise CgroupError(f"cannot read {top}/memory.limit_in_bytes: {error.strerror}") from error
            if current < limit or current >= 2**62:  # the initial value is "unlimited"
                _write(top / "memory.limit_in_bytes", str(limit))

    def memory_cgroup(self, container_id: str) -> Path | None:
        return self._memory / self._root / container_id if self._memory is not None else None

    def containers(self) -> set[str]:
        """Ids of all containers below the root, also those of other agents with the same root."""
        found: set[str] = set()
        for mount in self._mounts.values():
            found.update(path.name for path in (mount / self._root).iterdir() if path.is_dir())
        return found

    def processes(self, container_id: str) -> set[int]:
        """Pids in the container's cgroups and those nested in them."""
        return {pid for top in self._tops(container_id) for path in _tree(top) for pid in _pids(path)}

    def destroy(self, container_id: str) -> None:
        """Kill everything and remove everything; returns when it is gone. Raises CgroupError after a minute."""
        deadline = time.monotonic() + _DESTROY_SECONDS
        freezer = self._mounts["freezer"] / self._root / container_id
        pause = 0.001
        while pids := self.processes(container_id):
            if time.monotonic() > deadline:
                raise CgroupError(f"processes {sorted(pids)} of container {container_id} do not end")
            self._kill(freezer, pids)
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        for top in self._tops(container_id):
            for path in _tree(top):
                _remove(path, deadline)

    @staticmethod
    def _kill(freezer: Path, pids: set[int]) -> None:
        """Frozen, no process can fork away; the signals take effect once thawed."""
        _try_write(freezer / "freezer.state", "FROZEN")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself
        for path in reversed(list(_tree(freezer))):
            _try_write(path / "freezer.state", "THAWED")


def _tree(top: Path) -> Iterator[Path]:
    """The directories below and including `top`, innermost first; none when it is not there."""
    return (Path(path) for path, _, _ in os.walk(top, topdown=False))


def _pids(path: Path) -> list[int]:
    try:
        return [int(pid) for pid in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []  # removed meanwhile


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise CgroupError(f"cannot write {value!r} to {path}: {error.strerror}") from error


def _try_write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        log.debug("cannot write %r to %s: %s", value, path, error)


def _remove(path: Path, deadline: float) -> None:
    """A cgroup whose last process has just ended is busy for a moment."""
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise CgroupError(f"cannot remove the cgroup {path}: {error.strerror}") from error
            time.sleep(0.005)
        else:
            return
