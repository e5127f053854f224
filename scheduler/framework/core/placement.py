"""Which pods go where, and why the others wait. All waiting pods against all offers at once, first come first served.

Filters are in `placement_filters`, the order of preference in `placement_index`. Not here: which offers exist, and
what is sent.

Pods with equal needs share one `_Group`. Within a frame resources only shrink, so a node that was too small for a
group is never looked at again for it; the cost is pods + groups x classes of nodes, not pods x nodes. Groups whose
rules are about other pods look at nodes one by one until `SAMPLE` of them would do and take the best of these, as
kube-scheduler does in large clusters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.framework.core.entities import Needs, Node
from scheduler.framework.core.placement_filters import NO_PORTS, Relations, static_reason, tolerates
from scheduler.framework.core.placement_index import Candidate, Index, Tier
from scheduler.framework.core.placement_rules import Labels
from scheduler.framework.core.placement_topology import Kind, Residents, Topology
from scheduler.framework.core.vectors import ZERO, has_ports

__all__ = [
    "Candidate",
    "Outcome",
    "Planner",
    "Topology",
    "Want",
    "all_nodes",
    "explain",
    "place",
    "tolerates",
]

SAMPLE = 24
"""Nodes that would do, among which the best is taken for a pod with rules about other pods."""


class Want(NamedTuple):
    """A waiting pod. Namespace and labels are what other pods' anti-affinity looks at."""

    uid: str
    needs: Needs
    namespace: str = ""
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """`unplaced` fit nowhere; `postponed` were not looked at, because the frame would have become too long."""

    unplaced: list[str] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)


def place(
    waiting: Iterable[Want],
    candidates: Sequence[Candidate],
    topology: Topology | None = None,
    *,
    strategy: str = "binpack",
    most_pods: int = 1 << 62,
    most_work: int = 1 << 62,
) -> Outcome:
    """Fills the candidates with pods. Stops after `most_pods` placed or `most_work` nodes looked at, not before one
    pod was tried. Without a topology, `candidates` are all the nodes there are."""
    if topology is None:
        topology = Topology({one.node.name: one.node for one in candidates}, Residents())
    rest = iter(waiting)
    outcome = Planner(candidates, strategy).run(rest, topology, most_pods=most_pods, most_work=most_work)
    outcome.postponed.extend(one.uid for one in rest)
    return outcome


class _Group:
    """Pods with equal needs, of which equal anti-affinity is true. `tiers`: nodes by falling preference."""

    __slots__ = (
        "at",
        "away",
        "cpus",
        "disk",
        "gpus",
        "mem",
        "needs",
        "ports",
        "relations",
        "stuck",
        "tier",
        "tiers",
    )

    def __init__(self, needs: Needs, relations: Relations | None, tiers: list[Tier]) -> None:
        self.needs = needs
        self.ports = needs.ports
        amounts = needs.amounts
        self.cpus, self.mem, self.disk, self.gpus = amounts.cpus, amounts.mem, amounts.disk, amounts.gpus
        self.relations = relations
        self.tiers = tiers
        self.tier = self.at = 0
        self.stuck = -1

    def fits(self, one: Candidate) -> bool:
        """Resources, ports and the number of pods."""
        free, extra = one.free, one.extra(self.needs)
        return (
            one.room > 0
            and free.cpus >= self.cpus + extra.cpus
            and free.mem >= self.mem + extra.mem
            and free.disk >= self.disk + extra.disk
            and free.gpus >= self.gpus + extra.gpus
            and (not self.ports or has_ports(one.ports, self.ports))
        )


class Planner:
    """The placements of a frame, or of several in a row in which nothing else changed what is offered."""

    def __init__(
        self, candidates: Sequence[Candidate], strategy: str = "binpack", topology: Topology | None = None
    ) -> None:
        """`topology`: counts that others have begun, with what they placed."""
        self.candidates = list(candidates)
        self.strategy = strategy
        self.work = 0
        self.topology = topology
        self.recent: dict[str, str] = {}
        """The nodes of the pods that the last run placed."""
        self._index = Index(candidates)
        self._groups: dict[tuple[Needs, tuple[int, ...]], _Group] = {}

    def run(
        self,
        waiting: Iterable[Want],
        topology: Topology,
        *,
        most_pods: int = 1 << 62,
        most_work: int = 1 << 62,
    ) -> Outcome:
        """Places pods until so many are placed or so many nodes were looked at, not before one pod was tried.

        The first pod that is not tried is the one of `postponed`; `waiting` is read no further.
        """
        outcome = Outcome()
        if topology is not self.topology:  # what was counted is no longer so
            self.topology = topology
            self._groups = {key: group for key, group in self._groups.items() if group.relations is None}
        self.recent = {}
        self.work = 0
        for want in waiting:
            if len(self.recent) >= most_pods or self.work >= most_work:
                outcome.postponed.append(want.uid)
                break
            if not self._place(want, topology):
                outcome.unplaced.append(want.uid)
        return outcome

    def go_on(self, spent: Collection[str] = ()) -> None:
        """For the next frame: what was used (or is `spent`, by agent id) was accepted, and is no longer offered."""
        left = []
        for one in self.candidates:
            if one.uids or one.agent_id in spent:
                one.room = 0
            else:
                left.append(one)
        self.candidates = left

    def _place(self, want: Want, topology: Topology) -> bool:
        group = self._group(want, topology)
        one = self._choose(group)
        if one is None:
            return False
        one.take(want.uid, group.needs)
        kind = Kind(want.namespace, want.labels, group.needs.rules.away)
        topology.placed(kind, one.node.name)
        self.recent[want.uid] = one.node.name
        return True

    def _group(self, want: Want, topology: Topology) -> _Group:
        guards = topology.guards_against(want.namespace, want.labels)
        key = (want.needs, tuple(map(id, guards)))
        group = self._groups.get(key)
        if group is None:
            needs = want.needs
            relations = None
            if guards or needs.rules.about_pods:
                relations = Relations(needs, guards, topology)
                self.work += len(topology.nodes) * len(needs.rules.spreads)
            tiers, work = self._index.tiers(needs)
            self.work += work
            group = self._groups[key] = _Group(needs, relations, tiers)
        return group

    def _choose(self, group: _Group) -> Candidate | None:
        relations = group.relations
        if relations is not None and not relations.plain:
            version = relations.version()
            if group.stuck == version:
                return None
            found = self._best(group, relations)
            if found is None:
                group.stuck = version
            return found
        spread = (group.needs.rules.strategy or self.strategy) == "spread"
        while group.tier < len(group.tiers):
            tier = group.tiers[group.tier]
            found = self._freest(group, tier, relations) if spread else self._first(group, tier, relations)
            if found is not None:
                return found
            group.tier, group.at = group.tier + 1, 0
        return None

    def _allowed(self, relations: Relations | None, one: Candidate) -> bool:
        return relations is None or relations.reason(one.labels) is None

    def _first(self, group: _Group, tier: Tier, relations: Relations | None) -> Candidate | None:
        """The first that fits; those before it never will again."""
        members, at = tier.members, group.at
        for position in range(at, len(members)):
            one = members[position]
            if group.fits(one) and self._allowed(relations, one):
                self.work += position - at + 1
                group.at = position
                return one
        self.work += len(members) - at
        return None

    def _freest(self, group: _Group, tier: Tier, relations: Relations | None) -> Candidate | None:
        """The one with the largest share free."""
        aside = []
        found = None
        for one in tier.freest():
            self.work += 1
            if group.fits(one) and self._allowed(relations, one):
                found = one
                break
            aside.append(one)
        tier.put_back(aside)
        return found

    def _best(self, group: _Group, relations: Relations) -> Candidate | None:
        """The best of the first few that would do, tier by tier."""
        for tier in group.tiers:
            members = self._near(relations, tier)
            count, start = len(members), group.at if relations.spreads or relations.soft else 0
            found: list[Candidate] = []
            for step in range(count):
                one = members[(start + step) % count]
                if group.fits(one) and relations.reason(one.labels) is None:
                    found.append(one)
                    if len(found) == SAMPLE:
                        self.work += step
                        group.at = (start + step) % count
                        break
            else:
                self.work += count
            if found:
                return self._highest(group, relations, found)
        return None

    def _near(self, relations: Relations, tier: Tier) -> list[Candidate]:
        """Of a tier, the nodes in a place that required affinity allows, if that says where."""
        for key, count in relations.near:
            places = [value for value, pods in count.values.items() if pods]
            if places:
                return tier.within(key, places)
        return tier.members

    def _highest(self, group: _Group, relations: Relations, found: list[Candidate]) -> Candidate:
        """Scores of 0 to 100 each: rules about pods and spreading count twice, as in kube-scheduler. All of a tier
        are alike in what the pod says of nodes."""
        spread = (group.needs.rules.strategy or self.strategy) == "spread"
        scores = [one.free_share // 20 if spread else 100 - one.free_share // 20 for one in found]
        for wanted in (_wishes(relations, found), _crowds(relations, found)):
            low, high = min(wanted), max(wanted)
            if high > low:
                scores = [
                    score + 200 * (one - low) // (high - low)
                    for score, one in zip(scores, wanted, strict=True)
                ]
        return found[scores.index(max(scores))]


def _wishes(relations: Relations, found: list[Candidate]) -> list[int]:
    """The weights of preferred terms, for each pod that is there."""
    totals = [0] * len(found)
    for wish, count in relations.wishes:
        for position, one in enumerate(found):
            value = one.labels.get(count.key)
            if value is not None:
                totals[position] += wish.weight * count.values.get(value, 0)
    return totals


def _crowds(relations: Relations, found: list[Candidate]) -> list[int]:
    """Pods that spread constraints count there, negative; a node outside the topology counts as the fullest."""
    totals = [0] * len(found)
    for _, count, _ in (*relations.soft, *relations.spreads):
        fullest = max(count.values.values(), default=0) + 1
        for position, one in enumerate(found):
            value = one.labels.get(count.key)
            totals[position] -= fullest if value is None else count.values.get(value, 0)
    return totals


# ---- why pods wait


def dynamic_reasons(needs: Needs, one: Candidate) -> list[str]:
    """What a node lacks now, in kube-scheduler's words."""
    if needs.ports and not has_ports(one.ports, needs.ports):
        return [NO_PORTS]
    asked = needs.amounts + one.extra(needs)
    lacking = (("cpu", "cpus"), ("memory", "mem"), ("ephemeral-storage", "disk"), ("nvidia.com/gpu", "gpus"))
    reasons = ["Too many pods"] if one.room <= 0 else []
    return reasons + [
        f"Insufficient {word}" for word, name in lacking if getattr(one.free, name) < getattr(asked, name)
    ]


def explain(want: Want, candidates: Sequence[Candidate], topology: Topology | None = None) -> str:
    """kube-scheduler's FitError: `0/3 nodes are available: 2 Insufficient cpu, 1 Too many pods.`"""
    if not candidates:
        return "no nodes available to schedule pods"
    if topology is None:
        topology = Topology({one.node.name: one.node for one in candidates}, Residents())
    needs = want.needs
    relations = Relations(needs, topology.guards_against(want.namespace, want.labels), topology)
    counts: dict[str, int] = {}
    for one in candidates:
        static = static_reason(needs, one.node, one.labels)
        reasons = [static] if static else dynamic_reasons(needs, one)
        if not reasons:
            related = relations.reason(one.labels)
            reasons = [related] if related else []
        for reason in reasons:
            counts[reason] = counts.get(reason, 0) + 1
    head = f"0/{len(candidates)} nodes are available"
    if not counts:
        return f"{head}: waiting for the next offers."
    return f"{head}: {', '.join(sorted(f'{count} {reason}' for reason, count in counts.items()))}."


def all_nodes(nodes: Mapping[str, Node], offered: Mapping[str, Candidate]) -> list[Candidate]:
    """Every known node, with nothing free where nothing is offered."""
    return [offered.get(name) or Candidate("", node, ZERO, room=1) for name, node in sorted(nodes.items())]
