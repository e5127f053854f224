"""How long a pod of flavor kvm takes to its first instruction, against a bare QEMU microvm of the same kernel.

peer: `qemu-system-x86_64 -M microvm` with the kernel as the package has it and an init of a few instructions, to that.
ours: from run_pod to an app's first output: virtiofsd, QEMU, Python, stage1's launcher, the pod, the app. Both with the
same accelerator and the same memory, one after the other, in turns.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from executor.kvm import kernel, probe
from executor.kvm.machine import GUEST_OVERHEAD, MIB
from executor.kvm.machines import Machines
from executor.pods.launcher import AppExit, Launcher

APP_MEMORY = 64 * MIB


def _pod(base: Path, number: int, image: Path) -> Path:
    pod = base / f"bench-{os.getpid()}-{number}"
    (pod / "appsinfo" / "app").mkdir(parents=True)
    (pod / "appsinfo" / "app" / "lower").write_text(f"{image}\n")
    limit = {"name": "resource/memory", "value": {"limit": str(APP_MEMORY)}}
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [{"name": "app", "app": {"exec": ["/bin/echo", "up"], "isolators": [limit]}}],
        "annotations": [{"name": "gantry.io/flavor", "value": "kvm"}],
    }
    (pod / "pod").write_text(json.dumps(manifest))
    return pod


async def _ours(machines: Machines, pod: Path) -> float:
    """Seconds to the first byte that the app writes."""
    ended = asyncio.Event()

    def on_exit(_: AppExit) -> None:
        ended.set()

    began = time.perf_counter()
    sandbox = await machines.run_pod(pod, on_exit, lambda reason: sys.exit(reason))
    reader, writer = os.pipe()
    await sandbox.start_app("app", stdin=None, stdout=writer, stderr=writer)
    os.close(writer)
    await asyncio.to_thread(os.read, reader, 1)
    took = time.perf_counter() - began
    os.close(reader)
    await ended.wait()
    await sandbox.stop()
    return took


def _peer(qemu: Path, path: Path, how: probe.Accelerator) -> float:
    clock = f"tsc=reliable tsc_early_khz={how.khz}" if how.khz else ""
    began = time.perf_counter()
    memory = (APP_MEMORY + GUEST_OVERHEAD) // MIB
    why = probe.try_boot(qemu, path, ["-accel", how.name, "-cpu", how.cpu], clock, 300, memory)
    if why:
        sys.exit(f"the bare machine: {why}")
    return time.perf_counter() - began


async def _run(count: int) -> dict[str, Any]:
    base = Path(tempfile.mkdtemp(prefix="gantry-bench-"))
    launcher = await Launcher.start()
    try:
        image = base / "image"
        (image / "bin").mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", image / "bin" / "echo")
        machines = Machines(launcher.run_pod, base)
        equipment = await machines.equipment()
        found = kernel.find()
        ours, peer = [], []
        for number in range(count):
            peer.append(await asyncio.to_thread(_peer, equipment.tools.qemu, found.path, equipment.how))
            ours.append(await _ours(machines, _pod(base, number, image)))
        return {
            "benchmark": "kvm_boot",
            "measured": "run_pod to the app's first byte; peer: a bare microvm of the same kernel to its first program",
            "accelerator": equipment.how.name,
            "kernel": found.release,
            "runs": count,
            "ours_s": round(statistics.median(ours), 3),
            "peer_s": round(statistics.median(peer), 3),
            "ratio": round(statistics.median(o / p for o, p in zip(ours, peer, strict=True)), 3),
            "load": os.getloadavg()[0],
        }
    finally:
        await launcher.close()
        shutil.rmtree(base, ignore_errors=True)


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    print(json.dumps(asyncio.run(_run(parser.parse_args().runs)), indent=1))


if __name__ == "__main__":
    main()
