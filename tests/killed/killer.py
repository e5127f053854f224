"""Kills whatever there is of executors and their pods, at random, and looks at what is left.

    python killer.py DIRECTORY --seed 7 --rounds 3 --kills 40 [--flavors linux fly nspawn]

A round: an executor (node.py) runs pods; something of it is killed (SIGKILL), again and again, and a new executor is
started when it was the executor. Then the last one ends its pods and runs one more: nothing may hang, and what it has
then is what it began with. Then it ends, or is killed too, and its successor collects. No process, mount, cgroup,
lock, range of ids, pod directory or hold on an image may be left.

DIRECTORY has `images` with busybox:1. All is in a mount namespace of its own, with a /run/gantry of its own; this
process inherits whatever loses its parent, so nothing gets away unseen. Prints what it has killed, in JSON; the exit
code is 1, and what is wrong is printed, if anything is.
"""

import argparse
import collections
import fcntl
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from executor.pods.poddir import Phase, PodDirs
from executor.stage1 import cgroups, launcher, syscalls, userns

NODE = Path(__file__).with_name("node.py")
DYING = ("setpriv", "--pdeathsig", "KILL")
"""What is started ends with whoever has started it: when this program is killed, too, nothing stays."""
SECONDS = 120.0
SHARES = {"executor": 1, "gantry-launcher": 2, "gantry-init": 4, "gantry-start": 4}
"""How often a kind of process is chosen, by its name; 2 for any other."""
STARTING = ("executor", "python", "setpriv")
"""What there is while a launcher starts: it has Python's name still."""
SPARE_DESCRIPTORS = 8


class Wrong(Exception):
    """Something is left, or hangs."""


def descendants() -> dict[int, str]:
    """Of this process: pid → name. Zombies are none."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            except OSError:
                continue
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if rest[0] != "Z":
                parents[int(entry)] = (int(rest[1]), name)
    found: dict[int, str] = {}
    grown = True
    ours = {os.getpid()}
    while grown:
        grown = False
        for pid, (parent, name) in parents.items():
            if parent in ours and pid not in ours:
                ours.add(pid)
                found[pid] = name
                grown = True
    return found


def described(pid: int) -> str:
    """A process, for whoever wants to know why it is there."""
    found = [f"process {pid}"]
    for name, wanted in (
        ("status", ("Name", "State", "PPid", "NSpid", "Sig")),
        ("cgroup", ("",)),
        ("syscall", ("",)),
        ("stack", ("",)),
    ):
        try:
            lines = Path(f"/proc/{pid}/{name}").read_text(errors="replace").splitlines()
        except OSError:
            continue
        found += [line for line in lines if line.startswith(wanted)]
    return "\n    ".join(found)


def reap(*but: int) -> None:
    """Take in what has lost its parent and ended; not whom `subprocess` waits for."""
    for entry in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if int(entry) not in but:
            try:
                os.waitpid(int(entry), os.WNOHANG)
            except ChildProcessError:
                pass


class World:
    def __init__(self, root: Path, seed: str, flavors: list[str], spare: list[str]) -> None:
        self.root, self.seed, self.flavors, self.spare = root, seed, flavors, spare
        self.chance = random.Random(seed)
        self.layout = cgroups.detect(
            Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
        )
        self.killed: collections.Counter[str] = collections.Counter()
        self.phases: collections.Counter[str] = collections.Counter()
        self.count = 0
        self.name = f"k{os.urandom(4).hex()}"  # others use the same cgroups
        self.mounts = Path("/proc/self/mountinfo").read_text()
        self.node: subprocess.Popen[bytes] | None = None
        self.ready = -1

    # -- the executor -------------------------------------------------------------------------------------

    def start(self) -> None:
        self.count += 1
        self.ready = -1
        self.node = subprocess.Popen(
            [
                *DYING,
                sys.executable,
                str(NODE),
                str(self.root),
                f"{self.seed} {self.count}",
                f"{self.name}n{self.count}",
                *self.flavors,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.root / "stderr").open("ab"),
            bufsize=0,
        )
        if self.chance.random() < 0.7:  # else what it does first may be what is killed
            self.ready = self.hear("ready")

    def hear(self, word: str) -> int:
        """Wait until the executor says it; what it says, -1 when it has been killed."""
        assert self.node is not None
        assert self.node.stdout is not None
        deadline = time.monotonic() + SECONDS
        while True:
            ready, _, _ = select.select([self.node.stdout], [], [], deadline - time.monotonic())
            if not ready:
                self.node.send_signal(signal.SIGUSR1)  # it tells why, on its standard error
                time.sleep(2)
                raise Wrong(f"the executor does not say {word!r}; it has {descendants()}")
            line = self.node.stdout.readline()
            if not line:
                return -1
            said = json.loads(line)
            if "phase" in said:
                self.phases[said["phase"]] += 1
            if word in said:
                return int(said[word])

    def end(self) -> None:
        """The executor is killed, if it still is: all that it has started ends."""
        assert self.node is not None
        self.node.kill()
        self.node.wait(SECONDS)
        for pipe in (self.node.stdin, self.node.stdout):
            assert pipe is not None
            pipe.close()
        deadline = time.monotonic() + SECONDS
        while left := descendants():
            reap()
            if time.monotonic() > deadline:
                raise Wrong("processes outlive their executor:\n" + "\n".join(map(described, left)))
            time.sleep(0.005)
        reap()

    # -- a round ------------------------------------------------------------------------------------------

    def kill_something(self, *, last: bool) -> bool:
        """Whether it was the executor: the last of a round is, unless it is to be spared."""
        assert self.node is not None
        there = descendants()
        if self.node.pid in there:
            there[self.node.pid] = "executor"
        kinds = sorted(set(there.values()) - set(self.spare))
        if last and "executor" not in self.spare:
            kinds = ["executor"]
        elif not kinds or (kinds == ["executor"] and self.chance.random() < 0.8):
            return False
        elif all(kind.startswith(STARTING) for kind in kinds) and self.chance.random() < 0.95:
            return False  # or on a busy machine there would never be a launcher
        kind = self.chance.choices(kinds, [SHARES.get(kind, 2) for kind in kinds])[0]
        victim = self.chance.choice(sorted(pid for pid, name in there.items() if name == kind))
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[kind] += 1
        return victim == self.node.pid

    def round(self, kills: int) -> None:
        self.start()
        enough = sum(self.killed.values()) + kills
        while sum(self.killed.values()) < enough:
            assert self.node is not None
            time.sleep(self.chance.choice((0.001, 0.01, 0.05, 0.1, 0.3)))
            reap(self.node.pid)
            if self.node.poll() is not None:
                raise Wrong("the executor ended by itself")
            if self.kill_something(last=sum(self.killed.values()) + 1 == enough):
                self.end()
                self.start()
        self.quiet()
        if self.chance.random() < 0.5:
            self.tell()
            assert self.node is not None
            self.node.wait(SECONDS)
        self.end()
        self.look()

    def quiet(self) -> None:
        """Without pods an executor has what it began with."""
        if self.ready < 0:
            self.ready = self.hear("ready")
        self.tell()
        descriptors = self.hear("quiet")
        if min(self.ready, descriptors) < 0:
            raise Wrong("the executor ended by itself")
        if descriptors > self.ready + SPARE_DESCRIPTORS:
            raise Wrong(f"it began with {self.ready} descriptors and has {descriptors}")
        deadline = time.monotonic() + SECONDS
        while (wrong := self.left()) or self.strange():
            if time.monotonic() > deadline:
                wrong += map(described, descendants())
                raise Wrong("of an executor without pods: " + "\n".join(wrong))
            time.sleep(0.01)
            reap(self.node.pid)  # an app that is pid 1 ends when all in its namespace have been reaped

    def strange(self) -> bool:
        """Are there processes that an executor without pods should not have? The launcher keeps some in reserve."""
        there = [name for pid, name in descendants().items() if self.node and pid != self.node.pid]
        return len(there) >= 12 or not all(name.startswith("gantry-") for name in there)

    def tell(self) -> None:
        assert self.node is not None
        assert self.node.stdin is not None
        self.node.stdin.write(b"\n")

    def left(self) -> list[str]:
        """Of pods, on disk and in cgroups."""
        found = [f"directory {path}" for phase in Phase for path in (self.root / "pods" / phase).iterdir()]
        prefix = f"{cgroups.PREFIX}{self.name}"
        for root in self.layout.roots:
            found += [f"cgroup {one.path}" for one in os.scandir(root) if one.name.startswith(prefix)]
        return found

    def look(self) -> None:
        """What is left when the next executor has collected?"""
        launcher.collect(self.layout)
        PodDirs(self.root / "pods").collect()
        wrong = self.left()
        wrong += [f"lock {path}" for path in Path(userns.RANGES).iterdir() if locked(path)]
        wrong += [f"lock {path}" for path in (self.root / "locks").glob("**/*") if locked(path)]
        pins = list((self.root / "state/store/pins").iterdir())
        wrong += [f"hold on an image {path}" for path in pins if locked(path)]
        if Path("/proc/self/mountinfo").read_text() != self.mounts:
            wrong.append("mounts: " + Path("/proc/self/mountinfo").read_text())
        if wrong:
            raise Wrong("\n".join(wrong))


def locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def prepare() -> None:
    """A mount namespace with a /run/gantry of its own; whoever loses its parent gets us."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.makedirs("/run/gantry", exist_ok=True)
    syscalls.mount("tmpfs", "/run/gantry", "tmpfs", 0, "size=1m,mode=755")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--flavors", nargs="+", default=["linux", "linux", "fly"])
    parser.add_argument("--spare", nargs="*", default=[], help="kinds of processes that are not killed")
    args = parser.parse_args()
    prepare()
    world = World(args.directory, args.seed, args.flavors, args.spare)
    try:
        for _ in range(args.rounds):
            world.round(args.kills)
    except Wrong as wrong:
        print(f"seed {args.seed}, executor n{world.count}: {wrong}")
        return 1
    finally:
        for pid in descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        print(json.dumps({"killed": world.killed, "pods": world.phases}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
