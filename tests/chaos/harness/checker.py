"""Decides from a history alone whether what users were promised was kept. Pure.

* What was acknowledged is there in the end; what was deleted is gone; what was refused never was.
* A label has the last value that was acknowledged, or one whose fate nobody knows.
* Each acknowledged version was seen by every watcher, with what was acknowledged; all saw the same at each version.
* Each pod that is there runs exactly once in the end, nothing else does, and never two at once before.
* A pod's process ends only when its pod was deleted, or a fault hit its agent's containers: no failover restarts it.
* Watchers saw versions that grow, and have put together what the API shows.
* The master knows one framework of ours, connected, with no offers, and as many tasks as there are pods.
* No process ended by itself except as documented, and nothing complained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from harness.history import FAIL, OK, UNKNOWN, End, History, Instance, Op, Seen

GRACE = 8.0
"""Seconds after a fault on an agent within which processes of its pods may end."""

EXITS = {"scheduler": {4, 6}, "zookeeper": None}
"""Codes with which processes may end by themselves; None: any; others never. A scheduler's: its disk is full; another
one leads."""


def check(history: History) -> list[str]:
    """What is wrong, one line each; empty when all is well."""
    if history.end is None:
        return ["the run did not come to its end"]
    return [
        *_settled(history.end),
        *_writes(history, history.end),
        *_labels(history, history.end),
        *_once(history, history.end),
        *_untouched(history),
        *_versions(history, history.end),
        *_acknowledged(history),
        *_master(history.end),
        *_exits(history),
    ]


def _settled(end: End) -> Iterator[str]:
    if end.missing:
        yield f"it never came to rest: {end.missing}"
    for complaint in end.complaints:
        yield f"a log has: {complaint}"


# ---- writes


def _by_number(history: History, kind: str) -> dict[int, list[Op]]:
    found: dict[int, list[Op]] = defaultdict(list)
    for op in sorted(history.ops, key=lambda op: op.invoked):
        if op.kind == kind:
            found[op.number].append(op)
    return found


def _writes(history: History, end: End) -> Iterator[str]:
    there = {pod.number for pod in end.pods}
    deletes = _by_number(history, "delete")
    created = _by_number(history, "create")
    for number, (create, *_) in created.items():
        outcomes = {op.outcome for op in deletes[number]}
        if create.outcome == OK and not outcomes & {OK, UNKNOWN} and number not in there:
            yield f"pod {number} was acknowledged at {create.ended:.2f} and is lost"
        if create.outcome == FAIL and number in there:
            yield f"pod {number} was refused ({create.status} {create.detail}) and is there"
        if OK in outcomes and number in there:
            yield f"pod {number} was deleted, which was acknowledged, and is there"
    for number in there - created.keys():
        yield f"pod {number} is there and nobody created it"
    for op in history.ops:
        yield from _answer(op, created, deletes)


def _answer(op: Op, created: dict[int, list[Op]], deletes: dict[int, list[Op]]) -> Iterator[str]:
    """A client is told of no server's bug, and of no loss of what it was promised."""
    if op.status == 500:
        yield f"{op.kind} of pod {op.number} at {op.invoked:.2f} was answered with 500: {op.detail}"
    if op.kind == "create" or op.status not in (404, 409):
        return
    promised = any(one.outcome == OK and one.ended <= op.invoked for one in created.get(op.number, ()))
    gone = any(one.outcome != FAIL and one.invoked < op.ended for one in deletes.get(op.number, ()))
    if promised and not gone:
        said = f"{op.status} ({op.detail})"
        yield f"{op.kind} of pod {op.number} at {op.invoked:.2f} was told {said}, but it had been acknowledged"


def _labels(history: History, end: End) -> Iterator[str]:
    labels = _by_number(history, "label")
    for pod in end.pods:
        ops = labels[pod.number]
        allowed = {op.value for op in ops if op.outcome == UNKNOWN}
        allowed.add(next((op.value for op in reversed(ops) if op.outcome == OK), 0))
        if pod.label not in allowed:
            yield f"pod {pod.number} has label {pod.label}, not one of {sorted(allowed)}"


# ---- processes


def _once(history: History, end: End) -> Iterator[str]:
    doubled = set()
    for sample in history.samples:
        seen: dict[int, Instance] = {}
        for one in sample.live:
            other = seen.setdefault(one.number, one)
            if other is not one and one.number not in doubled:
                doubled.add(one.number)
                yield f"pod {one.number} ran twice at {sample.at:.2f}: {other} and {one}"
    refused = {number for number, (op, *_) in _by_number(history, "create").items() if op.outcome == FAIL}
    ran = {one.number for sample in history.samples for one in sample.live}
    for number in sorted(refused & ran):
        yield f"pod {number} was refused and has run"
    live: dict[int, int] = defaultdict(int)
    for one in end.live:
        live[one.number] += 1
    for pod in end.pods:
        if live[pod.number] != 1:
            yield f"pod {pod.number} is there and runs {live[pod.number]} times"
        if pod.phase != "Running":
            yield f"pod {pod.number} is {pod.phase}"
    for number in sorted(live.keys() - {pod.number for pod in end.pods}):
        yield f"pod {number} runs and is not there"


def _untouched(history: History) -> Iterator[str]:
    deletes = _by_number(history, "delete")
    before: set[Instance] = set()
    for sample in history.samples:
        now = set(sample.live)
        for one in sorted(before - now):
            wanted = any(op.outcome != FAIL and op.invoked <= sample.at for op in deletes[one.number])
            if not wanted and not _excused(history, one.agent, sample.before, sample.at):
                what = f"pod {one.number} was ended on {one.agent} before {sample.at:.2f} (pid {one.pid})"
                yield f"{what}, and nothing had happened to it"
        before = now


def _excused(history: History, agent: str, begin: float, end: float) -> bool:
    return any(
        agent in fault.victims and fault.at <= end and begin <= fault.until + GRACE
        for fault in history.faults
    )


# ---- versions


def _versions(history: History, end: End) -> Iterator[str]:
    last: dict[str, int] = defaultdict(int)
    for one in history.seen:
        grows = one.version >= last[one.watcher] if one.kind == "list" else one.version > last[one.watcher]
        if not grows and not one.doubtful:
            yield f"{one.watcher} got {one.kind} {one.version} after {last[one.watcher]} at {one.at:.2f}"
        last[one.watcher] = one.version
    shown = {pod.uid: pod.version for pod in end.pods}
    for watcher, put_together in end.watchers.items():
        if put_together != shown:
            wrong = sorted(set(put_together.items()) ^ set(shown.items()))
            yield f"{watcher} has put together something else than the API shows: {wrong}"


def _acknowledged(history: History) -> Iterator[str]:
    events: dict[str, dict[int, Seen]] = defaultdict(dict)
    skipped: dict[str, list[tuple[int, int]]] = defaultdict(list)
    last: dict[str, int] = defaultdict(int)
    for one in history.seen:
        if one.kind == "list":
            skipped[one.watcher].append((last[one.watcher], one.version))
        else:
            events[one.watcher][one.version] = one
        last[one.watcher] = one.version
    for watcher, seen in events.items():
        for op in history.ops:
            if op.outcome != OK or not op.version or any(a < op.version <= b for a, b in skipped[watcher]):
                continue
            what = f"{op.kind} of pod {op.number}, acknowledged with version {op.version}"
            if op.version not in seen:
                yield f"{what}, was not seen by {watcher}"
            elif seen[op.version].number != op.number or (
                op.kind == "label" and seen[op.version].label != op.value
            ):
                yield f"{what} and value {op.value}, was seen by {watcher} as {seen[op.version]}"
    yield from _differing(events)


def _differing(events: dict[str, dict[int, Seen]]) -> Iterator[str]:
    said: dict[int, Seen] = {}
    for seen in events.values():
        for version, one in seen.items():
            other = said.setdefault(version, one)
            if (one.number, one.label, one.gone) != (other.number, other.label, other.gone):
                yield f"version {version} is two things: {other} and {one}"


# ---- the rest


def _master(end: End) -> Iterator[str]:
    if len(end.frameworks) != 1 or not end.frameworks[0].endswith(" connected"):
        yield f"the master knows other frameworks than one that is connected: {list(end.frameworks)}"
    if end.offers:
        yield f"{end.offers} offers are neither accepted nor declined"
    if end.tasks != len(end.pods):
        yield f"the master has {end.tasks} tasks for {len(end.pods)} pods"


def _exits(history: History) -> Iterator[str]:
    for one in history.exits:
        allowed = EXITS.get(one.process.partition("-")[0], set())
        if allowed is not None and one.code not in allowed:
            yield f"{one.process} ended with {one.code} at {one.at:.2f}"
