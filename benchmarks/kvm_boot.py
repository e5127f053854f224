"""How long a pod of flavor kvm takes to its first instruction, against a bare QEMU microvm of the same kernel.

peer: `qemu-system-x86_64 -M microvm` and an init of a few instructions, to that. It has what makes ours fast: an
unpacked kernel, and the same parameters for it. ours: from run_pod to an app's first output: virtiofsd, QEMU, which
goes on from the template of this size of machine, the pod, the app. All with the same accelerator and the same
memory, in turns.

first: the first pod of a size, which boots; its template is made afterwards. booted: the same, each time (as where KVM
works, or for very large machines): QEMU, kernel, Python, stage1's launcher, the pod, the app.
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


def _pod(base: Path, name: str, image: Path) -> Path:
    pod = base / f"bench-{os.getpid()}-{name}"
    (pod / "appsinfo" / "app").mkdir(parents=True)
    (pod / "appsinfo" / "app" / "lower").write_text(f"{image}\n")
    memory = {"name": "resource/memory", "value": {"limit": str(APP_MEMORY)}}
    cpu = {"name": "resource/cpu", "value": {"request": "1"}}  # the weight of a process, as the peer has
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [{"name": "app", "app": {"exec": ["/bin/echo", "up"], "isolators": [memory, cpu]}}],
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
    began = time.perf_counter()
    memory = (APP_MEMORY + GUEST_OVERHEAD) // MIB
    why = probe.try_boot(qemu, path, ["-accel", how.name, "-cpu", how.cpu], how.parameters, 300, memory)
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
        booting = Machines(launcher.run_pod, base, templates=0)
        equipment = await machines.equipment()
        await booting.equipment()
        first = await _ours(machines, _pod(base, "first", image))
        await machines.settle()
        seconds: dict[str, list[float]] = {"ours": [], "peer": [], "booted": []}
        for number in range(count):
            qemu, how = equipment.tools.qemu, equipment.how
            seconds["peer"].append(await asyncio.to_thread(_peer, qemu, equipment.boot.kernel, how))
            seconds["ours"].append(await _ours(machines, _pod(base, f"{number}", image)))
            seconds["booted"].append(await _ours(booting, _pod(base, f"{number}-booted", image)))
        return {
            "benchmark": "kvm_boot",
            "measured": "run_pod to the app's first byte, from a template of this size of machine that was made before"
            " (first_s: before there was one; booted_s: without any); peer: a bare microvm of the same kernel, unpacked"
            " as ours and with the same parameters, to its first program",
            "accelerator": equipment.how.name,
            "kernel": kernel.find().release,
            "runs": count,
            **{f"{name}_s": round(statistics.median(taken), 3) for name, taken in seconds.items()},
            "first_s": round(first, 3),
            "ratio": _ratio(seconds["ours"], seconds["peer"]),
            "ratio_of_minima": round(min(seconds["ours"]) / min(seconds["peer"]), 3),
            "ratio_booted": _ratio(seconds["booted"], seconds["peer"]),
            "load": os.getloadavg()[0],
        }
    finally:
        await launcher.close()
        shutil.rmtree(base, ignore_errors=True)


def _ratio(ours: list[float], peer: list[float]) -> float:
    return round(statistics.median(o / p for o, p in zip(ours, peer, strict=True)), 3)


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    print(json.dumps(asyncio.run(_run(parser.parse_args().runs)), indent=1))


if __name__ == "__main__":
    main()
