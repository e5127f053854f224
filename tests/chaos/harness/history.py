"""What was seen of one run: plain values, written as JSON lines, that the checker judges.

Times are seconds since the run began. A pod is known by its `number`: every attempt to create one has another, and the
pod's process is told it, so that what runs is traced back to the very request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
"""Outcomes: acknowledged; definitively refused, or never sent; nobody knows."""


@dataclass(frozen=True)
class Op:
    """One request of a client's. `kind`: create, delete or label; `value`: what a label was set to; `version`: of the
    object in the answer."""

    client: str
    kind: str
    number: int
    invoked: float
    ended: float
    outcome: str
    value: int = 0
    version: int = 0
    status: int = 0
    detail: str = ""


@dataclass(frozen=True, order=True)
class Instance:
    """A process that is a pod's app: `started` in clock ticks since boot tells it from another one of this pid."""

    number: int
    pid: int
    started: int
    agent: str


@dataclass(frozen=True)
class Sample:
    """All that ran at `at`; kept when it differs from the one before, which then was seen last at `before`."""

    at: float
    before: float
    live: tuple[Instance, ...]


@dataclass(frozen=True)
class Seen:
    """A version that a watcher got. `kind`: list or event; `doubtful`: the server warned that it may be old; `number`
    and `label`: of the pod of an event, `gone`: that it says is deleted."""

    watcher: str
    at: float
    kind: str
    version: int
    doubtful: bool = False
    number: int = 0
    label: int = 0
    gone: bool = False


@dataclass(frozen=True)
class Fault:
    """What was done; `victims`: the agents whose pods' processes may end by it."""

    at: float
    until: float
    kind: str
    target: str
    victims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exit:
    """A process ended by itself."""

    at: float
    process: str
    code: int


@dataclass(frozen=True)
class Pod:
    """As the API shows it in the end."""

    number: int
    uid: str
    version: int
    phase: str
    label: int


@dataclass(frozen=True)
class End:
    """How it was when all was quiet. `missing`: what was waited for in vain. `frameworks`: id and state of each on the
    master. `watchers`: version by uid, as each has put it together. `complaints`: lines of logs that should not be."""

    at: float
    missing: str
    pods: tuple[Pod, ...]
    live: tuple[Instance, ...]
    tasks: int
    frameworks: tuple[str, ...]
    offers: int
    watchers: dict[str, dict[str, int]]
    complaints: tuple[str, ...] = ()


@dataclass
class History:
    ops: list[Op] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    end: End | None = None

    def records(self) -> Iterable[Any]:
        for name in ("ops", "samples", "seen", "faults", "exits"):
            yield from getattr(self, name)
        if self.end is not None:
            yield self.end

    def save(self, path: Path) -> None:
        with path.open("w") as file:
            for one in self.records():
                file.write(json.dumps({"is": type(one).__name__, **asdict(one)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        made = cls()
        homes = {Op: made.ops, Sample: made.samples, Seen: made.seen, Fault: made.faults, Exit: made.exits}
        kinds = {kind.__name__: kind for kind in (*homes, End)}
        for line in path.read_text().splitlines():
            facts = json.loads(line)
            kind = kinds[facts.pop("is")]
            one = _made(kind, facts)
            if isinstance(one, End):
                made.end = one
            else:
                homes[kind].append(one)
        return made


_INSIDE = {"live": Instance, "pods": Pod}


def _made(kind: Any, facts: dict[str, Any]) -> Any:
    for one in fields(kind):
        value = facts.get(one.name)
        if isinstance(value, list):
            inner = _INSIDE.get(one.name)
            facts[one.name] = tuple(inner(**each) if inner else each for each in value)
    return kind(**facts)
