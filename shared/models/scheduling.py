"""core/v1 types that say where a pod may run."""

from __future__ import annotations

from shared.models.base import Int32, Int64, KubeModel, doc
from shared.models.meta import LabelSelector


class NodeSelectorRequirement(KubeModel):
    """One term about a node."""

    key: str | None = doc("The label or field.", required=True)
    operator: str | None = doc("In, NotIn, Exists, DoesNotExist, Gt or Lt.", required=True)
    values: list[str] | None = doc("The values; one integer for Gt and Lt.")


class NodeSelectorTerm(KubeModel):
    """Requirements that must all hold; an empty term matches nothing."""

    match_expressions: list[NodeSelectorRequirement] | None = doc("About labels.")
    match_fields: list[NodeSelectorRequirement] | None = doc("About fields; only metadata.name.")


class NodeSelector(KubeModel):
    """Terms of which one must hold."""

    node_selector_terms: list[NodeSelectorTerm] | None = doc("The terms.", required=True)


class PreferredSchedulingTerm(KubeModel):
    """A wish with a weight."""

    preference: NodeSelectorTerm | None = doc("The wish.", required=True)
    weight: Int32 | None = doc("1 to 100.", required=True)


class NodeAffinity(KubeModel):
    """Which nodes a pod must or would like to be on."""

    preferred_during_scheduling_ignored_during_execution: list[PreferredSchedulingTerm] | None = doc(
        "Wishes."
    )
    required_during_scheduling_ignored_during_execution: NodeSelector | None = doc("What must hold.")


class PodAffinityTerm(KubeModel):
    """A set of pods and the kind of place that is shared with them."""

    label_selector: LabelSelector | None = doc("The pods.")
    match_label_keys: list[str] | None = doc("Labels of this pod that the others must share.")
    mismatch_label_keys: list[str] | None = doc("Labels of this pod that the others must not share.")
    namespace_selector: LabelSelector | None = doc("Namespaces the pods are in, by label.")
    namespaces: list[str] | None = doc("Namespaces the pods are in, by name.")
    topology_key: str | None = doc("The node label whose value makes a place.", required=True)


class WeightedPodAffinityTerm(KubeModel):
    """A wish with a weight."""

    pod_affinity_term: PodAffinityTerm | None = doc("The wish.", required=True)
    weight: Int32 | None = doc("1 to 100.", required=True)


class PodAffinity(KubeModel):
    """Which pods a pod must or would like to be near."""

    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] | None = doc(
        "Wishes."
    )
    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = doc("What must hold.")


class PodAntiAffinity(KubeModel):
    """Which pods a pod must not or would rather not be near."""

    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] | None = doc(
        "Wishes."
    )
    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = doc("What must hold.")


class Affinity(KubeModel):
    """Rules about the place of a pod."""

    node_affinity: NodeAffinity | None = doc("Rules about nodes.")
    pod_affinity: PodAffinity | None = doc("Rules about pods to be near.")
    pod_anti_affinity: PodAntiAffinity | None = doc("Rules about pods to be away from.")


class Toleration(KubeModel):
    """Taints that a pod can live with."""

    effect: str | None = doc("NoSchedule, PreferNoSchedule or NoExecute; empty for all.")
    key: str | None = doc("Key of the taint; empty with Exists for all.")
    operator: str | None = doc("Equal (default) or Exists.")
    toleration_seconds: Int64 | None = doc("How long NoExecute is tolerated; forever unless given.")
    value: str | None = doc("Value of the taint, for Equal.")


class TopologySpreadConstraint(KubeModel):
    """How evenly matching pods are spread."""

    label_selector: LabelSelector | None = doc("The pods that are counted.")
    match_label_keys: list[str] | None = doc("Labels of this pod that the counted ones must share.")
    max_skew: Int32 | None = doc("How uneven it may be.", required=True)
    min_domains: Int32 | None = doc("How many places there must be.")
    node_affinity_policy: str | None = doc("Honor (default) or Ignore the pod's node rules when counting.")
    node_taints_policy: str | None = doc("Honor or Ignore (default) taints when counting.")
    topology_key: str | None = doc("The node label whose value makes a place.", required=True)
    when_unsatisfiable: str | None = doc("DoNotSchedule or ScheduleAnyway.", required=True)
