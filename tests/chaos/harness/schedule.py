"""What goes wrong when, decided by a seed. Pure: the same seed and duration give the same schedule.

    at 3.1 for 4.0 s: partition leader from zookeeper-*

Targets that say `leader` or `follower` are looked up when it happens. Faults follow one another; every other one begins
while the one before lasts, unless both take ZooKeepers away.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SCHEDULERS = ("scheduler-1", "scheduler-2")
ZOOKEEPERS = ("zookeeper-1", "zookeeper-2", "zookeeper-3")
AGENTS = ("agent-1", "agent-2")
MASTER = "master"
WHO = ("leader", "leader", "leader", "follower")
ALL = "all"

DEGRADED = 1.0
"""Seconds between faults that take ZooKeepers away."""


@dataclass(frozen=True)
class Planned:
    """`lasts`: seconds; 0: it is over at once. `argument`: depends on the kind."""

    at: float
    lasts: float
    kind: str
    target: str
    argument: str = ""

    def __str__(self) -> str:
        for_ = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"at {self.at:6.1f}{for_}: {self.kind} {self.target} {self.argument}".rstrip()


@dataclass(frozen=True)
class Kind:
    """`weight`: how often; `least` and `most`: seconds it lasts; `store`: it takes ZooKeepers away."""

    name: str
    targets: tuple[str, ...]
    weight: float = 1.0
    least: float = 0.0
    most: float = 0.0
    arguments: tuple[str, ...] = ("",)
    store: bool = False


MESOS = (
    Kind("kill-executor", AGENTS, 1),
    Kind("stop-executor", AGENTS, 0.7, 0.5, 4.0),
    Kind("kill-launcher", AGENTS, 0.7),
    Kind("kill-app", AGENTS, 0.7),
    Kind("kill-agent", AGENTS, 1),
    Kind("end-agent", AGENTS, 0.5),
    Kind("stop-agent", AGENTS, 0.7, 0.5, 4.0),
    Kind("partition", AGENTS, 0.7, 1.0, 6.0, ("master",)),
    Kind("kill-master", (MASTER,), 1, 0.0, 3.0),
    Kind("stop-master", (MASTER,), 0.7, 0.5, 6.0),
)
CLOCKS = ("3", "-3", "3600", "-3600", "100000000", "-100000000")
KINDS = (
    # the scheduler proper, its parent, both at once
    Kind("kill-child", WHO, 2),
    Kind("kill-parent", WHO, 1.5),
    Kind("kill-scheduler", WHO, 1.5),
    Kind("end-scheduler", WHO, 1),
    Kind("stop-scheduler", WHO, 2, 0.5, 9.0, ("both", "child", "parent")),
    Kind("partition", WHO, 3, 1.0, 9.0, ("zookeepers", "one zookeeper", "master", "scheduler")),
    Kind("half-partition", WHO, 1, 1.0, 9.0, ("zookeepers", "master", "scheduler")),
    Kind("clock", WHO, 1.5, 2.0, 6.0, CLOCKS),
    *MESOS,
    # the store
    Kind("kill-zookeeper", ZOOKEEPERS, 1, 0.5, 5.0, store=True),
    Kind("stop-zookeeper", ZOOKEEPERS, 0.7, 0.5, 5.0, store=True),
    Kind("partition", ZOOKEEPERS, 1, 1.0, 6.0, ("peers",), store=True),
    Kind("kill-quorum", (ALL,), 1, 1.0, 7.0, store=True),
    Kind("full-disk", (*ZOOKEEPERS, ALL), 1, 2.0, 6.0, store=True),
    Kind("slow-disk", (*ZOOKEEPERS, ALL, ALL), 1, 2.0, 6.0, ("3", "10"), store=True),
    # the whole cluster, but for executors and pods
    Kind("kill-all", (ALL,), 0.5, 0.0, 2.0, store=True),
)

ONE = SCHEDULERS[:1]
KINDS_ALONE = (
    Kind("kill-scheduler", ONE, 3),
    Kind("end-scheduler", ONE, 1),
    Kind("stop-scheduler", ONE, 1, 0.5, 6.0, ("parent",)),
    Kind("partition", ONE, 2, 1.0, 9.0, ("master",)),
    Kind("half-partition", ONE, 1, 1.0, 9.0, ("master",)),
    Kind("clock", ONE, 1.5, 2.0, 6.0, CLOCKS),
    *MESOS,
    Kind("full-disk", ONE, 3, 2.0, 6.0, store=True),
    Kind("slow-disk", ONE, 1.5, 2.0, 6.0, ("3", "10"), store=True),
    Kind("kill-all", (ALL,), 0.5, 0.0, 2.0, store=True),
)


@dataclass(frozen=True)
class Layout:
    """Which hosts there are, and what may happen to them."""

    schedulers: tuple[str, ...]
    zookeepers: tuple[str, ...]
    kinds: tuple[Kind, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        return (*self.schedulers, *self.zookeepers, *AGENTS, MASTER)

    @property
    def stores(self) -> tuple[str, ...]:
        """The hosts whose disks have the state."""
        return self.zookeepers or self.schedulers


LAYOUTS = {"zookeeper": Layout(SCHEDULERS, ZOOKEEPERS, KINDS), "sqlite": Layout(ONE, (), KINDS_ALONE)}
"""By what the state is kept in. With SQLite there is one scheduler, and one process of it."""


def plan(
    seed: int,
    duration: float,
    without: frozenset[str] = frozenset(),
    only: frozenset[str] = frozenset(),
    kinds: tuple[Kind, ...] = KINDS,
) -> list[Planned]:
    """`without`: kinds that this machine cannot do; `only`: no others. All is over when `duration` seconds are."""
    dice = random.Random(seed)
    kinds = tuple(kind for kind in kinds if kind.name not in without and (not only or kind.name in only))
    apart = len({one.name for one in kinds}) // 2  # no kind comes again before so many others
    recent: list[str] = []
    planned: list[Planned] = []
    now, store_free = dice.uniform(0.5, 2.0), 0.0
    while True:
        able = [kind for kind in kinds if kind.name not in recent and not (kind.store and now < store_free)]
        if not able:
            now = store_free
            continue
        kind = dice.choices(able, [one.weight for one in able])[0]
        lasts = round(dice.uniform(kind.least, kind.most), 1)
        one = Planned(round(now, 1), lasts, kind.name, dice.choice(kind.targets), dice.choice(kind.arguments))
        if one.at + one.lasts > duration:
            return planned
        planned.append(one)
        recent = [*recent, kind.name][-apart:] if apart else []
        if kind.store:
            store_free = now + lasts + DEGRADED
        pause = dice.uniform(0.3, 3.0)
        now += dice.uniform(0.3, 1.0) * lasts if lasts and dice.random() < 1 / 2 else lasts + pause
