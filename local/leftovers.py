"""Collect what a killed cluster left on the machine: its cgroups, and whatever still runs in them.

Everything else of a cluster dies with its process namespace (see local/up.py). Cgroups are directories of the
kernel and outlive the processes in them, so each cluster names its own and this module removes those.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

HIERARCHIES = Path("/sys/fs/cgroup")
_ROUNDS = 200  # of 10 ms: a killed process leaves its cgroup once the kernel has torn it down


def _named(root: Path, prefix: str) -> Iterator[Path]:
    for hierarchy in [root, *(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())]:
        yield from (path for path in hierarchy.glob(f"{prefix}*") if path.is_dir())


def _kill_members(cgroup: Path) -> bool:
    """SIGKILL every process of `cgroup`; False when there was none."""
    try:
        pids = [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
    except OSError:
        return False
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
    freezer = cgroup / "freezer.state"
    if pids and freezer.exists():  # a frozen process dies only when it is thawed
        freezer.write_text("THAWED")
    return bool(pids)


def remove_cgroup(cgroup: Path) -> None:
    """Kill what runs in `cgroup` and below it, and remove the directories. Raises OSError if that takes over 2 s."""
    directories = [Path(path) for path, _, _ in os.walk(cgroup, topdown=False)]
    for remaining in reversed(range(_ROUNDS)):
        busy = [_kill_members(path) for path in directories]
        if not any(busy):
            try:
                for path in directories:
                    path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                if not remaining:
                    raise
            else:
                return
        time.sleep(0.01)


def collect(prefix: str, root: Path = HIERARCHIES) -> list[Path]:
    """Remove every cgroup directly below a hierarchy of `root` whose name begins with `prefix`; what was removed."""
    if not prefix:
        raise ValueError("an empty prefix would name every cgroup of the machine")
    if not root.is_dir():
        return []
    found = list(_named(root, prefix))
    for cgroup in found:
        remove_cgroup(cgroup)
    return found
