"""A whole cluster of real processes for the tests of this folder, on free ports and in a directory of its own."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE, until

READY_SECONDS = 150
WAIT_SECONDS = PATIENCE


def wait_for(what: str, condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `condition`; fails naming `what` after `seconds`."""
    return until(what, condition, seconds, pause=0.05)


def processes(words: tuple[str, ...]) -> list[int]:
    """The pids whose command lines have all of `words`; not those that only hand such a command line on."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
                line = " ".join(argument for argument in arguments if " -m gantry " not in argument)
                if all(word in line for word in words):
                    found.append(int(directory.name))
    return found


@dataclass
class UpCluster:
    """`gantry up` in a directory; `kubectl` and the processes it started."""

    directory: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    output: list[str] = field(default_factory=list)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "gantry",
            "up",
            "--data-dir",
            str(self.directory),
            "--listen",
            "127.0.0.1:0",
        ]
        self.process = subprocess.Popen([*command, *self.arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        deadline = time.monotonic() + READY_SECONDS
        for line in self.process.stdout:
            self.output.append(line)
            if line.startswith("the cluster is ready"):
                return
            if time.monotonic() > deadline:
                break
        pytest.fail(f"gantry up did not become ready: {''.join(self.output)}{self.logs()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        assert self.process.stdout is not None
        self.process.stdout.read()
        code = self.process.wait(timeout=90)
        self.process.stdout.close()
        self.process = None
        return code

    def logs(self) -> str:
        files = sorted((self.directory / "logs").glob("*.log"))
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files)

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl's standard output (with `check=False`: standard error too)."""
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory)}
        done = subprocess.run(
            ["kubectl", "--cache-dir", str(self.directory / "kubectl-cache"), *args],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"kubectl {' '.join(args)}: {done.stderr}{self.logs()}")
        return done.stdout if check else done.stdout + done.stderr

    def get(self, *args: str) -> dict[str, Any]:
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def pod(self, name: str) -> dict[str, Any]:
        return self.get("pod", name)

    def create(self, manifest: dict[str, Any]) -> None:
        self.kubectl("create", "-f", "-", stdin=json.dumps(manifest))

    def wait_phase(self, name: str, phase: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            pod = self.pod(name)
            return pod if pod.get("status", {}).get("phase") == phase else None

        return wait_for(f"{name} {phase}", reached)

    def delete(self, name: str) -> None:
        self.kubectl("delete", "pod", name, "--grace-period=1", "--ignore-not-found", "--timeout=30s")

    def pids(self, *words: str) -> list[int]:
        """The cluster's own processes with these words in their command lines."""
        return processes((str(self.directory), *words))


def sleeper(name: str, marker: str, **spec: Any) -> dict[str, Any]:
    """A pod that prints `started` and sleeps `marker` seconds, by which its process is found on the host."""
    container = {
        "name": "main",
        "image": "localhost/hello:latest",
        "command": ["/bin/sh", "-c", f"echo started; exec /bin/sleep {marker}"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


def _can_run_pods() -> str:
    if os.geteuid() != 0:
        return "pods need root"
    probe = subprocess.run(
        ["unshare", "--pid", "--mount", "--fork", "true"], capture_output=True, check=False
    )
    return "no new namespaces here" if probe.returncode else ""


@pytest.fixture(scope="session")
def can_run_pods() -> None:
    if reason := _can_run_pods():
        pytest.skip(reason)
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")


@pytest.fixture(scope="session")
def cluster(can_run_pods: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpCluster]:
    """One cluster of two agents for all tests of a worker. Their GPUs are device files that do no harm."""
    devices = tmp_path_factory.mktemp("devices")
    for name, minor in {"nvidia0": 3, "nvidia1": 5, "nvidiactl": 3}.items():
        os.mknod(devices / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    arguments = ("--agents", "2", "--agent-attributes", "rack:r1", "--device-dir", str(devices))
    resources = ("--agent-resources", "cpus:4;mem:8192;disk:20000;ports:[31000-32000];gpus:2")
    up = UpCluster(tmp_path_factory.mktemp("cluster"), (*arguments, *resources))
    try:
        up.start()
        yield up
    finally:
        if up.process is not None:
            up.stop()


@pytest.fixture
def make_cluster(can_run_pods: None) -> Iterator[Callable[..., UpCluster]]:
    """Starts a cluster in a directory, with arguments of `gantry up`."""
    made: list[UpCluster] = []

    def make(directory: Path, *arguments: str) -> UpCluster:
        made.append(UpCluster(directory, arguments))
        made[-1].start()
        return made[-1]

    yield make
    for up in made:
        if up.process is not None:
            up.stop()


@pytest.fixture
def own_cluster(make_cluster: Callable[..., UpCluster], tmp_path: Path) -> UpCluster:
    """A cluster that the test may stop, kill and start again."""
    return make_cluster(tmp_path / "data")


@pytest.fixture
def marker() -> str:
    """A number of seconds that no other process of this machine sleeps."""
    return str(10**8 + uuid.uuid4().int % 10**8)


@dataclass(frozen=True)
class Tools:
    """The helpers above, for test modules (which import nothing from one another)."""

    wait_for: Callable[..., Any] = wait_for
    sleeper: Callable[..., dict[str, Any]] = sleeper

    def sleepers(self, marker: str) -> list[int]:
        """The host's pids of the processes that sleep `marker` seconds."""
        return processes((f"/bin/sleep {marker}",))


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
