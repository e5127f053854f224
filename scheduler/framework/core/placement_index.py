"""The nodes with offers, sorted once a frame and cut into classes on which a pod's own rules cannot tell nodes apart.

A rule about nodes looks at a few labels, at taints and cordon. All nodes that agree in these are one class: the
rule is tried once a class. Classes of equal preference are one `Tier`, shared by all groups of pods that have it.
Not here: what changes while pods are placed, but for the free share of a node.

Preference: no planned maintenance; no GPU agent for a pod without GPUs; the wishes (node affinity counts twice,
PreferNoSchedule thrice, each 0 to 100, as in kube-scheduler); then bin-packing (an agent that runs our executor, the
least free) or spreading (the largest share free).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scheduler.framework.core.entities import Needs, Node
from scheduler.framework.core.placement_filters import static_reason, taints, tolerated
from scheduler.framework.core.vectors import ZERO, Ranges, Vector, without_ports

NAME: Final = "metadata.name"
"""Stands among label keys for the node's name."""

FEW: Final = 16
"""So few nodes are looked at one by one rather than by classes."""


@dataclass(slots=True)
class Candidate:
    """An agent with offers to one role: what is free there, and what a first pod must pay for the shared executor
    (`overhead`), or any for one of its own (`instance`)."""

    agent_id: str
    node: Node
    free: Vector
    ports: Ranges = ()
    overhead: Vector = ZERO
    instance: Vector = ZERO
    executor: str = ""
    """The shared executor that takes its pods; none yet if empty."""
    room: int = 0
    """How many more pods the node may have."""
    last_resort: bool = False
    """Maintenance is planned: only if nothing else fits."""
    uids: list[str] = field(default_factory=list)
    rank: int = 0
    """Its place in the order of bin-packing; unique within an Index."""
    _labels: dict[str, str] | None = None
    _total: Vector = ZERO

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            self._labels = dict(self.node.labels)
        return self._labels

    @property
    def gpu(self) -> bool:
        info = self.node.info
        return self.free.gpus > 0 or (info is not None and info.total is not None and info.total.gpus > 0)

    @property
    def free_share(self) -> int:
        """Of cpus and memory, in thousandths of each, added: 0 to 2000."""
        if self._total is ZERO:
            info = self.node.info
            self._total = info.total if info is not None and info.total is not None else self.free
        total, free = self._total, self.free
        return (1000 * free.cpus // total.cpus if total.cpus else 0) + (
            1000 * free.mem // total.mem if total.mem else 0
        )

    def extra(self, needs: Needs) -> Vector:
        """What such a pod takes besides its own needs: an executor, if it must be started."""
        return self.instance if needs.dedicated else self.overhead

    def take(self, uid: str, needs: Needs) -> None:
        extra = self.extra(needs)
        self.free = self.free - (needs.amounts if extra is ZERO else needs.amounts + extra)
        if needs.ports:
            self.ports = without_ports(self.ports, needs.ports)
        if not needs.dedicated:
            self.overhead = ZERO
        self.room -= 1
        self.uids.append(uid)


class Tier:
    """Nodes of equal preference, in the order of bin-packing."""

    __slots__ = ("_heap", "_places", "members")

    def __init__(self, members: list[Candidate]) -> None:
        self.members = members
        self._heap: list[tuple[int, int, Candidate]] | None = None
        self._places: dict[str, dict[str, list[Candidate]]] = {}

    def freest(self) -> Iterator[Candidate]:
        """The largest free share first. What is taken from the iterator must be put back, but for the last."""
        heap = self._heap
        if heap is None:
            heap = self._heap = [(-one.free_share, one.rank, one) for one in self.members]
            heapq.heapify(heap)
        while heap:
            key, rank, one = heap[0]
            now = -one.free_share
            if now != key:  # it has been filled since; shares only shrink, so it can only sink
                heapq.heapreplace(heap, (now, rank, one))
                continue
            yield one
            heapq.heappop(heap)

    def put_back(self, many: Iterable[Candidate]) -> None:
        if self._heap is not None:
            for one in many:
                heapq.heappush(self._heap, (-one.free_share, one.rank, one))

    def within(self, key: str, values: Iterable[str]) -> list[Candidate]:
        """The members where the label has one of these values."""
        places = self._places.get(key)
        if places is None:
            places = self._places[key] = {}
            for one in self.members:
                value = one.labels.get(key)
                if value is not None:
                    places.setdefault(value, []).append(one)
        return [one for value in values for one in places.get(value, ())]


Class = tuple[Any, ...]


class Index:
    """All candidates of a frame."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._order = sorted(candidates, key=_preference)
        for rank, one in enumerate(self._order):
            one.rank = rank
        self._by_name: dict[str, list[Candidate]] = {}
        for one in self._order:
            self._by_name.setdefault(one.node.name, []).append(one)
        self._by_value: dict[str, dict[str, list[Candidate]]] = {}
        self._classes: dict[tuple[str, ...], dict[Class, list[Candidate]]] = {}
        self._tiers: dict[tuple[int, ...], Tier] = {}

    def tiers(self, needs: Needs) -> tuple[list[Tier], int]:
        """The nodes that a pod's own rules allow, best first; and how many nodes had to be looked at."""
        keys = _keys(needs)
        few = self._few(needs)
        if few is not None:
            classes, work = _classes(sorted(few, key=_rank), keys), len(few)
        elif keys in self._classes:
            classes = self._classes[keys]
            work = len(classes)
        else:
            classes = self._classes[keys] = _classes(self._order, keys)
            work = len(self._order)
        ranked: dict[tuple[bool, bool, int], list[list[Candidate]]] = {}
        for (last_resort, gpu, *_), members in classes.items():
            first = members[0]
            if static_reason(needs, first.node, first.labels) is None:
                wasteful = gpu and not needs.amounts.gpus
                score = static_score(needs, first.node, first.labels)
                ranked.setdefault((last_resort, wasteful, -score), []).append(members)
        make = _tier if few is not None else self._shared
        return [make(ranked[key]) for key in sorted(ranked)], work

    def _shared(self, lists: list[list[Candidate]]) -> Tier:
        """One for all that have the same classes, which live as long as the index."""
        key = tuple(map(id, lists))
        tier = self._tiers.get(key)
        if tier is None:
            tier = self._tiers[key] = _tier(lists)
        return tier

    def _few(self, needs: Needs) -> Sequence[Candidate] | None:
        """The only nodes that come into question, if a name or one value of a label says so."""
        if needs.node or needs.volume_node:
            return self._by_name.get(needs.node or needs.volume_node, ())
        wanted: dict[str, tuple[str, ...]] = {key: (value,) for key, value in needs.selector}
        terms = needs.rules.node
        if terms is not None and len(terms) == 1:
            for one in terms[0].names:
                if one.operator == "In":
                    return [found for name in sorted(one.values) for found in self._by_name.get(name, ())]
            wanted |= {one.key: tuple(sorted(one.values)) for one in terms[0].labels if one.operator == "In"}
        best: list[Candidate] | None = None
        for key, values in wanted.items():
            places = self._values(key)
            found = [one for value in values for one in places.get(value, ())]
            if best is None or len(found) < len(best):
                best = found
        return best if best is not None and len(best) <= FEW else None

    def _values(self, key: str) -> dict[str, list[Candidate]]:
        places = self._by_value.get(key)
        if places is None:
            places = self._by_value[key] = {}
            for one in self._order:
                value = one.labels.get(key)
                if value is not None:
                    places.setdefault(value, []).append(one)
        return places


def _tier(lists: list[list[Candidate]]) -> Tier:
    if len(lists) == 1:
        return Tier(lists[0])
    return Tier(sorted((one for many in lists for one in many), key=_rank))


def _rank(one: Candidate) -> int:
    return one.rank


def _preference(one: Candidate) -> tuple[bool, bool, int, int, str]:
    return (one.last_resort, one.overhead != ZERO, one.free.cpus, one.free.mem, one.node.name)


def _keys(needs: Needs) -> tuple[str, ...]:
    """The labels that a pod's rules about nodes look at."""
    rules = needs.rules
    if (
        not needs.selector
        and rules.node is None
        and not rules.node_wishes
        and not (needs.node or needs.volume_node)
    ):
        return ()
    terms = [*(rules.node or ()), *(one.term for one in rules.node_wishes)]
    keys = {key for key, _ in needs.selector} | {one.key for term in terms for one in term.labels}
    if needs.node or needs.volume_node or any(term.names for term in terms):
        keys.add(NAME)
    return tuple(sorted(keys))


def _classes(members: Iterable[Candidate], keys: tuple[str, ...]) -> dict[Class, list[Candidate]]:
    found: dict[Class, list[Candidate]] = {}
    for one in members:
        node = one.node
        values: tuple[str | None, ...] = ()
        if keys:
            labels = one.labels
            values = tuple(node.name if key is NAME else labels.get(key) for key in keys)
        key = (one.last_resort, one.gpu, node.unschedulable, node.ready, node.taints, node.own, values)
        found.setdefault(key, []).append(one)
    return found


def static_score(needs: Needs, node: Node, labels: Mapping[str, str]) -> int:
    """0 to 500: the share of the wishes' weight that a node has, twice; few PreferNoSchedule taints, thrice."""
    unwanted = sum(
        one.effect == "PreferNoSchedule" and not tolerated(needs.tolerations, one) for one in taints(node)
    )
    score = 300 // (1 + unwanted)
    wishes = needs.rules.node_wishes
    whole = sum(one.weight for one in wishes)
    if whole:
        met = sum(one.weight for one in wishes if one.term.matches(node.name, labels))
        score += 200 * met // whole
    return score
