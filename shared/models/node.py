"""core/v1 Node: a Mesos agent, as Kubernetes sees it."""

from __future__ import annotations

from shared.models.base import Int32, Int64, KubeModel, Quantity, Time, doc
from shared.models.meta import ObjectMeta


class ConfigMapNodeConfigSource(KubeModel):
    """Not used any more."""

    kubelet_config_key: str | None = doc("Key in the ConfigMap.", required=True)
    name: str | None = doc("Name of the ConfigMap.", required=True)
    namespace: str | None = doc("Namespace of the ConfigMap.", required=True)
    resource_version: str | None = doc("Version of the ConfigMap.")
    uid: str | None = doc("UID of the ConfigMap.")


class NodeConfigSource(KubeModel):
    """Not used any more."""

    config_map: ConfigMapNodeConfigSource | None = doc("A ConfigMap.")


class Taint(KubeModel):
    """Keeps pods away that do not tolerate it."""

    effect: str | None = doc("NoSchedule, PreferNoSchedule or NoExecute.", required=True)
    key: str | None = doc("Key of the taint.", required=True)
    time_added: Time | None = doc("Since when, for NoExecute.")
    value: str | None = doc("Value of the taint.")


class NodeSpec(KubeModel):
    """What users say of a node."""

    config_source: NodeConfigSource | None = doc("Not used any more.")
    external_id: str | None = doc("Not used any more.", alias="externalID")
    pod_cidr: str | None = doc("Addresses for the node's pods.", alias="podCIDR")
    pod_cidrs: list[str] | None = doc("Addresses for the node's pods.", strategy="merge", alias="podCIDRs")
    provider_id: str | None = doc("mesos://<agent id>.", alias="providerID")
    taints: list[Taint] | None = doc("Its taints.")
    unschedulable: bool | None = doc("Cordoned: no new pods.")


class NodeAddress(KubeModel):
    """An address of a node."""

    address: str | None = doc("The address.", required=True)
    type: str | None = doc("Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS.", required=True)


class NodeCondition(KubeModel):
    """One thing that is or is not so."""

    last_heartbeat_time: Time | None = doc("When we last heard of it.")
    last_transition_time: Time | None = doc("When it last changed.")
    message: str | None = doc("Text for people.")
    reason: str | None = doc("Word for machines.")
    status: str | None = doc("True, False or Unknown.", required=True)
    type: str | None = doc("Ready and others.", required=True)


class NodeConfigStatus(KubeModel):
    """Not used any more."""

    active: NodeConfigSource | None = doc("Not used any more.")
    assigned: NodeConfigSource | None = doc("Not used any more.")
    error: str | None = doc("Not used any more.")
    last_known_good: NodeConfigSource | None = doc("Not used any more.")


class DaemonEndpoint(KubeModel):
    """A port."""

    port: Int32 | None = doc("The port.", required=True, alias="Port")


class NodeDaemonEndpoints(KubeModel):
    """Where a node's daemons listen."""

    kubelet_endpoint: DaemonEndpoint | None = doc("The node server of the executor.")


class NodeFeatures(KubeModel):
    """What the runtime can do."""

    supplemental_groups_policy: bool | None = doc("supplementalGroupsPolicy.")


class ContainerImage(KubeModel):
    """An image on a node."""

    names: list[str] | None = doc("Names it is known by.")
    size_bytes: Int64 | None = doc("Its size.")


class NodeSystemInfo(KubeModel):
    """Facts about a node."""

    architecture: str | None = doc("Of the CPU.", required=True)
    boot_id: str | None = doc("ID of this boot.", required=True, alias="bootID")
    container_runtime_version: str | None = doc("gantry://<version>.", required=True)
    kernel_version: str | None = doc("Of the kernel.", required=True)
    kube_proxy_version: str | None = doc("Not used.", required=True)
    kubelet_version: str | None = doc("The version we speak.", required=True)
    machine_id: str | None = doc("ID of the machine.", required=True, alias="machineID")
    operating_system: str | None = doc("linux.", required=True)
    os_image: str | None = doc("Name of the distribution.", required=True)
    system_uuid: str | None = doc("ID of the hardware.", required=True, alias="systemUUID")


class NodeRuntimeHandlerFeatures(KubeModel):
    """What a runtime handler can do."""

    recursive_read_only_mounts: bool | None = doc("Recursive read-only mounts.")
    user_namespaces: bool | None = doc("User namespaces.")


class NodeRuntimeHandler(KubeModel):
    """A runtime of a node."""

    features: NodeRuntimeHandlerFeatures | None = doc("What it can do.")
    name: str | None = doc("Its name.")


class AttachedVolume(KubeModel):
    """A volume attached to a node."""

    device_path: str | None = doc("Its device.", required=True)
    name: str | None = doc("Its name.", required=True)


class NodeStatus(KubeModel):
    """What is known of a node; written by Gantry."""

    addresses: list[NodeAddress] | None = doc("Its addresses.", merge_key="type")
    allocatable: dict[str, Quantity] | None = doc("What pods can use.")
    capacity: dict[str, Quantity] | None = doc("What it has.")
    conditions: list[NodeCondition] | None = doc("What is so and what not.", merge_key="type")
    config: NodeConfigStatus | None = doc("Not used any more.")
    daemon_endpoints: NodeDaemonEndpoints | None = doc("Where its daemons listen.")
    features: NodeFeatures | None = doc("What its runtime can do.")
    images: list[ContainerImage] | None = doc("Images it has.")
    node_info: NodeSystemInfo | None = doc("Facts about it.")
    phase: str | None = doc("Not used any more.")
    runtime_handlers: list[NodeRuntimeHandler] | None = doc("Its runtimes.")
    volumes_attached: list[AttachedVolume] | None = doc("Volumes attached to it.")
    volumes_in_use: list[str] | None = doc("Volumes in use.")


class Node(KubeModel):
    """A Mesos agent. Gantry makes and removes nodes; users cordon, taint and label them."""

    api_version: str | None = doc("v1.")
    kind: str | None = doc("Node.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    spec: NodeSpec | None = doc("What users say of it.")
    status: NodeStatus | None = doc("What is known of it; written by Gantry.")
