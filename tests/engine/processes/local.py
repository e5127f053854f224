"""A master, agents and a scheduler as real processes, with a scripted executor: the whole protocol, no container."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests import waiting
from tests.ports import free_port, free_ports
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
PODS = "/api/v1/namespaces/default/pods"
T = TypeVar("T")

LIVING: weakref.WeakSet[Local] = weakref.WeakSet()  # their logs belong into what a failed test says


def until(what: str, check: Callable[[], T | None]) -> T:
    """The first true answer of `check`."""
    return waiting.until(
        what, check, why=lambda: "\n".join(text for one in LIVING for text in one.last_words())
    )


class Local:
    """A master, agents and a scheduler in a directory of their own."""

    until = staticmethod(until)
    free_port = staticmethod(free_port)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.executors = directory / "executors"
        self.executors.mkdir()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.api, self.mesos = free_ports(2)
        LIVING.add(self)

    def last_words(self) -> Iterator[str]:
        """The end of each log, and which processes have ended by themselves."""
        for path in sorted(self.directory.glob("*.log")):
            process = self.processes.get(path.stem)
            ended = f", exit code {process.returncode}" if process and process.poll() is not None else ""
            yield f"---- {path.name}{ended}\n{path.read_text(errors='replace')[-2000:]}"

    def spawn(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "gantry", *argv]
            environ = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, env=environ
            )
        self.processes[name] = process
        return process

    def start_master(self, *flags: str) -> None:
        base = ("--ip", "127.0.0.1", "--port", str(self.mesos), "--work_dir", "master")
        self.spawn("master", "master", *base, *flags)

    def start_agent(self, name: str, *flags: str) -> None:
        resources = "cpus:8;mem:8192;disk:20000;ports:[31000-32000]"
        self.spawn(
            *(name, "agent", "--master", f"127.0.0.1:{self.mesos}", "--ip", "127.0.0.1", "--port", "0"),
            *("--hostname", name, "--work_dir", name, "--resources", resources, "--launcher", "posix"),
            *flags,
        )

    def spawn_scheduler(self, *flags: str, name: str = "scheduler") -> subprocess.Popen[bytes]:
        """The last of equal flags counts."""
        script = ROOT / "tests/engine/scripted_executor.py"
        words = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(script), str(self.executors)]
        return self.spawn(
            *(name, "scheduler", "--master", f"127.0.0.1:{self.mesos}", "--store", "sqlite:state.db"),
            *("--listen", f"127.0.0.1:{self.api}", "--executor-command", shlex.join(words)),
            *flags,
        )

    def start_scheduler(self, *flags: str) -> None:
        process = self.spawn_scheduler(*flags)

        def ready() -> bool:
            assert process.poll() is None, "\n".join(self.last_words())
            return self.get("/readyz") == "ok"

        until("the API", ready)

    def start(self, *agents: str) -> None:
        self.start_master()
        for name in agents:
            self.start_agent(name)
        self.start_scheduler()
        until("the nodes", lambda: len(self.items("/api/v1/nodes")) == len(agents))

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        for pid in self.executor_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def greedy(self, cpus: float) -> Callable[[], list[dict[str, Any]]]:
        """Another framework that wants so many cpus (tests/engine/greedy.py); the function gives what it has said."""
        said = self.directory / "greedy.jsonl"
        command = [sys.executable, str(ROOT / "tests/engine/greedy.py"), "scheduler"]
        with said.open("wb") as out, (self.directory / "greedy.log").open("wb") as log:
            self.processes["greedy"] = subprocess.Popen(
                [*command, f"127.0.0.1:{self.mesos}", str(cpus)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        return lambda: [json.loads(line) for line in said.read_text().splitlines() if line.endswith("}")]

    # ---- the API

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.api}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def items(self, path: str = PODS) -> list[dict[str, Any]]:
        return list(json.loads(self.get(path) or "{}").get("items") or [])

    def create(self, *names: str, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        for name in names:
            containers = [{"name": "main", "image": "localhost/x"}]
            body = {
                "metadata": {"name": name, "annotations": annotations or {}},
                "spec": {"containers": containers, **spec},
            }
            self.call("POST", PODS, {"apiVersion": "v1", "kind": "Pod", **body})

    def phases(self) -> dict[str, str]:
        return {one["metadata"]["name"]: one["status"]["phase"] for one in self.items()}

    def all_running(self, count: int) -> None:
        until(f"{count} running pods", lambda: list(self.phases().values()) == ["Running"] * count)

    def unready(self) -> str:
        """What /readyz complains of."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.api}/readyz", timeout=10).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            pass
        return ""

    def last_line(self, name: str = "scheduler") -> str:
        return (self.directory / f"{name}.log").read_text().strip().splitlines()[-1]

    # ---- Mesos' operators

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        plain = {"Content-Type": "application/json", "Accept": "application/json"}
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.mesos}{path}", data, {**plain, **(headers or {})}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")

    def operate(self, kind: str, **body: Any) -> Any:
        return self.post("/api/v1", {"type": kind, kind.lower(): body})

    # ---- what the executors saw

    def executor_pids(self) -> list[int]:
        """Of those that live."""
        found = [path.name.removeprefix("executor.") for path in self.executors.glob("executor.*")]
        return [int(one.partition(".")[0]) for one in found if _alive(one)]

    def running(self) -> dict[str, list[str]]:
        """Task ids that run, by pod uid. Fails when a pod ever had two at once."""
        now: dict[str, dict[str, str]] = {}
        log = self.executors / "log"
        for line in log.read_text().splitlines() if log.exists() else []:
            word, task_id, who = line.split()
            tasks = now.setdefault(task_id.partition(".")[0], {})
            if word == "started":
                others = [other for other, its in tasks.items() if _alive(its)]
                assert not others, f"{task_id} was started while {others} ran"
                tasks[task_id] = who
            else:
                tasks.pop(task_id, None)
        alive = {uid: sorted(t for t, its in tasks.items() if _alive(its)) for uid, tasks in now.items()}
        return {uid: tasks for uid, tasks in alive.items() if tasks}

    def assert_each_runs_once(self) -> None:
        running = self.running()
        assert set(running) == {one["metadata"]["uid"] for one in self.items()}
        assert all(len(tasks) == 1 for tasks in running.values()), running


def _alive(who: str) -> bool:
    """`who`: an executor, as PID.START. Not so is what only waits for its parent to collect it."""
    pid, _, start = who.partition(".")
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[0] not in ("Z", "X") and stat[19] == start
