"""As killer.py, but what is killed are pods that `gantry rkt run` runs, and the `gantry rkt gc` that collects them.

    python shell.py DIRECTORY --seed 7 --kills 40

DIRECTORY has `data`, with an image of the name example.com/box. In the end what still runs is killed, and one gc has to
remove all that is left.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from killer import DYING, SECONDS, Wrong, descendants, locked, prepare, reap

from executor.pods.poddir import Phase
from executor.stage1 import cgroups, userns

LIVE = 3
SCRIPTS = (
    "exit 3",
    "sleep 1000",
    "for i in 1 2 3 4 5; do setsid sleep 1000 & done; sleep 0.2",
    "while :; do (:) & (:) & wait; done",
)


class Shell:
    """Whoever types `gantry rkt run …`, again and again."""

    def __init__(self, root: Path, seed: str) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.running: list[subprocess.Popen[bytes]] = []
        self.killed: collections.Counter[str] = collections.Counter()
        self.pods: set[str] = set()
        self.mounts = Path("/proc/self/mountinfo").read_text()

    def rkt(self, *args: str) -> "subprocess.Popen[bytes]":
        flags = [f"--dir={self.root}/data", "--insecure-options=image"]
        flags += [f"--{kind}-config={self.root}/etc" for kind in ("local", "system")]
        return subprocess.Popen(
            [*DYING, sys.executable, "-m", "executor.rkt.cli", *flags, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "stderr").open("ab"),
        )

    def start(self) -> None:
        while len(self.running) < LIVE:
            if self.chance.random() < 0.25:
                self.running.append(self.rkt("gc", "--grace-period=0s"))
                continue
            stage1 = self.chance.choice((["--stage1-name=coreos.com/rkt/stage1-fly"], [], []))
            script = self.chance.choice(SCRIPTS)
            self.running.append(
                self.rkt(
                    "run", "--net=none", *stage1, "example.com/box", "--exec=/bin/sh", "--", "-c", script
                )
            )

    def look_around(self) -> None:
        """Who has ended; which pods there are."""
        self.running = [process for process in self.running if process.poll() is None]
        reap(*(process.pid for process in self.running))
        self.pods.update(path.name for path in (self.root / "data/pods").glob("*/*"))

    def kill_something(self) -> None:
        there = descendants()
        kinds = sorted(set(there.values()))
        if not kinds:
            return
        kind = self.chance.choice(kinds)
        victim = self.chance.choice(sorted(pid for pid, name in there.items() if name == kind))
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed[kind] += 1

    def end(self) -> None:
        """All that was typed is killed: what it has started ends, and gc leaves nothing."""
        for process in self.running:
            process.kill()
            process.wait()
        deadline = time.monotonic() + SECONDS
        while left := descendants():
            reap()
            if time.monotonic() > deadline:
                raise Wrong(f"processes outlive `gantry rkt run`: {left}")
            time.sleep(0.01)
        self.look_around()
        if (code := self.rkt("gc", "--grace-period=0s", "--expire-prepared=0s").wait(SECONDS)) != 0:
            raise Wrong(f"gc: exit code {code}")

    def left(self) -> list[str]:
        # An embryo may have been born a moment ago: gc leaves it for a minute.
        phases = [phase for phase in Phase if phase is not Phase.EMBRYO]
        found = [
            f"directory {path}" for phase in phases for path in (self.root / "data/pods" / phase).glob("*")
        ]
        layout = cgroups.detect(
            Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
        )
        names = [f"{cgroups.PREFIX}{pod}{more}" for pod in self.pods for more in ("", "~*")]
        found += [
            f"cgroup {path}" for root in layout.roots for name in names for path in Path(root).glob(name)
        ]
        ranges = Path(userns.RANGES)
        found += [f"lock {path}" for path in (ranges.iterdir() if ranges.exists() else ()) if locked(path)]
        pins = self.root / "data/store/pins"
        found += [
            f"hold on an image {path}" for path in (pins.iterdir() if pins.exists() else ()) if locked(path)
        ]
        if Path("/proc/self/mountinfo").read_text() != self.mounts:
            found.append("mounts: " + Path("/proc/self/mountinfo").read_text())
        return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--kills", type=int, default=40)
    args = parser.parse_args()
    prepare()
    shell = Shell(args.directory, args.seed)
    try:
        while sum(shell.killed.values()) < args.kills:
            shell.start()
            time.sleep(shell.chance.choice((0.01, 0.1, 0.3, 1.0)))
            shell.look_around()
            shell.kill_something()
        shell.end()
        if wrong := shell.left():
            raise Wrong("\n".join(wrong))
    except Wrong as wrong:
        print(f"seed {args.seed}: {wrong}")
        return 1
    finally:
        for pid in descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        print(json.dumps({"killed": shell.killed, "pods": len(shell.pods)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
