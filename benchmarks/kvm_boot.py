"""How long a pod of flavor kvm takes to its first instruction, against a bare QEMU microvm of the same kernel.

peer: `qemu-system-x86_64 -M microvm` and an init of a few instructions, to that. It has what makes ours fast: an
unpacked kernel, and the same parameters for it. ours: from run_pod to an app's first output: virtiofsd, QEMU, the
guest, the pod, the app. All with the same accelerator and the same memory, in turns:

first: the first pod that ever has a machine of this size (each turn has another one), on a node that has a template, as
an executor makes it when it has nothing to do. next: the same again. cold: where there is no template yet (as where KVM
works): it boots QEMU, the kernel, Python, stage1's launcher.
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

from executor.kvm import kernel, machine, probe
from executor.kvm.equipment import Equipment
from executor.kvm.machine import MIB
from executor.kvm.machines import Machines
from executor.pods.launcher import AppExit, Launcher

APP_MEMORY = 128 * MIB
"""Of the first turn; each has as much more, so a machine of a size that was not there before."""
KINDS = ("cold", "first", "next", "peer")


def _pod(base: Path, name: str, image: Path, memory: int) -> Path:
    pod = base / f"bench-{os.getpid()}-{name}"
    (pod / "appsinfo" / "app").mkdir(parents=True)
    (pod / "appsinfo" / "app" / "lower").write_text(f"{image}\n")
    limit = {"name": "resource/memory", "value": {"limit": str(memory)}}
    cpu = {"name": "resource/cpu", "value": {"request": "1"}}  # the weight of a process, as the peer has
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [{"name": "app", "app": {"exec": ["/bin/echo", "up"], "isolators": [limit, cpu]}}],
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


def _peer(found: Equipment, memory: int) -> float:
    """memory: of the machine."""
    how = found.how
    began = time.perf_counter()
    options = ["-accel", how.name, "-cpu", how.cpu]
    why = probe.try_boot(found.tools.qemu, found.boot.kernel, options, how.parameters, 300, memory // MIB)
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
        found = await machines.equipment()
        await booting.equipment()
        await _ours(machines, _pod(base, "before", image, MIB))  # it boots
        await machines.settle()  # and its template is made
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(count):
            memory = APP_MEMORY * (number + 1)
            pods = {kind: _pod(base, f"{number}-{kind}", image, memory) for kind in KINDS[:3]}
            size = machine.size(json.loads((pods["first"] / "pod").read_text()), 1).memory
            seconds["first"].append(await _ours(machines, pods["first"]))
            seconds["peer"].append(await asyncio.to_thread(_peer, found, size))
            seconds["next"].append(await _ours(machines, pods["next"]))
            seconds["cold"].append(await _ours(booting, pods["cold"]))
        return {
            "benchmark": "kvm_boot",
            "measured": "run_pod to the app's first byte; first: of this size of machine, where there is a template;"
            " next: the same again; cold: no template, it boots; peer: a bare microvm of the same kernel and memory,"
            " unpacked as ours and with the same parameters, to its first program",
            "accelerator": found.how.name,
            "kernel": kernel.find().release,
            "runs": count,
            **{f"{kind}_s": round(statistics.median(taken), 3) for kind, taken in seconds.items()},
            **{f"ratio_{kind}": _ratio(seconds[kind], seconds["peer"]) for kind in KINDS[:3]},
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
