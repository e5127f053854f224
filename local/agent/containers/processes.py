"""Processes as /proc shows them: who is alive, who belongs to whom.

Source: proc(5).
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A pid that cannot be mistaken for a later process with the same number."""

    pid: int
    start: int  # clock ticks since boot
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """None when there is no such process, or only its zombie."""
        stat = _stat(pid)
        return None if stat is None or stat[0] in ("Z", "X") else cls(pid, int(stat[19]), boot_id())

    def alive(self) -> bool:
        return Identity.of(self.pid) == self


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields after the command name: state, ppid, pgrp, session, …, starttime at index 19."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def session_and_descendants(leader: int) -> set[int]:
    """The leader, its session and everything descended from it (src/slave/containerizer/mesos/launcher.cpp)."""
    table: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _stat(int(entry))
            if stat is not None and stat[0] not in ("Z", "X"):
                table[int(entry)] = (int(stat[1]), int(stat[3]))
    found = {pid for pid, (_, session) in table.items() if session == leader} | ({leader} & set(table))
    while True:
        more = {pid for pid, (parent, _) in table.items() if parent in found} - found
        if not more:
            return found
        found |= more


def kill_all(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself


def environment(pid: int) -> dict[str, str]:
    """The initial environment; {} when it cannot be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in content.split(b"\0") if item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
