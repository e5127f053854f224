"""What measuring a pod's start into a TPM adds to it, with a software TPM; the peer is tpm2_pcrextend on the same TPM.

    python -m benchmarks.measured_start [--rounds N] [--json FILE]

A round measures one start by itself, then 64 that come together (all until the last is done, divided by 64), then runs
tpm2_pcrextend once. Ours includes reading the pod's directory, the log with its way to the disk, and the comparison of
log and PCR; the peer's has none of that. `fdatasync` is the disk's part, measured by itself on the same directory.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from executor.tpm.measure import Measurer
from executor.tpm.settings import TpmSettings
from executor.tpm.transport import parse

TOGETHER = 64
MANIFEST = {
    "acKind": "PodManifest",
    "acVersion": "0.8.11",
    "apps": [{"name": "web", "image": {"id": f"sha256:{'ab' * 32}"}}],
    "annotations": [{"name": "gantry.io/flavor", "value": "linux"}],
}


@contextmanager
def software_tpm(root: Path) -> Iterator[str]:
    """A swtpm of our own; yields its TCTI. Its ports are some that were free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    (root / "swtpm").mkdir()
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "swtpm",
        "socket",
        "--tpm2",
        "--flags",
        "not-need-init,startup-clear",
    ]
    command += ["--tpmstate", f"dir={root}/swtpm", "--server", f"type=tcp,port={port}"]
    process = subprocess.Popen([*command, "--ctrl", f"type=tcp,port={port + 1}"])
    try:
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield f"swtpm:host=127.0.0.1,port={port}"
    finally:
        process.kill()
        process.wait()


def pod_dir(root: Path, number: int) -> Path:
    path = root / "pods" / f"task-{number}"
    (path / "appsinfo" / "web").mkdir(parents=True)
    (path / "pod").write_text(json.dumps(MANIFEST))
    (path / "appsinfo" / "web" / "lower").write_text(
        f"/var/lib/gantry/store/layers/sha256-{'cd' * 32}/tree\n"
    )
    return path


def disk(root: Path) -> float:
    """Seconds of one short append and fdatasync."""
    fd = os.open(root / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        began = time.perf_counter()
        os.write(fd, b"x" * 600)
        os.fdatasync(fd)
        return time.perf_counter() - began
    finally:
        os.close(fd)


def peer(tcti: str) -> float:
    """Seconds of one tpm2_pcrextend."""
    began = time.perf_counter()
    command = ["tpm2_pcrextend", f"14:sha256={'ab' * 32}"]
    subprocess.run(command, env={**os.environ, "TPM2TOOLS_TCTI": tcti}, check=True)
    return time.perf_counter() - began


async def measure(root: Path, tcti: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each."""
    measurer = Measurer(TpmSettings(parse(tcti), 15, True, root / "log"))
    dirs = [pod_dir(root, number) for number in range(TOGETHER)]
    await measurer.measure(dirs[0], "", {})  # reads our own code, once
    found: dict[str, list[float]] = {"one": [], "together": [], "fdatasync": [], "tpm2_pcrextend": []}
    for _ in range(rounds):
        began = time.perf_counter()
        await measurer.measure(dirs[0], "", {})
        found["one"].append(time.perf_counter() - began)
        began = time.perf_counter()
        await asyncio.gather(*(measurer.measure(path, "", {}) for path in dirs))
        found["together"].append((time.perf_counter() - began) / TOGETHER)
        found["fdatasync"].append(disk(root))
        found["tpm2_pcrextend"].append(peer(tcti))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.measured_start", description="What measuring a start costs."
    )
    parser.add_argument("--rounds", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    missing = [tool for tool in ("swtpm", "tpm2_pcrextend", "setpriv") if shutil.which(tool) is None]
    if missing:
        print(f"nothing measured: {', '.join(missing)} not installed", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(prefix="gantry-bench-", dir="/var/tmp") as directory:
        root = Path(directory)
        with software_tpm(root) as tcti:
            found = asyncio.run(measure(root, tcti, args.rounds))
    figures = {
        name: {"median_ms": round(statistics.median(times) * 1000, 3), "min_ms": round(min(times) * 1000, 3)}
        for name, times in found.items()
    }
    peer = figures["tpm2_pcrextend"]["median_ms"]
    figures["ratio"] = {name: round(figures[name]["median_ms"] / peer, 3) for name in ("one", "together")}
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
