"""core/v1 Pod: containers that are placed and live together."""

from __future__ import annotations

from shared.models.base import Int32, Int64, KubeModel, Quantity, doc
from shared.models.container import Container, EphemeralContainer, ResourceRequirements
from shared.models.meta import ObjectMeta
from shared.models.pod_status import PodStatus
from shared.models.references import LocalObjectReference
from shared.models.scheduling import Affinity, Toleration, TopologySpreadConstraint
from shared.models.security import PodSecurityContext
from shared.models.volumes import Volume


class PodDNSConfigOption(KubeModel):
    """An option of the resolver."""

    name: str | None = doc("Name of the option.")
    value: str | None = doc("Its value.")


class PodDNSConfig(KubeModel):
    """What goes into the pod's resolv.conf beside its DNS policy."""

    nameservers: list[str] | None = doc("Addresses of name servers.")
    options: list[PodDNSConfigOption] | None = doc("Options of the resolver.")
    searches: list[str] | None = doc("Search domains.")


class HostAlias(KubeModel):
    """A line of the pod's /etc/hosts."""

    hostnames: list[str] | None = doc("The names.")
    ip: str | None = doc("The address.", required=True)


class PodOS(KubeModel):
    """The operating system a pod is for."""

    name: str | None = doc("linux or windows.", required=True)


class PodReadinessGate(KubeModel):
    """A condition that the pod's readiness waits for."""

    condition_type: str | None = doc("Type of the condition.", required=True)


class PodResourceClaim(KubeModel):
    """A claim for devices."""

    name: str | None = doc("Name, unique in the pod.", required=True)
    resource_claim_name: str | None = doc("An existing claim.")
    resource_claim_template_name: str | None = doc("The template of a claim to be made.")


class PodSchedulingGate(KubeModel):
    """Something that must be removed before the pod is placed."""

    name: str | None = doc("Name of the gate.", required=True)


class PodSpec(KubeModel):
    """What a pod is to be."""

    active_deadline_seconds: Int64 | None = doc("Seconds the pod may run in all before it is failed.")
    affinity: Affinity | None = doc("Rules about its place.")
    automount_service_account_token: bool | None = doc("Whether a service account token is mounted.")
    containers: list[Container] | None = doc("Its containers, at least one.", required=True, merge_key="name")
    dns_config: PodDNSConfig | None = doc("What goes into resolv.conf beside the DNS policy.")
    dns_policy: str | None = doc("ClusterFirst (default), ClusterFirstWithHostNet, Default or None.")
    enable_service_links: bool | None = doc("Whether services appear as environment variables.")
    ephemeral_containers: list[EphemeralContainer] | None = doc("Containers to debug it.", merge_key="name")
    host_aliases: list[HostAlias] | None = doc("Lines for /etc/hosts.", merge_key="ip")
    host_ipc: bool | None = doc("Use the node's IPC namespace.", alias="hostIPC")
    host_network: bool | None = doc("Use the node's network.")
    host_pid: bool | None = doc("Use the node's PID namespace.", alias="hostPID")
    host_users: bool | None = doc(
        "Use the node's user namespace; false: one of the pod's own, or it fails. Else one of its own where possible."
    )
    hostname: str | None = doc("Hostname in the pod; its name unless given.")
    image_pull_secrets: list[LocalObjectReference] | None = doc("Credentials for images.", merge_key="name")
    init_containers: list[Container] | None = doc(
        "Containers that run to their end, in order, before the others.", merge_key="name"
    )
    node_name: str | None = doc("The node it is bound to.")
    node_selector: dict[str, str] | None = doc("Labels the node must have.")
    os: PodOS | None = doc("The operating system it is for.")
    overhead: dict[str, Quantity] | None = doc("Resources of the runtime itself, from the RuntimeClass.")
    preemption_policy: str | None = doc("PreemptLowerPriority (default) or Never.")
    priority: Int32 | None = doc("Its priority, from the PriorityClass.")
    priority_class_name: str | None = doc("Name of its PriorityClass.")
    readiness_gates: list[PodReadinessGate] | None = doc("Conditions its readiness waits for.")
    resource_claims: list[PodResourceClaim] | None = doc(
        "Claims for devices.", merge_key="name", strategy="merge,retainKeys"
    )
    resources: ResourceRequirements | None = doc("Resources of all containers together.")
    restart_policy: str | None = doc(
        "When containers are started again: Always (default), OnFailure or Never."
    )
    runtime_class_name: str | None = doc("The stage1 flavor it runs under: linux or fly.")
    scheduler_name: str | None = doc("The scheduler that places it.")
    scheduling_gates: list[PodSchedulingGate] | None = doc(
        "What must go before it is placed.", merge_key="name"
    )
    security_context: PodSecurityContext | None = doc("Privileges of all its containers.")
    service_account: str | None = doc("Old name of serviceAccountName.")
    service_account_name: str | None = doc("The service account it runs as.")
    set_hostname_as_fqdn: bool | None = doc(
        "Whether the hostname is fully qualified.", alias="setHostnameAsFQDN"
    )
    share_process_namespace: bool | None = doc("Whether its containers see one another's processes.")
    subdomain: str | None = doc("Makes its full name <hostname>.<subdomain>.<namespace>.svc.<domain>.")
    termination_grace_period_seconds: Int64 | None = doc("Seconds from SIGTERM to SIGKILL; 30.")
    tolerations: list[Toleration] | None = doc("Taints it can live with.")
    topology_spread_constraints: list[TopologySpreadConstraint] | None = doc(
        "How evenly pods are spread.", merge_key="topologyKey"
    )
    volumes: list[Volume] | None = doc(
        "Volumes that its containers can mount.", merge_key="name", strategy="merge,retainKeys"
    )


class Pod(KubeModel):
    """Containers that are placed, started and stopped together and share a network."""

    api_version: str | None = doc("v1.")
    kind: str | None = doc("Pod.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    spec: PodSpec | None = doc("What it is to be.")
    status: PodStatus | None = doc("What is known of it; written by Gantry.")
