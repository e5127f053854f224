"""Which pods run where, and how many of them each place (a value of a node label) has.

`Residents` is kept over frames: pods of one namespace with equal labels and equal anti-affinity are one kind, so a
selector is tried once a kind, not once a pod. `Topology` is one frame's view: a count is made when a rule first asks
for it and then follows every placement of the frame. Not here: what the counts mean for a node (`placement_filters`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.framework.core.entities import Node
from scheduler.framework.core.placement_rules import Labels, PodTerm


class Kind(NamedTuple):
    """All that other pods' rules can see of a pod. `away`: its required anti-affinity, which binds others too."""

    namespace: str
    labels: Labels = ()
    away: tuple[PodTerm, ...] = ()
    leaving: bool = False
    """It is being deleted: spread constraints no longer count it."""


Look = Callable[[str], tuple[Kind, tuple[str, ...]] | None]
"""uid -> the pod's kind and the nodes its tasks are on; None when it is nowhere."""


@dataclass(slots=True)
class Residents:
    """Nodes of all bound pods by kind. `dirty`: uids of which something changed since the last `refresh`."""

    dirty: set[str] = field(default_factory=set)
    where: dict[Kind, Counter[str]] = field(default_factory=dict)
    _known: dict[str, tuple[Kind, tuple[str, ...]]] = field(default_factory=dict)

    def refresh(self, look: Look) -> set[str]:
        """Takes up what changed, and returns which pods did: the cost is that of the changes."""
        changed = set()
        for uid in self.dirty:
            new, old = look(uid), self._known.get(uid)
            if new == old:
                continue
            changed.add(uid)
            if old is not None:
                self._leave(*old)
            if new is None:
                self._known.pop(uid, None)
                continue
            kind = self._known[uid] = new
            self.where.setdefault(kind[0], Counter()).update(kind[1])
        self.dirty.clear()
        return changed

    def nodes_of(self, uid: str) -> tuple[str, ...]:
        known = self._known.get(uid)
        return known[1] if known else ()

    def _leave(self, kind: Kind, nodes: tuple[str, ...]) -> None:
        here = self.where[kind]
        here.subtract(nodes)
        for node in nodes:
            if here[node] <= 0:
                del here[node]
        if not here:
            del self.where[kind]

    def guards(self) -> set[PodTerm]:
        """The anti-affinity of pods that run."""
        return {term for kind in self.where for term in kind.away}


class Count:
    """Pods that match all `terms`, by the value of label `key`; only those on `nodes`, if given."""

    __slots__ = ("_levels", "key", "least", "living", "nodes", "terms", "values", "version")

    def __init__(
        self,
        terms: tuple[PodTerm, ...],
        key: str,
        *,
        living: bool = False,
        nodes: Mapping[str, str] | None = None,
    ) -> None:
        """`nodes`: the places that exist, as the value of `key` by node name; `living`: not pods being deleted."""
        self.terms, self.key, self.living, self.nodes = terms, key, living, nodes
        self.values: dict[str, int] = dict.fromkeys((nodes or {}).values(), 0)
        self._levels: Counter[int] = Counter({0: len(self.values)})
        self.least = 0
        """The smallest count of any place that exists (of use only with `nodes`)."""
        self.version = 0
        """Changes whenever a count does."""

    def matches(self, kind: Kind) -> bool:
        if self.living and kind.leaving:
            return False
        labels = dict(kind.labels)
        return bool(self.terms) and all(one.matches(kind.namespace, labels) for one in self.terms)

    def add(self, node: str, value: str | None, pods: int = 1) -> None:
        if value is None or (self.nodes is not None and node not in self.nodes):
            return
        before = self.values.get(value, 0)
        self.values[value] = before + pods
        self.version += 1
        if self.nodes is not None:
            self._levels[before] -= 1
            self._levels[before + pods] += 1
            while not self._levels[self.least]:
                self.least += 1


class Topology:
    """Counts by place, of the pods that run and of those placed in this frame."""

    def __init__(self, nodes: Mapping[str, Node], residents: Residents, stamp: object = None) -> None:
        """`stamp`: which state of the nodes this is."""
        self.nodes = nodes
        self.stamp = stamp
        self._residents = residents
        self._labels: dict[str, dict[str, str]] = {}
        self._counts: list[Count] = []
        self._known: dict[tuple[tuple[PodTerm, ...], str, bool], Count] = {}
        self._matching: dict[Kind, list[Count]] = {}
        self._against: dict[tuple[str, Labels], tuple[Count, ...]] = {}
        self.counted_nodes: dict[object, dict[str, str]] = {}
        """The nodes that spread constraints look at, by all that decides about it."""
        self.guards: dict[PodTerm, Count] = {}
        """Places that a pod with this anti-affinity is in: pods the term matches may not be there."""
        self._log: list[tuple[Kind, str]] = []
        """What this frame placed, for counts that are asked for later."""
        for kind, where in residents.where.items():
            if kind.away:
                self._guard(kind, where)

    def labels(self, node: str) -> dict[str, str]:
        """Of a node; empty for one that is gone."""
        found = self._labels.get(node)
        if found is None:
            known = self.nodes.get(node)
            found = self._labels[node] = dict(known.labels) if known else {}
        return found

    def count(self, terms: tuple[PodTerm, ...], key: str) -> Count:
        """Shared by all who ask for the same."""
        found = self._known.get((terms, key, False))
        if found is None:
            found = self._known[terms, key, False] = Count(terms, key)
            self._fill(found)
        return found

    def spread_count(self, term: PodTerm, nodes: Mapping[str, str]) -> Count:
        """Of the pods that a spread constraint counts, on the nodes it counts them on."""
        made = Count((term,), term.key, living=True, nodes=nodes)
        self._fill(made)
        return made

    def _fill(self, count: Count) -> None:
        for kind, where in self._residents.where.items():
            if count.matches(kind):
                for node, pods in where.items():
                    count.add(node, self.labels(node).get(count.key), pods)
        matching: dict[Kind, bool] = {}
        for kind, node in self._log:
            if kind not in matching:
                matching[kind] = count.matches(kind)
            if matching[kind]:
                count.add(node, self.labels(node).get(count.key))
        self._counts.append(count)
        for kind, counts in self._matching.items():
            if count.matches(kind):
                counts.append(count)

    def _guard(self, kind: Kind, where: Mapping[str, int]) -> None:
        for term in kind.away:
            guard = self.guards.get(term)
            if guard is None:
                guard = self.guards[term] = Count((), term.key)
                self._against.clear()
            for node in where:
                guard.add(node, self.labels(node).get(term.key))

    def guards_against(self, namespace: str, labels: Labels) -> tuple[Count, ...]:
        """Whose anti-affinity means this pod."""
        if not self.guards:
            return ()
        found = self._against.get((namespace, labels))
        if found is None:
            held = dict(labels)
            found = tuple(count for term, count in self.guards.items() if term.matches(namespace, held))
            self._against[namespace, labels] = found
        return found

    def placed(self, kind: Kind, node: str) -> None:
        """A pod was placed in this frame."""
        self._log.append((kind, node))
        matching = self._matching.get(kind)
        if matching is None:
            matching = self._matching[kind] = [one for one in self._counts if one.matches(kind)]
        labels = self.labels(node)
        for count in matching:
            count.add(node, labels.get(count.key))
        if kind.away:
            self._guard(kind, {node: 1})
