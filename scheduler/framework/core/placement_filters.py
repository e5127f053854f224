"""Whether a pod may go to a node, and if not why: one function a plugin of kube-scheduler, in its words.

People search for those sentences, so they are kept to the letter (`pkg/scheduler/framework/plugins`). A node's reasons
are those of the first plugin that refuses it. Not here: which of the nodes that pass is taken (`placement`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from scheduler.framework.core.entities import Needs, Node, Taint, Toleration
from scheduler.framework.core.placement_rules import Spread
from scheduler.framework.core.placement_topology import Count, Topology

UNSCHEDULABLE: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
UNREACHABLE: Final = Taint("node.kubernetes.io/unreachable", "", "NoSchedule")

NOT_NEAR: Final = "node(s) didn't match pod affinity rules"
NOT_AWAY: Final = "node(s) didn't match pod anti-affinity rules"
GUARDED: Final = "node(s) didn't satisfy existing pods anti-affinity rules"
SKEWED: Final = "node(s) didn't match pod topology spread constraints"
NO_TOPOLOGY: Final = f"{SKEWED} (missing required label)"
NO_PORTS: Final = "node(s) didn't have free ports for the requested pod ports"
NO_MATCH: Final = "node(s) didn't match Pod's node affinity/selector"
NO_VOLUME: Final = "node(s) had volume node affinity conflict"


def static_reason(needs: Needs, node: Node, labels: Mapping[str, str]) -> str | None:
    """Why a pod can never run on a node as it is; None when it can. Order as in kube-scheduler.

    A pod whose user named the node goes past the scheduler, as in Kubernetes: cordon and NoSchedule do not hold it.
    """
    named = bool(needs.node)
    if node.unschedulable and not named and not tolerated(needs.tolerations, UNSCHEDULABLE):
        return "node(s) were unschedulable"
    if named and needs.node != node.name:
        return "node(s) didn't match the requested node name"
    for taint in taints(node):
        hard = taint.effect == "NoExecute" or (
            taint.effect == "NoSchedule" and not (named and taint in node.taints)
        )
        if hard and not tolerated(needs.tolerations, taint):
            return f"node(s) had untolerated taint {{{taint}}}"
    if not selected(needs, node.name, labels):
        return NO_MATCH
    return NO_VOLUME if needs.volume_node not in ("", node.name) else None


def selected(needs: Needs, name: str, labels: Mapping[str, str]) -> bool:
    """nodeSelector and required node affinity."""
    if any(labels.get(key) != value for key, value in needs.selector):
        return False
    terms = needs.rules.node
    return terms is None or any(one.matches(name, labels) for one in terms)


def taints(node: Node) -> tuple[Taint, ...]:
    """The user's taints, ours, and the one of a node that is gone (as the node lifecycle controller sets it)."""
    if node.ready:
        return (*node.taints, *node.own)
    return (*node.taints, *node.own, UNREACHABLE)


def tolerated(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(tolerates(one, taint) for one in tolerations)


def tolerates(one: Toleration, taint: Taint) -> bool:
    """v1 Toleration.ToleratesTaint (`pkg/apis/core/v1/toleration.go`)."""
    if one.effect and one.effect != taint.effect:
        return False
    if one.key and one.key != taint.key:
        return False
    return one.operator == "Exists" or (bool(one.key) and one.value == taint.value)


class Relations:
    """What a pod's rules about other pods mean in this frame: the rules with their counts."""

    __slots__ = ("_alone", "away", "guards", "near", "soft", "spreads", "wishes")

    def __init__(self, needs: Needs, guards: tuple[Count, ...], topology: Topology) -> None:
        """`guards`: places whose pods do not want this one there."""
        rules = needs.rules
        self.guards = guards
        self.near = [(term.key, topology.count(rules.near, term.key)) for term in rules.near]
        self.away = [(term.key, topology.count((term,), term.key)) for term in rules.away]
        self.wishes = [(one, topology.count((one.term,), one.term.key)) for one in rules.pod_wishes]
        held = dict(rules.labels)
        self._alone = all(one.matches(rules.namespace, held) for one in rules.near)
        """The pod itself is what it wants to be near to: the first of its kind goes anywhere."""
        self.spreads = _spreads(needs, topology, hard=True)
        self.soft = _spreads(needs, topology, hard=False)

    @property
    def monotone(self) -> bool:
        """A node that is refused stays refused for the rest of the frame."""
        return not self.near and not self.spreads

    @property
    def plain(self) -> bool:
        """Nothing about other pods needs to be looked at to choose."""
        return self.monotone and not self.wishes and not self.soft

    def version(self) -> int:
        """Changes whenever a refused node might be acceptable."""
        return sum(one.version for _, one in self.near) + sum(one.version for _, one, _ in self.spreads)

    def reason(self, labels: Mapping[str, str]) -> str | None:
        return self._spread_reason(labels) or self._pods_reason(labels)

    def _spread_reason(self, labels: Mapping[str, str]) -> str | None:
        for rule, count, mine in self.spreads:
            value = labels.get(count.key)
            if value is None:
                return NO_TOPOLOGY
            least = count.least if len(count.values) >= rule.min_domains else 0
            if count.values.get(value, 0) + mine - least > rule.skew:
                return SKEWED
        return None

    def _pods_reason(self, labels: Mapping[str, str]) -> str | None:
        if any(key not in labels for key, _ in self.near):
            return NOT_NEAR
        if any(not count.values.get(labels[key]) for key, count in self.near):
            first = self._alone and not any(any(count.values.values()) for _, count in self.near)
            if not first:
                return NOT_NEAR
        if any(key in labels and count.values.get(labels[key]) for key, count in self.away):
            return NOT_AWAY
        if any(one.key in labels and one.values.get(labels[one.key]) for one in self.guards):
            return GUARDED
        return None


def _spreads(needs: Needs, topology: Topology, *, hard: bool) -> list[tuple[Spread, Count, int]]:
    """Constraints, their counts, and whether (1 or 0) the pod counts itself."""
    rules = [one for one in needs.rules.spreads if one.hard is hard]
    keys = tuple(one.term.key for one in rules)
    held = dict(needs.rules.labels)
    return [
        (
            one,
            topology.spread_count(one.term, _counted_nodes(needs, one, keys if hard else (), topology)),
            int(one.term.matches(needs.rules.namespace, held)),
        )
        for one in rules
    ]


def _counted_nodes(needs: Needs, rule: Spread, keys: tuple[str, ...], topology: Topology) -> dict[str, str]:
    """The place of each node that a constraint looks at: those with all topology keys, that its policies leave."""
    about_nodes = (needs.selector, needs.rules.node) if rule.affinity else ()
    facts = (rule.term.key, keys, about_nodes, needs.tolerations if rule.taints else None)
    known = topology.counted_nodes.get(facts)
    if known is not None:
        return known
    found = topology.counted_nodes[facts] = {}
    for node in topology.nodes.values():
        labels = topology.labels(node.name)
        value = labels.get(rule.term.key)
        if value is None or any(key not in labels for key in keys):
            continue
        if rule.affinity and not selected(needs, node.name, labels):
            continue
        if rule.taints and any(
            one.effect != "PreferNoSchedule" and not tolerated(needs.tolerations, one) for one in taints(node)
        ):
            continue
        found[node.name] = value
    return found
