"""From `POST` of a pod to `Running` seen by a watch, on a local cluster of real processes.

    python -m benchmarks.submit_latency [--pods N] [--json FILE]

Each round creates one pod (warm image, stage1 linux), waits on an already open watch for phase Running, deletes it
and waits for its end. The peer in the same run is this machine: how long `crun run` or `runc run` (whichever is
installed) takes to start one container of the same root file system, by itself and without any cluster.
"""

import argparse
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from local.demo import Api, cluster_in

PODS = "/api/v1/namespaces/default/pods"


def pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "localhost/hello:latest", "command": ["/bin/sleep", "1000"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }


class Watcher:
    """One open watch on all pods; remembers when each phase of each pod was first seen."""

    def __init__(self, api: Api) -> None:
        self.seen: dict[tuple[str, str], float] = {}
        self.changed = threading.Condition()
        self._stream = api.open("GET", f"{PODS}?watch=1")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            now = time.perf_counter()
            event = json.loads(line)
            name = event["object"]["metadata"]["name"]
            phase = (
                "Gone" if event["type"] == "DELETED" else event["object"].get("status", {}).get("phase", "")
            )
            with self.changed:
                self.seen.setdefault((name, phase), now)
                self.changed.notify_all()

    def wait(self, name: str, phase: str, seconds: float = 30) -> float:
        with self.changed:
            if not self.changed.wait_for(lambda: (name, phase) in self.seen, seconds):
                sys.exit(f"pod {name} was not {phase} within {seconds:.0f} s")
            return self.seen[name, phase]


def measure(api: Api, rounds: int) -> list[float]:
    """Milliseconds from each POST to its Running; the first pod, which starts the executor, is not counted."""
    watcher, taken = Watcher(api), []
    host = api.server.removeprefix("https://")
    connection = http.client.HTTPSConnection(host, context=api.trust)  # kept open, as every client does
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    for number in range(rounds + 1):
        name = f"bench-{number}"
        body = json.dumps(pod(name))
        began = time.perf_counter()
        connection.request("POST", PODS, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 201:
            sys.exit(f"POST answered {answer.status}")
        running = watcher.wait(name, "Running")
        if number:
            taken.append((running - began) * 1000)
        connection.request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0", headers=headers)
        connection.getresponse().read()
        watcher.wait(name, "Gone")
        time.sleep(0.05)  # let the deleted pod's processes end: they are not what is measured
    return taken


def peer(rootfs: Path, rounds: int) -> tuple[str, list[float]] | None:
    """The same measurement of crun or runc starting and ending /bin/true; None when neither is installed."""
    for runtime in filter(shutil.which, ("crun", "runc")):
        bundle = rootfs.parent / runtime
        bundle.mkdir(exist_ok=True)
        subprocess.run([runtime, "spec"], cwd=bundle, check=True, capture_output=True)
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(rootfs), "readonly": True}
        config["process"] |= {"terminal": False, "args": ["/bin/true"], "rlimits": []}
        (bundle / "config.json").write_text(json.dumps(config))
        taken = []
        for number in range(rounds + 1):
            began = time.perf_counter()
            done = subprocess.run([runtime, "run", f"gantry-bench-{number}"], cwd=bundle, capture_output=True)
            taken.append((time.perf_counter() - began) * 1000)
            if done.returncode:
                sys.exit(f"{runtime} cannot run here: {done.stderr.decode(errors='replace').strip()}")
        return runtime, taken[1:]
    return None


def peer_apart(rootfs: Path, rounds: int) -> tuple[str, list[float]] | None:
    """`peer` in a mount namespace of its own: crun and runc refuse a cgroup hierarchy of v1 with v2 beside it."""
    script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
    own = [sys.executable, "-m", "benchmarks.submit_latency", "--pods", str(rounds), "--peer-on", str(rootfs)]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *own]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no peer: {done.stderr.strip()}", file=sys.stderr)
        return None
    found = json.loads(done.stdout)
    return (found[0], found[1]) if found else None


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "min_ms": round(ordered[0], 2),
        "median_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "rounds": len(ordered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.submit_latency", description="POST to Running on a local cluster."
    )
    parser.add_argument("--pods", type=int, default=40, help="how many rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--peer-on", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer_on:
        print(json.dumps(peer(args.peer_on, args.pods)))
        return
    from local import rootfs

    with tempfile.TemporaryDirectory(prefix="gantry-bench-") as directory:
        with cluster_in(Path(directory) / "cluster") as api:
            figures = {"gantry": summary(measure(api, args.pods))}
        rootfs.build(Path(directory) / "rootfs")
        if measured := peer_apart(Path(directory) / "rootfs", args.pods):
            figures[measured[0]] = summary(measured[1])
            figures["ratio"] = {
                "median": round(figures["gantry"]["median_ms"] / figures[measured[0]]["median_ms"], 2)
            }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
