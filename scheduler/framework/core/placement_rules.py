"""What a pod says about where it wants to run, and how each rule is read. Data and predicates only.

The meaning is kube-scheduler's (`pkg/scheduler/framework/plugins/{nodeaffinity,interpodaffinity,podtopologyspread}`).
Not here: parsing (`placement_terms`), counting pods (`placement_topology`), choosing (`placement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.models.selectors import LabelRequirement, LabelSelector

Labels = tuple[tuple[str, str], ...]
NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that every namespace has; the only one a namespaceSelector may ask for here."""


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """Requirements on a node's labels and on its name (field metadata.name), which must all hold."""

    labels: tuple[LabelRequirement, ...] = ()
    names: tuple[LabelRequirement, ...] = ()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """An empty term matches nothing, as in Kubernetes."""
        if not self.labels and not self.names:
            return False
        named = {"metadata.name": name}
        return all(one.matches(labels) for one in self.labels) and all(
            one.matches(named) for one in self.names
        )


@dataclass(frozen=True, slots=True)
class NodeWish:
    """A preferred node term; weight 1 to 100."""

    weight: int
    term: NodeTerm


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A set of pods, and the node label `key` whose value makes two nodes the same place.

    `selector` None matches no pod; `namespaces` None: all of them, else those listed or those `spaces` selects by name.
    """

    key: str
    selector: LabelSelector | None
    namespaces: frozenset[str] | None = None
    spaces: LabelSelector | None = None

    def matches(self, namespace: str, labels: Mapping[str, str]) -> bool:
        if self.selector is None or not self.selector.matches(labels):
            return False
        if self.namespaces is None or namespace in self.namespaces:
            return True
        return self.spaces is not None and self.spaces.matches({NAMESPACE_NAME: namespace})


@dataclass(frozen=True, slots=True)
class PodWish:
    """A preferred pod term; weight 1 to 100, negative to stay away."""

    weight: int
    term: PodTerm


@dataclass(frozen=True, slots=True)
class Spread:
    """A topologySpreadConstraint. `hard`: DoNotSchedule. `affinity`, `taints`: the node policies are Honor."""

    term: PodTerm
    skew: int
    hard: bool = True
    min_domains: int = 1
    affinity: bool = True
    taints: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a pod. `node` None: any node; `namespace` and `labels` are set only where a rule may mean the pod
    itself, so that pods without such rules stay interchangeable."""

    node: tuple[NodeTerm, ...] | None = None
    node_wishes: tuple[NodeWish, ...] = ()
    near: tuple[PodTerm, ...] = ()
    away: tuple[PodTerm, ...] = ()
    pod_wishes: tuple[PodWish, ...] = ()
    spreads: tuple[Spread, ...] = ()
    namespace: str = ""
    labels: Labels = ()
    strategy: str = ""
    """binpack or spread; "" for what the scheduler was started with."""

    @property
    def about_pods(self) -> bool:
        """Where other pods run matters to this one."""
        return bool(self.near or self.away or self.pod_wishes or self.spreads)


NO_RULES: Final = Rules()
