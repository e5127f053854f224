"""Which pods go where, and why the others wait. All waiting pods against all offers at once.

Filters and their wording are kube-scheduler's (`pkg/scheduler/framework/plugins`), because people search for those
sentences. Bin-packing: an agent that runs our executor first, then the fullest. Not here: which offers exist, and
what is sent.

Pods with equal needs share one list of candidates. Within a frame resources only shrink, so a candidate that was
too small once is dropped from that list: the cost is pods + needs x agents, not pods x agents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.framework.core.state import Needs, Node, Taint, Toleration
from scheduler.framework.core.vectors import ZERO, Ranges, Vector, has_ports, without_ports

UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


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
    room: int = 0
    """How many more pods the node may have."""
    last_resort: bool = False
    """Maintenance is planned: only if nothing else fits."""
    uids: list[str] = field(default_factory=list)

    def cost(self, needs: Needs) -> Vector:
        """What such a pod takes of the offers, its executor included where it is the first."""
        return needs.amounts + (self.instance if needs.dedicated else self.overhead)

    def take(self, uid: str, needs: Needs) -> None:
        self.free = self.free - self.cost(needs)
        self.ports = without_ports(self.ports, needs.ports)
        if not needs.dedicated:
            self.overhead = ZERO
        self.room -= 1
        self.uids.append(uid)


def place(waiting: Iterable[tuple[str, Needs]], candidates: Sequence[Candidate]) -> list[str]:
    """Fills the candidates with pods, first come first served; returns the uids that fit nowhere."""
    lists: dict[Needs, list[Candidate]] = {}
    unplaced: list[str] = []
    for uid, needs in waiting:
        fitting = lists.get(needs)
        if fitting is None:
            fitting = lists[needs] = sorted(
                (one for one in candidates if static_reason(needs, one.node) is None), key=_preference
            )
            fitting.reverse()  # the best last: it is popped when it no longer fits
        while fitting and dynamic_reasons(needs, fitting[-1]):
            fitting.pop()
        if fitting:
            fitting[-1].take(uid, needs)
        else:
            unplaced.append(uid)
    return unplaced


def _preference(one: Candidate) -> tuple[bool, bool, int, int, str]:
    return (one.last_resort, one.overhead != ZERO, one.free.cpus, one.free.mem, one.node.name)


def static_reason(needs: Needs, node: Node) -> str | None:
    """Why a pod can never run on a node as it is; None when it can. Order as in kube-scheduler."""
    if node.unschedulable and not _tolerates(needs.tolerations, UNSCHEDULABLE):
        return "node(s) were unschedulable"
    if needs.node and needs.node != node.name:
        return "node(s) didn't match the requested node name"
    for taint in taints(node):
        if taint.effect in {"NoSchedule", "NoExecute"} and not _tolerates(needs.tolerations, taint):
            return f"node(s) had untolerated taint {{{taint}}}"
    labels = dict(node.labels)
    if any(labels.get(key) != value for key, value in needs.selector):
        return "node(s) didn't match Pod's node affinity/selector"
    return None


def dynamic_reasons(needs: Needs, one: Candidate) -> list[str]:
    """What a node lacks now, in kube-scheduler's words."""
    asked = one.cost(needs)
    reasons = []
    if one.room <= 0:
        reasons.append("Too many pods")
    if needs.ports and not has_ports(one.ports, needs.ports):
        reasons.append("node(s) didn't have free ports for the requested pod ports")
    if not one.free.covers(asked):
        lacking = (("cpu", "cpus"), ("memory", "mem"), ("ephemeral-storage", "disk"))
        reasons += [
            f"Insufficient {word}" for word, name in lacking if getattr(one.free, name) < getattr(asked, name)
        ]
    return reasons


def taints(node: Node) -> tuple[Taint, ...]:
    """The user's taints, and the one of a node that is gone (as the node lifecycle controller sets it)."""
    if node.ready:
        return (*node.taints, *node.own)
    return (*node.taints, *node.own, Taint("node.kubernetes.io/unreachable", "", "NoSchedule"))


def _tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(tolerates(one, taint) for one in tolerations)


def tolerates(one: Toleration, taint: Taint) -> bool:
    """v1 Toleration.ToleratesTaint (`pkg/apis/core/v1/toleration.go`)."""
    if one.effect and one.effect != taint.effect:
        return False
    if one.key and one.key != taint.key:
        return False
    return one.operator == "Exists" or (bool(one.key) and one.value == taint.value)


def explain(needs: Needs, candidates: Sequence[Candidate]) -> str:
    """kube-scheduler's FitError: `0/3 nodes are available: 2 Insufficient cpu, 1 Too many pods.`"""
    if not candidates:
        return "no nodes available to schedule pods"
    counts: dict[str, int] = {}
    for one in candidates:
        static = static_reason(needs, one.node)
        for reason in [static] if static else dynamic_reasons(needs, one):
            counts[reason] = counts.get(reason, 0) + 1
    head = f"0/{len(candidates)} nodes are available"
    if not counts:
        return f"{head}: waiting for the next offers."
    return f"{head}: {', '.join(sorted(f'{count} {reason}' for reason, count in counts.items()))}."


def all_nodes(nodes: Mapping[str, Node], offered: Mapping[str, Candidate]) -> list[Candidate]:
    """Every known node, with nothing free where nothing is offered."""
    return [offered.get(name) or Candidate("", node, ZERO, room=1) for name, node in sorted(nodes.items())]
