"""Stock pymesos, scheduler and executor, on the embedded Mesos: four real processes and an executor."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

STOCK = Path(__file__).parent / "stock"
LIMIT = 40.0

Spawn = Callable[..., subprocess.Popen[str]]


def _kill(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    processes: list[subprocess.Popen[str]] = []

    def start(name: str, *command: str, pipe: bool = False) -> subprocess.Popen[str]:
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE if pipe else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        processes.append(process)
        return process

    yield start
    for process in reversed(processes):
        _kill(process)


def _endpoint(work_dir: Path, process: subprocess.Popen[str]) -> str:
    """What `--port 0` came to, once it is written."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            text = (work_dir / "endpoint").read_text().strip()
        except FileNotFoundError:
            text = ""
        if text:
            return text
        time.sleep(0.02)
    raise AssertionError(f"no endpoint in {work_dir}; the process returned {process.returncode}")


@pytest.mark.system
def test_a_task_of_stock_pymesos_completes(tmp_path: Path, spawn: Spawn) -> None:
    work = tmp_path / "master"
    master = spawn(
        "master", "-m", "gantry", "master", "--ip", "127.0.0.1", "--port", "0", "--work_dir", str(work)
    )
    address = _endpoint(work, master)
    flags = ["--master", address, "--ip", "127.0.0.1", "--port", "0", "--work_dir", str(tmp_path / "agent")]
    flags += ["--resources", "cpus:1;mem:256;disk:1024", "--launcher", "posix"]
    spawn("agent", "-m", "gantry", "agent", *flags)
    command = shlex.join([sys.executable, str(STOCK / "executor.py")])
    scheduler = spawn("scheduler", str(STOCK / "scheduler.py"), address, command, pipe=True)
    try:
        output, _ = scheduler.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        scheduler.kill()
        output, _ = scheduler.communicate()
        logs = "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in tmp_path.glob("*.log"))
        pytest.fail(f"the task did not complete:\n{output}\n{logs}")
    said = [json.loads(line) for line in output.splitlines()]
    assert said[0]["event"] == "registered"
    assert [(s["state"], s["data"]) for s in said[1:]] == [
        ("TASK_RUNNING", "from the stock executor"),
        ("TASK_FINISHED", "from the stock executor"),
    ]
    assert scheduler.returncode == 0
