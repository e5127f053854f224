"""Processes that are started again when they end, as an init system does it, and what the kernel knows of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.history import Instance

AGAIN = 0.5
"""Seconds until what ended is started again."""

APP = 70_000_000
"""Pod number N sleeps so many seconds and N."""


@dataclass
class Process:
    """One of the cluster's. `held`: it stays down. `excused`: its end was our doing."""

    name: str
    command: list[str]
    log: Path
    environ: dict[str, str] = field(default_factory=dict)
    cgroup: Path | None = None
    popen: subprocess.Popen[bytes] | None = None
    held: int = 0
    excused: bool = False
    again: float = 0.0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environ},
            )
        if self.cgroup is not None:
            (self.cgroup / "cgroup.procs").write_text(str(self.popen.pid))
        self.excused = False

    @property
    def pid(self) -> int:
        """0 while it is down."""
        return self.popen.pid if self.popen is not None and self.popen.poll() is None else 0

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.pid:
            self.excused = True
            send(self.pid, number)

    def step(self) -> int | None:
        """Starts it again when it is time. The code with which it ended by itself, once."""
        if self.popen is None:
            if not self.held and time.monotonic() >= self.again:
                self.start()
            return None
        code = self.popen.poll()
        if code is None:
            return None
        self.popen, self.again = None, time.monotonic() + AGAIN
        return None if self.excused else code


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended meanwhile


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_of(pid: int) -> list[str]:
    """Empty for what has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def everyone() -> Iterator[tuple[int, list[str]]]:
    """Pids of this namespace, and their command lines."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name), command_of(int(name))


def _started(pid: int) -> int | None:
    """None for what has ended and only waits to be collected."""
    with open(f"/proc/{pid}/stat") as file:
        facts = file.read().rpartition(")")[2].split()
    return None if facts[0] in "ZX" else int(facts[19])


def agent_of(pid: int, prefix: str) -> str:
    """Whose cgroups it is in: their root is the prefix and the agent's name. "" for nobody's."""
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            for part in line.strip().split("/"):
                if part.startswith(prefix):
                    return part.removeprefix(prefix)
    return ""


def pods(prefix: str) -> tuple[Instance, ...]:
    """The apps that run now."""
    found = []
    for pid, argv in everyone():
        if len(argv) > 1 and argv[0] == "/bin/sleep" and argv[1].isdecimal() and int(argv[1]) >= APP:
            try:
                if (started := _started(pid)) is not None:
                    found.append(Instance(int(argv[1]) - APP, pid, started, agent_of(pid, prefix)))
            except OSError:
                pass  # it has ended
    return tuple(sorted(found))


def executors(agent: str, prefix: str) -> list[int]:
    """The executors' main processes on an agent."""
    found = [pid for pid, argv in everyone() if argv[1:4] == ["-m", "gantry", "executor"]]
    mine = []
    for pid in found:
        try:
            if agent_of(pid, prefix) == agent:
                mine.append(pid)
        except OSError:
            pass  # it has ended
    return mine
