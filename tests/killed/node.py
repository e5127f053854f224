"""An executor without Mesos, for the killer: runs pods that live and die by themselves, until it is killed or told off.

Arguments: its directory, a seed, the name of this executor, the flavors. It says on its standard output, in JSON, one
a line, {"ready"}; {"pod", "phase"} of each pod that is over; after a line on its standard input it ends its pods, runs
one more, removes them all, says {"quiet": how many descriptors it has}, and ends after another line.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import uvloop

from executor.pods import gpus
from executor.pods.core.effects import Report
from executor.pods.env import Node
from executor.pods.keeper import LauncherKeeper
from executor.pods.launcher import LaunchError
from executor.pods.poddir import PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine
from executor.stage0.store import ImageStore
from executor.stage0.trust.gate import Gate
from executor.stage0.trust.policy import Policy

IMAGE = "localhost/busybox:1"
LIVE = 5
SCRIPTS = (
    "exit 0",
    "exit 3",
    "sleep 1000",
    "trap '' TERM; while :; do sleep 0.1; done",
    "for i in 1 2 3 4 5; do setsid sleep 1000 & done; sleep 0.2",
    "for i in 1 2 3 4 5; do (trap '' TERM; sleep 1000) & done; wait",
    "while :; do (:) & (:) & wait; done",
    "yes line | head -n 20000; sleep 0.1; kill -9 $$",
    "head -c 200000 /dev/zero > /volume/file; cat /volume/file > /file; sleep 0.1",
)
WORDS = ("sleep 1000", "exit 0", "yes | head -n 5000", "setsid sleep 1000 & exit 1")


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


class Executor:
    """Keeps some pods alive, deletes some of them, and executes programs in them."""

    def __init__(self, root: Path, chance: random.Random, name: str, flavors: list[str]) -> None:
        self.chance, self.name, self.flavors = chance, name, flavors
        self.dirs = PodDirs(root / "pods")
        self.keeper = LauncherKeeper()
        node = Node("node", "127.0.0.1", Fraction(4), 8 << 30)
        trust = Gate(Policy.from_table({"default-aci": "none"}))
        self.images = ImageStore(root / "state", local_images=root / "images", trust=trust)
        (root / "dev").mkdir(exist_ok=True)
        machine = Machine(
            *(lambda: node, self.images, self.dirs, self.keeper.run_pod, "linux"),
            gpus.Gpus(gpus.Host(root / "dev"), root / "locks"),
        )
        self.pods = Pods(machine, self.report, keep_dead=3)
        self.live: dict[str, str] = {}
        self.made = 0
        self.over = asyncio.Event()

    def report(self, task: str, report: Report) -> None:
        if report.terminal:
            say(pod=self.live.pop(task), phase=report.status["phase"])
            self.over.set()

    def launch(self, scripts: Sequence[str], policy: str) -> None:
        """Of the scripts each container gets one by chance."""
        self.made += 1
        name = f"{self.name}-{self.made}"
        task = f"{name}-{os.urandom(4).hex()}.1"
        containers = [
            {
                "name": f"c{number}",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", self.chance.choice(scripts)],
                "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
            }
            for number in range(self.chance.choice((1, 1, 2, 3)))
        ]
        medium = self.chance.choice(("", "Memory"))
        spec = {
            "containers": containers,
            "restartPolicy": policy,
            "runtimeClassName": self.chance.choice(self.flavors),
            "hostUsers": self.chance.choice((None, None, True)),
            "shareProcessNamespace": self.chance.choice((None, None, True)),
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "volume", "emptyDir": {"medium": medium}}],
        }
        meta = {"name": name, "namespace": "default", "uid": task}
        self.live[task] = name
        self.pods.launch(task, {"metadata": meta, "spec": spec})

    async def execute(self) -> None:
        """A program in some container that runs, or that does not by then."""
        name = self.chance.choice(list(self.live.values()))
        try:
            sandbox = self.pods.find("default", name).sandbox
            null = os.open(os.devnull, os.O_RDWR)
            try:
                made = await sandbox.exec(
                    "c0", ["/bin/sh", "-c", self.chance.choice(WORDS)], streams=(null, null)
                )
            finally:
                os.close(null)
            await made.ended
        except (LaunchError, KeyError):
            pass

    def tell(self) -> None:
        """What is going on, for whoever wants to know why it does not go on."""
        for name in self.live.values():
            print(name, self.pods.find("default", name).state, file=sys.stderr)
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)
        sys.stderr.flush()

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.tell)
        self.dirs.open()
        self.keeper.start()
        await asyncio.to_thread(self.dirs.collect)
        say(ready=len(os.listdir("/proc/self/fd")))
        told = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        execs: set[asyncio.Future[None]] = set()
        while not told.done():
            while len(self.live) < LIVE:
                self.launch(SCRIPTS, self.chance.choice(("Never", "Always", "OnFailure")))
            if self.chance.random() < 0.5:
                execs.add(task := asyncio.ensure_future(self.execute()))
                task.add_done_callback(execs.discard)
            if self.chance.random() < 0.5:
                self.pods.kill(
                    self.chance.choice(list(self.live)), self.chance.choice((None, 0.0, 0.1)), "killed"
                )
            await asyncio.wait([told], timeout=self.chance.choice((0.01, 0.05, 0.2)))
        await self.end()

    async def end(self) -> None:
        while self.live:
            self.over.clear()
            for task in list(self.live):
                self.pods.kill(task, 0.0, "the end")
            await self.over.wait()
        self.launch(["exit 0"], "Never")  # it still can
        while self.live:
            self.over.clear()
            await self.over.wait()
        await self.pods.close()
        say(quiet=len(os.listdir("/proc/self/fd")))
        await asyncio.to_thread(sys.stdin.readline)
        await self.keeper.close()


async def main() -> None:
    root, seed, name, *flavors = sys.argv[1:]
    await Executor(Path(root), random.Random(seed), name, flavors).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
