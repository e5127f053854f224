"""Launch event → the app's first instruction, warm: stage1's flavors side by side with crun, runc and systemd-nspawn.

All start the same static program (busybox echo) on the same root file system; the clock runs from the call (for
peers: the spawn of their command) to the first byte on the program's stdout. Each round starts every one once, in
turn, so that a busy machine disturbs all alike; what counts are the per-round ratios to crun, of which the median,
minimum and maximum are printed. Needs root. `chrt` breaks cgroup v1 peers: use nice at most.

    python benchmarks/stage1_start.py [--rounds 40] [--spares 1] [--json FILE]
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from executor.pods.launcher import Launcher  # the tree this file lies in

COMMAND = ["/bin/busybox", "echo", "x"]
PEERS = ("crun", "runc", "systemd-nspawn")
Start = Callable[[int], Awaitable[float]]


def make_rootfs(directory: Path) -> Path:
    """A root file system with one static program."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("stage1_start: error: busybox is missing: apt-get install busybox-static")
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "usr/bin"):
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin" / "busybox")
    (directory / "etc" / "os-release").write_text("ID=bench\n")
    return directory


def make_pod(base: Path, rootfs: Path, flavor: str) -> Path:
    """A prepared pod directory of one app."""
    pod = base / f"bench-{flavor}-{os.getpid()}"
    (pod / "appsinfo" / "app").mkdir(parents=True)
    (pod / "appsinfo" / "app" / "lower").write_text(f"{rootfs}\n")
    limits = {"name": "resource/memory", "value": {"limit": "64Mi"}}
    manifest = {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [
            {
                "name": "app",
                "image": {"id": "sha512-0"},
                "app": {"exec": COMMAND, "user": "0", "group": "0", "isolators": [limits]},
            }
        ],
        "annotations": [
            {"name": "gantry.io/flavor", "value": flavor},
            {"name": "gantry.io/hostname", "value": "bench"},
            {"name": "gantry.io/network", "value": "loopback"},
        ],
    }
    (pod / "pod").write_text(json.dumps(manifest))
    return pod


async def first_byte(descriptor: int) -> float:
    """When the descriptor became readable."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[float] = loop.create_future()

    def readable() -> None:
        future.set_result(time.perf_counter())
        loop.remove_reader(descriptor)

    loop.add_reader(descriptor, readable)
    return await asyncio.wait_for(future, 20)


def stage1(launcher: Launcher, pod: Path) -> Start:
    """One pod: start to first byte in seconds; then it is stopped and its writable layer removed."""

    async def start(_: int) -> float:
        gone = asyncio.Event()
        read_end, write_end = os.pipe()
        byte = asyncio.create_task(first_byte(read_end))
        await asyncio.sleep(0)
        began = time.perf_counter()
        sandbox = await launcher.run_pod(pod, lambda _: gone.set(), lambda _: gone.set())
        await sandbox.start_app("app", stdin=None, stdout=write_end, stderr=write_end)
        seconds = await byte - began
        await asyncio.wait_for(gone.wait(), 20)
        await sandbox.stop()
        os.close(read_end)
        os.close(write_end)
        shutil.rmtree(pod / "overlay")
        return seconds

    return start


def oci_bundle(base: Path, rootfs: Path, runtime: str) -> Path:
    """The runtime's own default configuration, with our program and a memory limit like ours."""
    bundle = base / f"bundle-{runtime}"
    bundle.mkdir()
    subprocess.run([runtime, "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=COMMAND)
    config["root"] = {"path": str(rootfs), "readonly": False}
    config["linux"].setdefault("resources", {})["memory"] = {"limit": 64 << 20}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def oci_command(runtime: str, bundle: Path, number: int) -> list[str]:
    """Run the bundle under a name that is new each time."""
    return [runtime, "run", "-b", str(bundle), f"stage1-bench-{os.getpid()}-{number}"]


def peer(command: Callable[[int], list[str]]) -> Start:
    """A peer's command line, spawned by vfork as cheaply as anybody could."""

    async def start(number: int) -> float:
        argv = command(number)
        program = shutil.which(argv[0]) or argv[0]
        read_end, write_end = os.pipe()
        byte = asyncio.create_task(first_byte(read_end))
        await asyncio.sleep(0)
        actions = [(os.POSIX_SPAWN_DUP2, write_end, 1)]
        null = os.open(os.devnull, os.O_RDONLY)
        actions.append((os.POSIX_SPAWN_DUP2, null, 0))
        began = time.perf_counter()
        pid = os.posix_spawn(program, argv, os.environ, file_actions=actions)  # noqa: ASYNC221
        seconds = await byte - began
        await asyncio.to_thread(os.waitpid, pid, 0)
        for descriptor in (read_end, write_end, null):
            os.close(descriptor)
        return seconds

    return start


def peers(base: Path, rootfs: Path) -> dict[str, Start]:
    """The peers that are installed."""
    found: dict[str, Start] = {}
    for runtime in ("crun", "runc"):
        if shutil.which(runtime):
            bundle = oci_bundle(base, rootfs, runtime)
            found[runtime] = peer(partial(oci_command, runtime, bundle))
    if shutil.which("systemd-nspawn"):
        options = [
            "-q",
            "--register=no",
            "--keep-unit",
            "--as-pid2",
            "--pipe",
            "--private-network",
            "-D",
            str(rootfs),
        ]
        found["systemd-nspawn"] = peer(lambda _: ["systemd-nspawn", *options, *COMMAND])
    return found


async def measure(rounds: int, spares: int) -> dict[str, list[float]]:
    """Seconds per round and contestant."""
    base = Path(tempfile.mkdtemp(prefix="stage1-bench-", dir="/var/tmp"))
    launcher = await Launcher.start(spares=spares, points=base / "points")
    try:
        rootfs = make_rootfs(base / "rootfs")
        contestants = {
            flavor: stage1(launcher, make_pod(base, rootfs, flavor)) for flavor in ("linux", "fly")
        }
        contestants |= peers(base, rootfs)
        for name in PEERS:
            if name not in contestants:
                print(f"{name}: not installed, left out")
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds + 2):
            for name, start in contestants.items():
                seconds = await start(number)
                await asyncio.sleep(0.02)
                if number >= 2:  # the first two warm the page cache
                    times[name].append(seconds)
        return times
    finally:
        await launcher.close()
        shutil.rmtree(base)


def report(times: dict[str, list[float]]) -> dict[str, Any]:
    """Print a table; return it as data."""
    result: dict[str, Any] = {}
    base = times.get("crun")
    print(f"{'':16} {'min ms':>8} {'median':>8} {'max':>8}   ratio to crun: median (min … max), min/min")
    for name, values in times.items():
        row = {
            "min_ms": min(values) * 1e3,
            "median_ms": statistics.median(values) * 1e3,
            "max_ms": max(values) * 1e3,
        }
        text = f"{name:16} {row['min_ms']:8.2f} {row['median_ms']:8.2f} {row['max_ms']:8.2f}"
        if base:
            ratios = [own / crun for own, crun in zip(values, base, strict=True)]
            row |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
            row["ratio_of_minima"] = min(values) / min(base)
            text += f"   {row['ratio']:.2f} ({row['ratio_min']:.2f} … {row['ratio_max']:.2f}), "
            text += f"{row['ratio_of_minima']:.2f}"
        print(text)
        result[name] = row
    return result


def make_peers_possible(script_file: Path = Path(__file__)) -> None:
    """Start again in a mount namespace of our own that has what peers insist on.

    crun refuses a hybrid cgroup hierarchy (v1 plus /sys/fs/cgroup/unified), systemd-nspawn a /run on disk.
    """
    script = 'umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs tmpfs /run; exec "$@"'
    own = [sys.executable, str(script_file.resolve()), "--inside", *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *own])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--spares", type=int, default=1, help="sandboxes and starters forked ahead of need")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("stage1_start: error: needs root", file=sys.stderr)
        return 2
    if not options.inside:
        make_peers_possible()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the executor
        result = report(runner.run(measure(options.rounds, options.spares)))
    if options.json:
        data = {"rounds": options.rounds, "spares": options.spares, "runs": result}
        options.json.write_text(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
