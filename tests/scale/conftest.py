"""A cluster of real processes whose agents are simulated: master, scheduler, `gantry simulate`."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests import waiting
from tests.ports import free_ports
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class Cluster:
    """All processes in one directory, on free ports. `record`: what the simulation says really ran."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.record = directory / "record.jsonl"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.master_port, self.api = free_ports(2)

    def _spawn(self, name: str, *argv: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "gantry", name, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def start_master(self) -> None:
        self._spawn("master", "--port", str(self.master_port), "--work_dir", "master")

    def start_scheduler(self) -> None:
        self._spawn(
            *("scheduler", "--master", f"127.0.0.1:{self.master_port}", "--store", "sqlite:state.db"),
            *("--listen", f"127.0.0.1:{self.api}", "--executor-command", "simulated"),
        )

    def start_agents(self, count: int, *flags: str) -> None:
        self._spawn(
            *("simulate", "--master", f"127.0.0.1:{self.master_port}", "--agents", str(count)),
            *("--record", str(self.record), *flags),
        )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(PATIENCE)

    def get(self, path: str, *, port: int | None = None) -> Any:
        """The JSON of a path of the API, or of the master; None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.api, timeout=20)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status == 200:
                return json.loads(answer.read())
        return None

    def rescinded(self) -> int:
        """How many offers the master has taken back."""
        metrics = self.get("/metrics/snapshot", port=self.master_port) or {}
        return int(metrics.get("master/offers_rescinded", 0))

    def until(self, what: str, check: Callable[[], T | None], seconds: float = PATIENCE) -> T:
        """The first true answer of `check`, unless a process ends. (What is in their logs, tests/conftest.py says.)"""

        def checked() -> T | None:
            answer = check()
            dead = [name for name, one in self.processes.items() if one.poll() is not None]
            assert answer or not dead, f"{', '.join(dead)} has ended: no {what}"
            return answer

        return waiting.until(what, checked, seconds, pause=0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path)
    started.start_master()
    try:
        yield started
    finally:
        started.stop()
