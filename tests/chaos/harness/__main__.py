"""`python -m harness --seed 7 --duration 60`: one run; exit code 1 when what users were promised was not kept.

    this process ── setpriv --pdeathsig ── unshare --pid --mount --net ── process 1, which collects orphans
                                                                              └─ the run (inside.py)

All of it lives in namespaces of its own: however this ends, the kernel ends every process, mount, disk and network.
Only cgroups are left to be removed, here or by the next run, and files, which are kept when something was wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.checker import check
from harness.history import History
from harness.machine import missing
from harness.schedule import LAYOUTS, plan
from local import leftovers
from local.settings import Settings

INSIDE = "CHAOS_INSIDE"

OWNERS = Path(tempfile.gettempdir()) / "gantry-chaos-runs"
"""One file a run: its name is that of the run's cgroups, in it is our pid."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="harness", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--seed", type=int, default=1, help="decides what fails when, and what clients do")
    made.add_argument("--duration", type=seconds, default=60.0, help="of faults: 90, 10m, 2h (default: 60)")
    made.add_argument("--seeds", type=int, default=1, help="so many runs, with this and the next seeds")
    made.add_argument("--only", default="", metavar="A,B", help="these kinds of faults only")
    made.add_argument(
        "--directory",
        type=Path,
        help="for the files of all runs (default: new ones, removed after good runs)",
    )
    made.add_argument(
        "--store",
        choices=tuple(LAYOUTS),
        default="zookeeper",
        help="what the state is kept in (default: zookeeper)",
    )
    made.add_argument("--plan", action="store_true", help="print the schedule and do nothing")
    made.add_argument("--check", type=Path, metavar="FILE", help="judge the history of an earlier run")
    return made


def seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    return float(text.rstrip("smh")) * units.get(text[-1:], 1)


def sweep() -> None:
    """Removes the cgroups of runs that were killed."""
    OWNERS.mkdir(exist_ok=True)
    for file in OWNERS.iterdir():
        if not Path("/proc", file.read_text() or "gone").exists():
            leftovers.collect(file.name)
            file.unlink(missing_ok=True)


def outside(seed: int, args: argparse.Namespace) -> int:
    """One run. Removes its files when all was well and they are in a directory of our own making."""
    sweep()
    wanted = args.directory and args.directory / f"seed-{seed}"
    directory = (wanted or Path(tempfile.mkdtemp(prefix="gantry-chaos-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    owner = OWNERS / Settings(directory, ("127.0.0.1", 1)).cgroups_prefix
    owner.write_text(str(os.getpid()))
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--pid",
        "--mount",
        "--mount-proc",
        "--net",
        "--fork",
    ]
    command += ["--kill-child=KILL", sys.executable, "-m", "harness", "--seed", str(seed)]
    command += ["--duration", str(args.duration), "--only", args.only, "--store", args.store]
    child = subprocess.Popen(command, env=os.environ | {INSIDE: str(directory)})
    try:
        code = child.wait()
    finally:
        child.kill()
        child.wait()
        leftovers.collect(owner.name)
        owner.unlink(missing_ok=True)
        for image in directory.glob("*/image"):
            image.unlink()
    if code:
        again = f"make chaos SEED={seed} DURATION={args.duration:.0f}s"
        again += f" STORE={args.store}" * (args.store != "zookeeper") + f" ONLY={args.only}" * bool(args.only)
        print(f"seed {seed} FAILED; again: {again}; logs, schedule and history: {directory}", flush=True)
    else:
        print(f"seed {seed} passed", flush=True)
        if args.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    return code


def first() -> int:
    """Process 1: starts the run, and collects whatever ends, until the run does."""
    child = os.fork()
    if child == 0:
        return -1
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == child:
            return abs(os.waitstatus_to_exitcode(status))


def main() -> int:
    args = parser().parse_args()
    only = frozenset(filter(None, args.only.split(",")))
    if args.check:
        wrong = check(History.load(args.check))
        print("\n".join(wrong) or "all is well")
        return 1 if wrong else 0
    if args.plan:
        print("\n".join(map(str, plan(args.seed, args.duration, only=only, kinds=LAYOUTS[args.store].kinds))))
        return 0
    if directory := os.environ.pop(INSIDE, None):
        code = first()
        if code >= 0:
            return code
        from harness import inside

        return inside.main(Path(directory), args.seed, args.duration, only, args.store)
    if why := missing():
        print(f"harness: error: {why}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    codes = [outside(seed, args) for seed in range(args.seed, args.seed + args.seeds)]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
