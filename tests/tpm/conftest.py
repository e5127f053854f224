"""Shared by the tests of measured boot: a software TPM of one's own, and Debian's tpm2-tools to look at it with."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executor.tpm.recorder import Recorder
from executor.tpm.transport import parse

PCR = 15


class Swtpm:
    """swtpm on two TCP ports, of which tpm2-tools know only the first. It dies with us."""

    def __init__(self, directory: Path) -> None:
        self._state = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.tcti = ""

    def start(self, flags: str = "startup-clear") -> None:
        for _ in range(20):
            port = _two_ports()
            command = [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "swtpm",
                "socket",
                "--tpm2",
                "--flags",
                f"not-need-init,{flags}",
            ]
            command += ["--tpmstate", f"dir={self._state}", "--server", f"type=tcp,port={port}"]
            command += ["--ctrl", f"type=tcp,port={port + 1}"]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.tcti = f"swtpm:host=127.0.0.1,port={port}"
            if self._listens(port):
                return
            self.stop()
        raise AssertionError("swtpm does not start")

    def _listens(self, port: int) -> bool:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except ConnectionRefusedError:
                time.sleep(0.005)
            else:
                return True
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reset(self, flags: str = "startup-clear") -> None:
        """Power off and on."""
        self.stop()
        self.start(flags)

    def tool(self, *words: object) -> str:
        """Run one of tpm2-tools; returns what it prints."""
        env = {**os.environ, "TPM2TOOLS_TCTI": self.tcti}
        done = subprocess.run(
            [str(word) for word in words], env=env, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pcr(self, number: int = PCR) -> str:
        """What tpm2_pcrread says."""
        return self.tool("tpm2_pcrread", f"sha256:{number}").split("0x")[1].strip().lower()


def _two_ports() -> int:
    """A port that is free, and so is the one above it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    for tool in ("swtpm", "tpm2_pcrread", "setpriv"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    directory = tmp_path / "swtpm"
    directory.mkdir()
    made = Swtpm(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def recorder(swtpm: Swtpm, tmp_path: Path) -> Callable[..., Recorder]:
    """Makes recorders, as those of processes that come one after another, or of boots."""

    def make(boot_id: str = "boot-1", pcr: int = PCR) -> Recorder:
        return Recorder(parse(swtpm.tcti), tmp_path / "log", pcr, boot_id)

    return make


@pytest.fixture
def pod_dir(tmp_path: Path) -> Callable[[str], Path]:
    """A pod's directory with what of it is measured."""

    def make(name: str) -> Path:
        path = tmp_path / "pods" / name
        (path / "appsinfo" / "web").mkdir(parents=True)
        (path / "pod").write_text(
            '{"acKind": "PodManifest", "apps": [{"name": "web", "image": {"id": "sha256:ab"}}],'
            ' "annotations": [{"name": "gantry.io/flavor", "value": "fly"}]}'
        )
        (path / "appsinfo" / "web" / "lower").write_text("/s/layers/sha256-cd/tree\n/a/tree that is ours\n")
        return path

    return make
