"""Many pods, many execs, and what a pod costs at rest: flavor linux side by side with crun (and conmon's memory).

Three figures. Rate: pods started, run to their end and stopped per second, four at a time, against
`xargs -P4 crun run` of the same program on the same root file system; rounds are interleaved. Twice: with the pods'
directories on the disk, beside the image, and in memory (/run), where crun has its containers' state; it gives them no
writable layer at all, each of our pods gets a new one, which is removed after it, before the round's time is taken.
(An ext4 without a journal makes a new file the slower, the more were removed lately: see executor/pods/spread.py.) The
next pod may get what such pods leave as it was (docs/isolation.md, "What pods pass on"); two shorter series on the disk
are of pods that pass nothing on, as those that used their network, and of pods whose app has processes of its own, as
an executor's have.
exec: a program into a running pod, call to first byte, against `crun exec`. Memory: what one more pod at rest adds to
the proportional set size (PSS, /proc/PID/smaps_rollup) of all our processes, next to that of one conmon. Needs root.

    python benchmarks/stage1_many.py [--pods 1000] [--rounds 3] [--execs 40] [--json FILE]
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.stage1_start import (
    COMMAND,
    first_byte,
    make_peers_possible,
    make_pod,
    make_rootfs,
    oci_bundle,
)
from executor.pods.launcher import AppExit, Launcher
from executor.pods.poddir import PodDirs, remove_layers
from executor.pods.trash import Trash

AT_ONCE = 4
DIRECTORIES = 512
WARM_UP = 100
PAUSE_SECONDS = 0.5
"""Before each part of a round: the kernel takes namespaces and cgroups of the part before down a while after it."""
AT_REST = 40


def pod_of(base: Path, rootfs: Path, command: list[str]) -> Path:
    """A pod directory of flavor linux that runs `command`."""
    pod = make_pod(base, rootfs, "linux")
    pod = pod.rename(pod.with_name(uuid.uuid4().hex))  # the name of its cgroups
    manifest = json.loads((pod / "pod").read_text())
    manifest["apps"][0]["app"]["exec"] = command
    (pod / "pod").write_text(json.dumps(manifest))
    return pod


class Series(NamedTuple):
    """Pods of one kind. name: in results; notes: annotations beyond the usual ones, "" for one that is left out."""

    name: str
    what: str
    in_memory: bool = False
    notes: tuple[tuple[str, str], ...] = ()
    part: int = 1
    """Of the pods of a round, one in so many."""


SERIES = (
    Series("", ""),
    Series("in_memory", " with the pods' directories in memory", in_memory=True),
    Series("nothing_passed_on", " that pass nothing on", notes=(("network", ""),), part=3),
    Series("own_processes", " whose app has processes of its own", notes=(("processes", "own"),), part=3),
)


def note(pod: Path, notes: Mapping[str, str]) -> None:
    """Change annotations of a pod that was prepared."""
    manifest = json.loads((pod / "pod").read_text())
    there = {one["name"]: one["value"] for one in manifest["annotations"]}
    there |= {f"gantry.io/{name}": value for name, value in notes.items()}
    manifest["annotations"] = [{"name": name, "value": value} for name, value in there.items() if value]
    (pod / "pod").write_text(json.dumps(manifest))


def pods_of(base: Path, rootfs: Path, count: int = DIRECTORIES, **notes: str) -> list[Path]:
    """Pod directories, as an executor makes them for one pod after another; each is used more than once, though."""
    dirs = PodDirs(base / "pods", spread=True)
    dirs.open()
    made = []
    for number in range(count):
        like = base / f"p{number}"
        like.mkdir()
        own = dirs.create(uuid.uuid4().hex)
        os.close(own.lock)
        for entry in pod_of(like, rootfs, COMMAND).iterdir():
            entry.rename(own.path / entry.name)
        note(own.path, notes)
        made.append(own.path)
    return made


async def start_and_stop(launcher: Launcher, trash: Trash, pod: Path, null: int) -> None:
    """One pod, start to nothing left but its layer, which is moved away and removed soon, as an executor does it."""
    ended: asyncio.Future[AppExit] = asyncio.get_running_loop().create_future()
    sandbox = await launcher.run_pod(pod, ended.set_result, lambda _: None)
    await sandbox.start_app("app", stdin=None, stdout=null, stderr=null)
    await ended
    await sandbox.stop()
    over = f"{pod}/.{time.monotonic_ns()}"
    os.rename(f"{pod}/overlay", over)
    trash.later(partial(remove_layers, over, ["app"]))


async def ours(launcher: Launcher, pods: list[Path], count: int) -> float:
    """Pods per second, until all that they have left is removed."""
    left, trash = count, Trash()
    null = os.open(os.devnull, os.O_RDWR)

    async def one_after_another(of_these: list[Path]) -> None:
        nonlocal left
        for pod in itertools.cycle(of_these):
            if left <= 0:
                return
            left -= 1
            await start_and_stop(launcher, trash, pod, null)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another(pods[lane::AT_ONCE]) for lane in range(AT_ONCE)))
    await trash.settle()
    os.close(null)
    return count / (time.perf_counter() - began)


def crun(bundle: Path, count: int) -> float:
    """Containers per second of `xargs -P4 crun run`."""
    names = "\n".join(f"many-{os.getpid()}-{time.monotonic_ns()}-{number}" for number in range(count))
    began = time.perf_counter()
    subprocess.run(
        ["xargs", f"-P{AT_ONCE}", "-n1", "crun", "run", "-b", str(bundle)],
        input=names, text=True, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return count / (time.perf_counter() - began)


async def rates(base: Path, memory: Path, rootfs: Path, count: int, rounds: int) -> dict[str, Any]:
    """Interleaved rounds, of pods whose directories are in `base` and of such in `memory`."""
    launcher = await Launcher.start(spares=AT_ONCE, points=base / "points")
    pods = {}
    for series in SERIES:
        place = (memory if series.in_memory else base) / f"of-{series.name}"
        place.mkdir()
        number = AT_ONCE if series.in_memory else DIRECTORIES
        pods[series] = pods_of(place, rootfs, number, **dict(series.notes))
    bundle = oci_bundle(base, rootfs, "crun")
    mine: dict[Series, list[float]] = {series: [] for series in SERIES}
    theirs = []
    try:
        for made in pods.values():
            await ours(launcher, made, max(len(made), WARM_UP))
        for _ in range(rounds):
            for series, made in pods.items():
                await asyncio.sleep(PAUSE_SECONDS)
                mine[series].append(await ours(launcher, made, max(1, count // series.part)))
            await asyncio.sleep(PAUSE_SECONDS)
            theirs.append(await asyncio.to_thread(crun, bundle, count))
    finally:
        await launcher.close()
    result: dict[str, Any] = {"crun_per_s": theirs}
    for series, figures in mine.items():
        end = f"_{series.name}" if series.name else ""
        result[f"linux{end}_per_s"] = figures
        result[f"ratio{end}"] = statistics.median(a / b for a, b in zip(figures, theirs, strict=True))
    return result


@asynccontextmanager
async def crun_at_rest(base: Path, rootfs: Path) -> AsyncIterator[str]:
    """A container that sleeps."""
    (base / "rest").mkdir()
    bundle = oci_bundle(base / "rest", rootfs, "crun")
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/busybox", "sleep", "100000"]
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"rest-{os.getpid()}"
    null = subprocess.DEVNULL
    subprocess.run(  # noqa: ASYNC221 - it is over in milliseconds
        ["crun", "run", "-d", "-b", str(bundle), name], check=True, stdin=null, stdout=null, stderr=null
    )
    try:
        yield name
    finally:
        subprocess.run(["crun", "delete", "-f", name], check=False)  # noqa: ASYNC221


async def spawn_to_first_byte(argv: list[str]) -> float:
    """Seconds of a peer's command line."""
    read_end, write_end = os.pipe()
    byte = asyncio.create_task(first_byte(read_end))
    await asyncio.sleep(0)
    began = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1)])  # noqa: ASYNC221
    seconds = await byte - began
    await asyncio.to_thread(os.waitpid, pid, 0)
    os.close(read_end)
    os.close(write_end)
    return seconds


async def execs(base: Path, rootfs: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the call to the first byte, each in turn."""
    (base / "exec").mkdir()
    pod = pod_of(base / "exec", rootfs, ["/bin/busybox", "sleep", "100000"])
    launcher = await Launcher.start()
    null = os.open(os.devnull, os.O_RDWR)
    mine, theirs = [], []
    try:
        sandbox = await launcher.run_pod(pod, lambda _: None, lambda _: None)
        await sandbox.start_app("app", stdin=None, stdout=null, stderr=null)
        async with crun_at_rest(base, rootfs) as name:
            for number in range(rounds + 2):
                read_end, write_end = os.pipe()
                byte = asyncio.create_task(first_byte(read_end))
                await asyncio.sleep(0)
                began = time.perf_counter()
                made = await sandbox.exec("app", COMMAND, streams=(write_end, write_end))
                seconds = await byte - began
                await made.ended
                os.close(read_end)
                os.close(write_end)
                peer = await spawn_to_first_byte(["crun", "exec", name, *COMMAND])
                await asyncio.sleep(0.02)
                if number >= 2:
                    mine.append(seconds)
                    theirs.append(peer)
        await sandbox.stop()
    finally:
        os.close(null)
        await launcher.close()
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    return {"linux_s": mine, "crun_s": theirs, "ratio": ratio}


def pss_kib(pids: list[int]) -> float:
    """Proportional set size of these processes, KiB."""
    total = 0.0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += float(line.split()[1])
    return total


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in tree(int(child)))]


async def memory(base: Path, rootfs: Path) -> dict[str, Any]:
    """KiB that one more pod without apps adds, the launcher included; and one conmon."""
    launcher = await Launcher.start()
    try:
        before = pss_kib(tree(launcher.pid))
        for number in range(AT_REST):
            (base / f"rest{number}").mkdir()
            pod = pod_of(base / f"rest{number}", rootfs, COMMAND)
            await launcher.run_pod(pod, lambda _: None, lambda _: None)
        await asyncio.sleep(1)
        marginal = (pss_kib(tree(launcher.pid)) - before) / AT_REST
    finally:
        await launcher.close()
    return {"linux_kib": marginal, "conmon_kib": 0.55 * 1024, "ratio": marginal / (0.55 * 1024)}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All three."""
    base = Path(tempfile.mkdtemp(prefix="stage1-many-", dir="/var/tmp"))
    in_memory = Path(tempfile.mkdtemp(prefix="stage1-many-", dir="/run"))
    try:
        rootfs = make_rootfs(base / "rootfs")
        result = {
            "rate": await rates(base, in_memory, rootfs, options.pods, options.rounds),
            "exec": await execs(base, rootfs, options.execs),
            "memory": await memory(base, rootfs),
        }
    finally:
        for one in (base, in_memory):
            shutil.rmtree(one)
    print_rate(result["rate"], options)
    print_exec(result["exec"], options)
    rest = result["memory"]
    print(f"memory of one more pod at rest ({AT_REST} pods, PSS): {rest['linux_kib']:.0f} KiB,")
    print(f"  {rest['ratio']:.2f} x the 0.55 MiB of a conmon")
    return result


def print_rate(rate: dict[str, Any], options: argparse.Namespace) -> None:
    print(
        f"{options.pods} pods, {AT_ONCE} at a time, each started, ended and stopped; {options.rounds} rounds:"
    )
    print(f"  crun {statistics.median(rate['crun_per_s']):.0f}/s")
    for series in SERIES:
        end = f"_{series.name}" if series.name else ""
        figure = statistics.median(rate[f"linux{end}_per_s"])
        print(f"  linux {figure:.0f}/s{series.what}: {rate[f'ratio{end}']:.2f} x")


def print_exec(calls: dict[str, Any], options: argparse.Namespace) -> None:
    mine, theirs = (statistics.median(calls[name]) * 1e3 for name in ("linux_s", "crun_s"))
    print(f"exec into a running pod, call to first byte, {options.execs} interleaved rounds:")
    print(f"  linux {mine:.2f} ms, crun {theirs:.2f} ms: {calls['ratio']:.2f} x")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--execs", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("stage1_many: error: needs root", file=sys.stderr)
        return 2
    if not options.inside:
        make_peers_possible(Path(__file__))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the executor
        result = runner.run(measure(options))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
