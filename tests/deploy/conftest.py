"""What is deployed, as it is deployed: the archive, a machine without Python, schedulers in sandboxes."""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from local.leftovers import collect
from shared.bundle import elf
from tests.waiting import PATIENCE, until
from tests.zookeeper.server import Server, running

ROOT = Path(__file__).resolve().parents[2]
BUSYBOX = Path("/bin/busybox")
T = TypeVar("T")

PIVOT = """
set -e
mount --make-rprivate /
mount --bind {root} {root}
cd {root}
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mkdir -p .host
pivot_root . .host
exec chroot . /bin/sh -c 'umount -l /.host; rmdir /.host; exec "$@"' sh "$@"
"""
"""Makes a directory the whole file system: what is elsewhere is out of reach, not only out of sight."""


@dataclass
class Machine:
    """A root directory with busybox and nothing else, in which a program can run as if it were a machine."""

    root: Path

    def command(self, *argv: str) -> list[str]:
        """To be run as root; ends with whoever started it."""
        script = PIVOT.format(root=shlex.quote(str(self.root)))
        ends = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--pid",
            "--mount",
            "--fork",
            "--kill-child=KILL",
        ]
        return [*ends, "sh", "-c", script, "sh", *argv]

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*argv)
        environ = {"PATH": os.environ["PATH"], **variables}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environ
        )


@dataclass
class Processes:
    """Programs that run beside a test and end with it."""

    directory: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str], **variables: str) -> "subprocess.Popen[bytes]":
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environ,
                start_new_session=True,
            )
        return self.running[name]

    def gantry(self, name: str, *argv: str, **variables: str) -> "subprocess.Popen[bytes]":
        return self.start(name, [sys.executable, "-m", "gantry", *argv], **variables)

    def logs(self) -> str:
        return "".join(
            f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.directory.glob("*.log"))
        )

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def call(url: str, body: Any = None, method: str | None = None) -> Any:
    """The parsed answer of a JSON API; None while it cannot be reached or refuses to GET."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
    except OSError:
        if body is not None:
            raise
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text.decode()


@dataclass(frozen=True)
class Tools:
    """The helpers above, for test modules (which import nothing from one another)."""

    until: Callable[..., Any] = until
    call: Callable[..., Any] = call
    root: Path = ROOT


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A static one: it is all that the machines of these tests have."""
    if not BUSYBOX.exists() or elf.read(BUSYBOX.read_bytes()).interpreter:
        pytest.skip("no static /bin/busybox: install Debian's busybox-static")
    return BUSYBOX


@pytest.fixture(scope="session")
def can_unshare() -> None:
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    if subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], check=False).returncode:
        pytest.skip("no new namespaces here")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What `gantry bundle` makes, and the digest that it says."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # one for all workers: it takes seconds
    path, said = base / "gantry.tar.gz", base / "gantry.tar.gz.said"
    with (base / "gantry.tar.gz.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            command = [sys.executable, "-m", "gantry", "bundle", str(path)]
            environ = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
            assert done.returncode == 0, done.stderr
            said.write_text(done.stdout)
    return path, said.read_text().rpartition("sha256:")[2].strip()


@pytest.fixture
def zookeeper() -> Iterator[str]:
    """The address of a real one, with nothing in it."""
    with running(Server()) as (server,):
        yield server.address


@pytest.fixture
def machine(busybox: Path, can_unshare: None, tmp_path: Path) -> Machine:
    root = tmp_path / "machine"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "opt"):
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox, root / "bin/busybox")
    for name in subprocess.check_output([busybox, "--list"], text=True).split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return Machine(root)


@pytest.fixture
def bundled(machine: Machine, bundle: tuple[Path, str]) -> Machine:
    """A machine with the bundle unpacked in /opt."""
    with tarfile.open(bundle[0]) as archive:
        archive.extractall(machine.root / "opt", filter="tar")
    return machine


@pytest.fixture
def cgroups() -> Iterator[str]:
    """The beginning of the names of a test's cgroups."""
    prefix = f"gantry-test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    collect(prefix)


@pytest.fixture
def processes(tmp_path: Path, cgroups: str) -> Iterator[Processes]:
    """They end before what they have made is removed."""
    directory = tmp_path / "run"
    directory.mkdir()
    started = Processes(directory)
    yield started
    started.stop()
