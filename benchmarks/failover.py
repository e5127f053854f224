"""The leader is killed: until the next one has launched a pod that nobody had asked for yet.

    python -m benchmarks.failover [--rounds N] [--json FILE]

A real ZooKeeper (Debian's, data on disk), an embedded master and agent, two schedulers, all real processes; the
executor is the tests' scripted one, which starts no container. In each round the scheduler that leads (the child, not
the process that supervises it) is killed with SIGKILL, and a client begins at once to create a pod at the other
scheduler, again and again until it is acknowledged. Measured from the kill: `write_ms` to the acknowledgement,
`launch_ms` until the executor was told to start that pod (its log's change time).

The peer in the same run, on the same ZooKeeper and with the same session timeout, is an election without a supervising
process: kazoo's recipe in two processes, from the kill of one to the election of the other (`kazoo_ms`).
"""

import argparse
import contextlib
import http.client
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _zookeeper
from local.settings import free_port

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
PODS = "/api/v1/namespaces/default/pods"
PATIENCE = 60.0
TIMEOUT = 10.0


def until(what: str, check: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not check():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.02)


class Cluster:
    """Everything, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.executors = directory / "executors"
        self.executors.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.zookeeper, self.master = free_port(HOST), free_port(HOST)
        self.ports = [free_port(HOST), free_port(HOST)]
        self.parents: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._spawn("zookeeper", *_zookeeper.command(self.directory, self.zookeeper))
        self._gantry("master", "--ip", HOST, "--port", str(self.master), "--work_dir", "master")
        agent = ["--master", f"{HOST}:{self.master}", "--ip", HOST, "--port", "0", "--hostname", "agent"]
        resources = "cpus:64;mem:65536;disk:20000;ports:[31000-32000]"
        self._gantry("agent", *agent, "--work_dir", "agent", "--resources", resources, "--launcher", "posix")
        script = ROOT / "tests/engine/scripted_executor.py"
        words = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(script), str(self.executors)]
        for port in self.ports:
            flags = ["--master", f"{HOST}:{self.master}", "--store", f"zk://{HOST}:{self.zookeeper}/gantry"]
            flags += ["--listen", f"{HOST}:{port}", "--executor-command", shlex.join(words)]
            flags += ["--zk-session-timeout", str(TIMEOUT)]
            self.parents.append(self._gantry("scheduler", *flags))
            until("a scheduler to be ready", partial(self.ready, port))
        until("the node", lambda: '"Ready"' in self.get(self.ports[0], "/api/v1/nodes"))

    def _gantry(self, *argv: str) -> subprocess.Popen[bytes]:
        return self._spawn(argv[0], sys.executable, "-m", "gantry", *argv)

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdout=log, stderr=log, cwd=self.directory, env=environ,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        for path in self.executors.glob("executor.*"):
            pid, _, start = path.name.removeprefix("executor.").partition(".")
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] == start:
                    os.kill(int(pid), signal.SIGKILL)

    def ready(self, port: int) -> bool:
        return self.get(port, "/readyz") == "ok"

    def get(self, port: int, path: str) -> str:
        return self.call(port, "GET", path)[1]

    def call(self, port: int, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and text; 0 when nobody answers."""
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def child(self, which: int) -> int:
        pid = self.parents[which].pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def started(self, uid: str) -> float | None:
        """When the executor was told to start the pod, by the wall clock."""
        for line in (self.executors / "log").read_text().splitlines():
            if line.startswith(f"started {uid}"):
                return (self.executors / "log").stat().st_mtime
        return None


def pod(name: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "localhost/x"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def one_round(cluster: Cluster, leader: int, name: str) -> tuple[float, float]:
    """Milliseconds to the acknowledged write, and to the launch."""
    port = cluster.ports[1 - leader]
    for one in cluster.ports:
        until("both to be ready", partial(cluster.ready, one))
    time.sleep(0.5)
    began = time.time()
    os.kill(cluster.child(leader), signal.SIGKILL)
    while True:
        status, text = cluster.call(port, "POST", PODS, pod(name))
        if status == 201:
            break
        if status == 409:  # of a write that was answered with 504 and had been done
            text = cluster.get(port, f"{PODS}/{name}")
            break
        if time.time() - began > PATIENCE:
            sys.exit(f"no write: {text}")
        time.sleep(0.002)
    written = time.time()
    uid = json.loads(text)["metadata"]["uid"]
    while (at := cluster.started(uid)) is None:
        if time.time() - began > PATIENCE:
            sys.exit("no launch")
        time.sleep(0.002)
    return (written - began) * 1000, (at - began) * 1000


VOTER = """
import sys, time
from kazoo.client import KazooClient
client = KazooClient(sys.argv[1], timeout=float(sys.argv[2]))
client.start()
client.Election("/peer").run(lambda: (print("leads", flush=True), time.sleep(600)))
"""


def peer(cluster: Cluster) -> float:
    """Milliseconds from the kill of one to the election of the other."""
    command = [sys.executable, "-c", VOTER, f"{HOST}:{cluster.zookeeper}", str(TIMEOUT)]
    one = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert one.stdout is not None
    one.stdout.readline()
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        time.sleep(2)  # until it stands for election
        began = time.time()
        one.kill()
        other.stdout.readline()
        return (time.time() - began) * 1000
    finally:
        for process in (one, other):
            process.kill()
            process.wait()


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "min": round(ordered[0], 1),
        "median": round(statistics.median(ordered), 1),
        "max": round(ordered[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.failover", description="Kill -9 to the next launch.")
    parser.add_argument("--rounds", type=int, default=10, help="kills (default: %(default)s)")
    parser.add_argument("--peer-rounds", type=int, default=2, help="kills of the peer (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as directory:
        cluster = Cluster(Path(directory))
        try:
            cluster.start()
            cluster.call(cluster.ports[0], "POST", PODS, pod("first"))  # starts the executor
            until("the executor", (cluster.executors / "log").exists)
            taken = [one_round(cluster, number % 2, f"pod-{number}") for number in range(args.rounds)]
            others = [peer(cluster) for _ in range(args.peer_rounds)]
        finally:
            cluster.stop()
    figures: dict[str, Any] = {
        "write_ms": summary([one for one, _ in taken]),
        "launch_ms": summary([one for _, one in taken]),
        "rounds": args.rounds,
        "timeout_s": TIMEOUT,
    }
    if others:
        figures["kazoo_ms"] = summary(others)
        figures["ratio"] = round(figures["kazoo_ms"]["median"] / figures["launch_ms"]["median"], 1)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
