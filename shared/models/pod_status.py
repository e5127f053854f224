"""core/v1 PodStatus: what is, written by Gantry."""

from __future__ import annotations

from shared.models.base import Int32, Int64, KubeModel, Quantity, Time, doc
from shared.models.container import ResourceRequirements


class PodCondition(KubeModel):
    """One thing that is or is not so."""

    last_probe_time: Time | None = doc("When it was last looked at.")
    last_transition_time: Time | None = doc("When it last changed.")
    message: str | None = doc("Text for people.")
    reason: str | None = doc("Word for machines.")
    status: str | None = doc("True, False or Unknown.", required=True)
    type: str | None = doc("PodScheduled, Initialized, ContainersReady, Ready or others.", required=True)


class ContainerStateRunning(KubeModel):
    """It runs."""

    started_at: Time | None = doc("Since when.")


class ContainerStateTerminated(KubeModel):
    """It has ended."""

    container_id: str | None = doc("ID of the instance.", alias="containerID")
    exit_code: Int32 | None = doc("Its exit code.", required=True)
    finished_at: Time | None = doc("When it ended.")
    message: str | None = doc("What it, or we, say about it.")
    reason: str | None = doc("Completed, Error, OOMKilled or others.")
    signal: Int32 | None = doc("The signal that ended it.")
    started_at: Time | None = doc("When it was started.")


class ContainerStateWaiting(KubeModel):
    """It does not run yet."""

    message: str | None = doc("Text for people.")
    reason: str | None = doc("ContainerCreating, CrashLoopBackOff, ErrImagePull or others.")


class ContainerState(KubeModel):
    """Waiting, running or terminated; exactly one is set."""

    running: ContainerStateRunning | None = doc("It runs.")
    terminated: ContainerStateTerminated | None = doc("It has ended.")
    waiting: ContainerStateWaiting | None = doc("It does not run yet.")


class ResourceHealth(KubeModel):
    """Health of a device."""

    health: str | None = doc("Healthy, Unhealthy or Unknown.")
    resource_id: str | None = doc("ID of the device.", required=True, alias="resourceID")


class ResourceStatus(KubeModel):
    """Health of a resource's devices."""

    name: str | None = doc("Name of the resource.", required=True)
    resources: list[ResourceHealth] | None = doc("Its devices.")


class LinuxContainerUser(KubeModel):
    """Ids of the first process."""

    gid: Int64 | None = doc("Primary GID.", required=True)
    supplemental_groups: list[Int64] | None = doc("Supplemental groups.")
    uid: Int64 | None = doc("Primary UID.", required=True)


class ContainerUser(KubeModel):
    """Identity of the first process."""

    linux: LinuxContainerUser | None = doc("On Linux.")


class VolumeMountStatus(KubeModel):
    """How a volume is mounted."""

    mount_path: str | None = doc("Where.", required=True)
    name: str | None = doc("Name of the volume.", required=True)
    read_only: bool | None = doc("Mounted read-only.")
    recursive_read_only: str | None = doc("Disabled or Enabled.")


class ContainerStatus(KubeModel):
    """What is known of a container."""

    allocated_resources: dict[str, Quantity] | None = doc("Resources the node has set aside.")
    allocated_resources_status: list[ResourceStatus] | None = doc("Health of devices.", merge_key="name")
    container_id: str | None = doc("ID of the instance, as <runtime>://<id>.", alias="containerID")
    image: str | None = doc("Name of the image that runs.", required=True)
    image_id: str | None = doc("ID of the image that runs.", required=True, alias="imageID")
    last_state: ContainerState | None = doc("State of the instance before this one.")
    name: str | None = doc("Name of the container.", required=True)
    ready: bool | None = doc("Whether it can serve.", required=True)
    resources: ResourceRequirements | None = doc("Resources it runs with.")
    restart_count: Int32 | None = doc("How often it was started again.", required=True)
    started: bool | None = doc("Whether it has started, by its startup probe.")
    state: ContainerState | None = doc("State of this instance.")
    user: ContainerUser | None = doc("Identity of its first process.")
    volume_mounts: list[VolumeMountStatus] | None = doc("Its mounts.", merge_key="mountPath")


class HostIP(KubeModel):
    """An address of the node."""

    ip: str | None = doc("The address.", required=True)


class PodIP(KubeModel):
    """An address of the pod."""

    ip: str | None = doc("The address.", required=True)


class PodResourceClaimStatus(KubeModel):
    """The claim made for an entry of spec.resourceClaims."""

    name: str | None = doc("Name of the entry.", required=True)
    resource_claim_name: str | None = doc("Name of the claim.")


class PodStatus(KubeModel):
    """What is known of a pod; written by Gantry."""

    conditions: list[PodCondition] | None = doc("What is so and what not.", merge_key="type")
    container_statuses: list[ContainerStatus] | None = doc("One entry a container.")
    ephemeral_container_statuses: list[ContainerStatus] | None = doc("One entry an ephemeral container.")
    host_ip: str | None = doc("Address of the node.", alias="hostIP")
    host_ips: list[HostIP] | None = doc("Addresses of the node.", merge_key="ip", alias="hostIPs")
    init_container_statuses: list[ContainerStatus] | None = doc("One entry an init container.")
    message: str | None = doc("Why it is in this state, for people.")
    nominated_node_name: str | None = doc("Node it may get after preemption.")
    phase: str | None = doc("Pending, Running, Succeeded, Failed or Unknown.")
    pod_ip: str | None = doc("Address of the pod.", alias="podIP")
    pod_ips: list[PodIP] | None = doc("Addresses of the pod.", merge_key="ip", alias="podIPs")
    qos_class: str | None = doc("Guaranteed, Burstable or BestEffort.")
    reason: str | None = doc("Why it is in this state, for machines.")
    resize: str | None = doc("State of a resize.")
    resource_claim_statuses: list[PodResourceClaimStatus] | None = doc(
        "Claims made for the pod.", merge_key="name", strategy="merge,retainKeys"
    )
    start_time: Time | None = doc("When the node accepted the pod.")
