"""One run, inside the namespaces: build, load, faults, rest, and what was seen of it."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import faults
from harness.checker import check
from harness.clients import LABEL, NUMBER, PODS, Client, Numbers, Watcher
from harness.cluster import Cluster, missing_for_clock, missing_for_slow_disk
from harness.history import End, Exit, Fault, History, Pod, Sample
from harness.processes import pods
from harness.schedule import AGENTS, LAYOUTS, Planned, plan

START = 120.0
REST = 120.0
"""Seconds until all has to be up in the beginning; and as it should be after the last fault."""
CLIENTS, LABELLERS, WATCHERS = 2, 2, 2
INTERVAL = 0.1
"""Seconds between looks at the processes."""

COMPLAINTS = re.compile(
    r"^Traceback|never retrieved|\bCRITICAL\b.*\bbug\b|^\w*(?:Assertion|Type|Key|Attribute)Error\b"
)
"""Lines that no log of ours should have, whatever happens."""


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Run:
    """`passed` after `run`; the history is in the directory."""

    directory: Path
    seed: int
    duration: float
    only: frozenset[str] = frozenset()
    store: str = "zookeeper"
    history: History = field(default_factory=History)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.directory, LAYOUTS[self.store])
        self._before: Sample | None = None
        self._observing = threading.Event()

    def clock(self) -> float:
        return time.monotonic() - self.began

    def run(self) -> list[str]:
        """What is wrong."""
        say(f"seed {self.seed}, {self.duration:.0f} s of faults; all files are in {self.directory}")
        planned = self._plan()
        self.cluster.build()
        self._until("the cluster to come up", self._not_up, START)
        self.began = time.monotonic()
        observer = threading.Thread(target=self._observe, daemon=True)
        observer.start()
        threading.Thread(target=self._nurse, daemon=True).start()
        clients, watchers = self._load()
        self._fail(planned)
        for client in clients:
            client.stop()
        for client in clients:
            self._step_until(lambda client=client: not client.is_alive())
        say(
            f"{self.clock():7.1f}  the faults are over, {len(self.history.ops)} requests were made; waiting for rest"
        )
        missing = self._until("rest", lambda: self._not_at_rest(watchers), REST)
        for watcher in watchers:
            watcher.stop()
        self._observing.set()
        observer.join()
        self.history.end = self._end(missing, watchers)
        self.history.save(self.directory / "history.jsonl")
        return check(self.history)

    def _plan(self) -> list[Planned]:
        without = {
            "slow-disk": missing_for_slow_disk(),
            "clock": missing_for_clock(),
        }
        for kind, why in without.items():
            if why:
                say(f"without {kind}: {why}")
        impossible = frozenset(kind for kind, why in without.items() if why)
        planned = plan(self.seed, self.duration, impossible, self.only, self.cluster.layout.kinds)
        text = "\n".join(map(str, planned))
        (self.directory / "schedule").write_text(text + "\n")
        say(text)
        return planned

    # ---- what goes on meanwhile

    def _step(self) -> None:
        for name, code in self.cluster.step():
            self.history.exits.append(Exit(self.clock(), name, code))
            say(f"{self.clock():7.1f}  {name} ended with {code}")

    def _step_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._step()
            time.sleep(0.02)

    def _until(self, what: str, missing: Callable[[], str], seconds: float) -> str:
        """Waits; what is still missing after so many seconds, "" when nothing is."""
        deadline = time.monotonic() + seconds
        while why := missing():
            if time.monotonic() > deadline:
                say(f"{self.clock():7.1f}  waited {seconds:.0f} s for {what}: {why}")
                if what != "rest":
                    raise SystemExit(f"{what}: {why}")
                return why
            again = time.monotonic() + 0.3
            self._step_until(lambda again=again: time.monotonic() >= again)
        return ""

    def _observe(self) -> None:
        while not self._observing.wait(INTERVAL):
            self._look()

    def _nurse(self) -> None:
        """Kills schedulers that say that a restart would help them, as whoever checks their health does."""
        while not self._observing.wait(2.0):
            for host in self.cluster.layout.schedulers:
                status, body = self.cluster.ask(host, "/livez?verbose", 2.0)
                if status == 500:
                    say(
                        f"{self.clock():7.1f}  {host} is not alive: {body.decode(errors='replace').splitlines()}"
                    )
                    with self.cluster.lock:
                        self.cluster.processes[host].kill()

    def _look(self) -> None:
        now = Sample(self.clock(), self.clock(), pods(self.cluster.prefix))
        if self._before is None or now.live != self._before.live:
            before = self._before.at if self._before else now.at
            self.history.samples.append(Sample(now.at, before, now.live))
        self._before = now

    def _load(self) -> tuple[list[Client], list[Watcher]]:
        numbers = Numbers()
        common = (self.cluster, self.history)
        clients = [
            Client(f"client-{n}", *common, numbers, self.seed, self.clock, labels_only=n >= CLIENTS)
            for n in range(CLIENTS + LABELLERS)
        ]
        watchers = [Watcher(f"watcher-{n}", *common, self.seed, self.clock) for n in range(WATCHERS)]
        for thread in (*clients, *watchers):
            thread.start()
        return clients, watchers

    # ---- faults

    def _fail(self, planned: list[Planned]) -> None:
        waiting = list(planned)
        lasting: list[tuple[float, Planned, faults.Begun, float]] = []
        while waiting or lasting or self.clock() < self.duration:
            self._step()
            for one in [one for one in lasting if one[0] <= self.clock()]:
                lasting.remove(one)
                self._undo(*one[1:])
            if waiting and waiting[0].at <= self.clock():
                one = waiting.pop(0)
                at = self.clock()
                begun = faults.begin(self.cluster, one)
                say(f"{at:7.1f}  {one.kind} {begun.target} {one.argument} ({one.lasts:.1f} s)")
                lasting.append((at + one.lasts, one, begun, at))
            time.sleep(0.02)

    def _undo(self, planned: Planned, begun: faults.Begun, at: float) -> None:
        begun.undo()
        what = f"{planned.kind} {planned.argument}".strip()
        self.history.faults.append(Fault(at, self.clock(), what, begun.target, begun.victims))

    # ---- rest

    def _not_up(self) -> str:
        agents = (self.cluster.master("GET_AGENTS") or {}).get("agents", [])
        if len(agents) < len(AGENTS):
            return f"{len(agents)} agents"
        for host in self.cluster.layout.schedulers:
            status, body = self.cluster.ask(host, "/readyz?verbose")
            if status != 200:
                return f"{host}: {body.decode(errors='replace')}"
        nodes = self.cluster.get("/api/v1/nodes") or {"items": []}
        ready = [one for one in nodes["items"] if _is(one, "Ready")]
        return "" if len(ready) == len(AGENTS) else f"{len(ready)} nodes are ready"

    def _not_at_rest(self, watchers: list[Watcher]) -> str:
        if why := self._not_up():
            return why
        listed = self._pods()
        if listed is None:
            return "no list of pods"
        if wrong := [f"pod {one.number} is {one.phase}" for one in listed if one.phase != "Running"]:
            return ", ".join(wrong)
        live = pods(self.cluster.prefix)
        if sorted(one.number for one in live) != sorted(one.number for one in listed):
            return f"{sorted(one.number for one in listed)} are there, {[one.number for one in live]} run"
        versions = {one.uid: one.version for one in listed}
        if any(one.versions != versions for one in watchers):
            return "watchers have put together something else"
        frameworks, offers, tasks = self._master()
        if len(frameworks) != 1 or offers or tasks != len(listed):
            return f"the master has {frameworks}, {offers} offers, {tasks} tasks for {len(listed)} pods"
        return ""

    def _pods(self) -> tuple[Pod, ...] | None:
        found = self.cluster.get(PODS)
        return None if found is None else tuple(_pod(one) for one in found["items"])

    def _master(self) -> tuple[tuple[str, ...], int, int]:
        """Frameworks, outstanding offers, tasks."""
        known = self.cluster.master("GET_FRAMEWORKS") or {}
        every = [*known.get("frameworks", []), *known.get("completed_frameworks", [])]
        states = tuple(
            one["framework_info"]["id"]["value"] + (" connected" if one.get("connected") else " gone")
            for one in every
        )
        tasks = (self.cluster.master("GET_TASKS") or {}).get("tasks", [])
        return states, sum(len(one.get("offers", [])) for one in every), len(tasks)

    def _end(self, missing: str, watchers: list[Watcher]) -> End:
        frameworks, offers, tasks = self._master()
        self._look()
        assert self._before is not None
        put_together = {one.name: dict(one.versions) for one in watchers}
        everything = self._pods() or ()
        return End(
            *(self.clock(), missing, everything, self._before.live, tasks, frameworks, offers, put_together),
            tuple(self._complaints()),
        )

    def _complaints(self) -> list[str]:
        files = [self.cluster.settings.logs / f"{name}.log" for name in self.cluster.processes]
        files = [file for file in files if not file.name.startswith("zookeeper")]
        files += [
            path
            for agent in AGENTS
            for name in ("stderr", "stdout")
            for path in (self.directory / agent).glob(f"slaves/*/frameworks/*/executors/*/runs/*/{name}")
            if not path.parent.is_symlink()
        ]
        found = {}
        for file in files:
            for line in file.read_text(errors="replace").splitlines():
                if COMPLAINTS.search(line):
                    found[f"{file.relative_to(self.directory)}: {line[:200]}"] = None
        return list(found)


def _pod(obj: dict[str, Any]) -> Pod:
    meta = obj["metadata"]
    labels = meta.get("labels", {})
    phase = "Terminating" if meta.get("deletionTimestamp") else obj["status"].get("phase", "")
    version = int(meta["resourceVersion"])
    return Pod(int(labels[NUMBER]), meta["uid"], version, phase, int(labels[LABEL]))


def _is(obj: dict[str, Any], condition: str) -> bool:
    conditions = obj.get("status", {}).get("conditions", [])
    return any(one["type"] == condition and one["status"] == "True" for one in conditions)


def main(directory: Path, seed: int, duration: float, only: frozenset[str], store: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = Run(directory, seed, duration, only, store)
    try:
        wrong = run.run()
    except Exception:
        run.history.save(directory / "history.jsonl")
        raise
    counts: dict[str, int] = {}
    for op in run.history.ops:
        counts[op.outcome] = counts.get(op.outcome, 0) + 1
    seen = f"{len(run.history.faults)} faults, {len(run.history.seen)} versions seen"
    say(f"{run.clock():7.1f}  requests: {json.dumps(counts)}, {seen}")
    for line in wrong:
        say(f"WRONG: {line}")
    return 1 if wrong else 0
