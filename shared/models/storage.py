"""core/v1 PersistentVolume and PersistentVolumeClaim, storage.k8s.io/v1 StorageClass.

Of the many sources of a PersistentVolume only `csi` is here: Gantry alone makes volumes, and of that kind.
"""

from __future__ import annotations

from typing import ClassVar

from shared.models.base import KubeModel, Quantity, Time, doc
from shared.models.meta import ObjectMeta
from shared.models.references import ObjectReference
from shared.models.scheduling import NodeSelector
from shared.models.volumes import PersistentVolumeClaimSpec


class PersistentVolumeClaimCondition(KubeModel):
    """One thing that is or is not so."""

    last_probe_time: Time | None = doc("When it was looked at last.")
    last_transition_time: Time | None = doc("When it last changed.")
    message: str | None = doc("Text for people.")
    reason: str | None = doc("Word for machines.")
    status: str | None = doc("True, False or Unknown.", required=True)
    type: str | None = doc("Type of the condition.", required=True)


class PersistentVolumeClaimStatus(KubeModel):
    """What is known of a claim."""

    access_modes: list[str] | None = doc("How its volume may be used.")
    capacity: dict[str, Quantity] | None = doc("How much its volume holds.")
    conditions: list[PersistentVolumeClaimCondition] | None = doc(
        "What is so and what not.", merge_key="type"
    )
    phase: str | None = doc("Pending, Bound or Lost.")


class PersistentVolumeClaim(KubeModel):
    """A request for storage that outlives pods."""

    api_version: str | None = doc("v1.")
    kind: str | None = doc("PersistentVolumeClaim.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    spec: PersistentVolumeClaimSpec | None = doc("What it asks for.")
    status: PersistentVolumeClaimStatus | None = doc("What is known of it.")


class CSIPersistentVolumeSource(KubeModel):
    """A volume of a driver."""

    driver: str | None = doc("gantry.io/mesos-disk.", required=True)
    read_only: bool | None = doc("Mounted read-only.")
    volume_attributes: dict[str, str] | None = doc("Where it is: the agent, and how much of its disk.")
    volume_handle: str | None = doc("The persistence id of the Mesos volume.", required=True)


class VolumeNodeAffinity(KubeModel):
    """From which nodes a volume can be reached."""

    required: NodeSelector | None = doc("Those it can be reached from.")


class PersistentVolumeSpec(KubeModel):
    """What a volume is."""

    access_modes: list[str] | None = doc("How it may be used.")
    capacity: dict[str, Quantity] | None = doc("How much it holds.")
    claim_ref: ObjectReference | None = doc("The claim it is for.")
    csi: CSIPersistentVolumeSource | None = doc("What provides it.")
    node_affinity: VolumeNodeAffinity | None = doc("The node it is on.")
    persistent_volume_reclaim_policy: str | None = doc("Delete: it goes with its claim.")
    storage_class_name: str | None = doc("mesos-disk.")
    volume_mode: str | None = doc("Filesystem.")


class PersistentVolumeStatus(KubeModel):
    """What is known of a volume."""

    last_phase_transition_time: Time | None = doc("When the phase last changed.")
    message: str | None = doc("Text for people.")
    phase: str | None = doc("Pending, Bound, Released or Failed.")
    reason: str | None = doc("Word for machines.")


class PersistentVolume(KubeModel):
    """A persistent volume of a Mesos agent."""

    api_version: str | None = doc("v1.")
    kind: str | None = doc("PersistentVolume.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    spec: PersistentVolumeSpec | None = doc("What it is.")
    status: PersistentVolumeStatus | None = doc("What is known of it.")


class StorageClass(KubeModel):
    """A kind of storage that claims can ask for."""

    schema_prefix: ClassVar[str] = "io.k8s.api.storage.v1"

    allow_volume_expansion: bool | None = doc("Whether claims may grow.")
    api_version: str | None = doc("storage.k8s.io/v1.")
    kind: str | None = doc("StorageClass.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    mount_options: list[str] | None = doc("Options of the mount.")
    parameters: dict[str, str] | None = doc("For the provisioner.")
    provisioner: str | None = doc("Who makes its volumes.", required=True)
    reclaim_policy: str | None = doc("Delete: a volume goes with its claim.")
    volume_binding_mode: str | None = doc("WaitForFirstConsumer: made where the first pod goes.")
