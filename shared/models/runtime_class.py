"""node.k8s.io/v1 RuntimeClass: how the containers of a pod are isolated, and what that takes."""

from __future__ import annotations

from typing import ClassVar

from shared.models.base import KubeModel, Quantity, doc
from shared.models.meta import ObjectMeta
from shared.models.scheduling import Toleration


class Overhead(KubeModel):
    """What a pod of the class takes besides its containers."""

    schema_prefix: ClassVar[str] = "io.k8s.api.node.v1"

    pod_fixed: dict[str, Quantity] | None = doc("Resources that running a pod takes.")


class Scheduling(KubeModel):
    """Which nodes can run pods of the class."""

    schema_prefix: ClassVar[str] = "io.k8s.api.node.v1"

    node_selector: dict[str, str] | None = doc("Labels those nodes have; added to the pod's nodeSelector.")
    tolerations: list[Toleration] | None = doc("Taints of those nodes; added to the pod's tolerations.")


class RuntimeClass(KubeModel):
    """A way to isolate containers: for Gantry, a stage1 flavor."""

    schema_prefix: ClassVar[str] = "io.k8s.api.node.v1"

    api_version: str | None = doc("node.k8s.io/v1.")
    handler: str | None = doc("The stage1 flavor that runs its pods: linux, fly.", required=True)
    kind: str | None = doc("RuntimeClass.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    overhead: Overhead | None = doc("What a pod takes besides its containers.")
    scheduling: Scheduling | None = doc("Which nodes can run its pods.")
