"""core/v1 containers: the processes of a pod and all that is said of one."""

from __future__ import annotations

from shared.models.base import Int32, Int64, IntOrString, KubeModel, Quantity, doc
from shared.models.references import (
    ConfigMapKeySelector,
    ObjectFieldSelector,
    ResourceFieldSelector,
    SecretKeySelector,
)
from shared.models.security import SecurityContext


class EnvVarSource(KubeModel):
    """Where the value of a variable comes from; exactly one is set."""

    config_map_key_ref: ConfigMapKeySelector | None = doc("A key of a ConfigMap.")
    field_ref: ObjectFieldSelector | None = doc("A field of the pod.")
    resource_field_ref: ResourceFieldSelector | None = doc("A request or limit of a container.")
    secret_key_ref: SecretKeySelector | None = doc("A key of a Secret.")


class EnvVar(KubeModel):
    """An environment variable."""

    name: str | None = doc("Name of the variable.", required=True)
    value: str | None = doc("Its value; $(NAME) stands for a variable defined before, $$ for a dollar.")
    value_from: EnvVarSource | None = doc("Where the value comes from; not together with value.")


class ConfigMapEnvSource(KubeModel):
    """A ConfigMap whose keys become variables."""

    name: str | None = doc("Name of the ConfigMap.")
    optional: bool | None = doc("Whether it may be missing.")


class SecretEnvSource(KubeModel):
    """A Secret whose keys become variables."""

    name: str | None = doc("Name of the Secret.")
    optional: bool | None = doc("Whether it may be missing.")


class EnvFromSource(KubeModel):
    """Many variables from one place."""

    config_map_ref: ConfigMapEnvSource | None = doc("All keys of a ConfigMap.")
    prefix: str | None = doc("Put before every name.")
    secret_ref: SecretEnvSource | None = doc("All keys of a Secret.")


class ContainerPort(KubeModel):
    """A port that a container listens on."""

    container_port: Int32 | None = doc("The port in the pod, 1 to 65535.", required=True)
    host_ip: str | None = doc("Address of the node to bind the host port to.", alias="hostIP")
    host_port: Int32 | None = doc("Port of the node that leads to it; the same port with hostNetwork.")
    name: str | None = doc("Name that services and probes can use.")
    protocol: str | None = doc("TCP (default), UDP or SCTP.")


class ResourceClaim(KubeModel):
    """A claim of the pod that a container uses."""

    name: str | None = doc("Name of the entry in spec.resourceClaims.", required=True)
    request: str | None = doc("One request of the claim; empty for all.")


class ResourceRequirements(KubeModel):
    """Compute resources asked for and allowed."""

    claims: list[ResourceClaim] | None = doc("Claims of the pod that are used.")
    limits: dict[str, Quantity] | None = doc("The most that may be used.")
    requests: dict[str, Quantity] | None = doc("What is set aside; the limits unless given.")


class VolumeMount(KubeModel):
    """A volume of the pod in the file system of a container."""

    mount_path: str | None = doc("Where it is mounted; no colon.", required=True)
    mount_propagation: str | None = doc("None (default), HostToContainer or Bidirectional.")
    name: str | None = doc("Name of the volume.", required=True)
    read_only: bool | None = doc("Mounted read-only.")
    recursive_read_only: str | None = doc("Disabled, IfPossible or Enabled: also mounts below are read-only.")
    sub_path: str | None = doc("The path within the volume to mount instead of its root.")
    sub_path_expr: str | None = doc("As subPath, with $(NAME) for variables of the container.")


class VolumeDevice(KubeModel):
    """A raw block device in a container."""

    device_path: str | None = doc("Path of the device in the container.", required=True)
    name: str | None = doc("Name of a persistentVolumeClaim volume of the pod.", required=True)


class ExecAction(KubeModel):
    """A command run in the container."""

    command: list[str] | None = doc("The command, not run in a shell; exit code 0 is success.")


class HTTPHeader(KubeModel):
    """A header of a request."""

    name: str | None = doc("Name of the header.", required=True)
    value: str | None = doc("Value of the header.", required=True)


class HTTPGetAction(KubeModel):
    """An HTTP GET."""

    host: str | None = doc("Host to connect to; the pod's address unless given.")
    http_headers: list[HTTPHeader] | None = doc("Headers of the request.")
    path: str | None = doc("Path of the request.")
    port: IntOrString | None = doc("Number or name of the port.", required=True)
    scheme: str | None = doc("HTTP (default) or HTTPS.")


class TCPSocketAction(KubeModel):
    """A TCP connect."""

    host: str | None = doc("Host to connect to; the pod's address unless given.")
    port: IntOrString | None = doc("Number or name of the port.", required=True)


class GRPCAction(KubeModel):
    """A call of the gRPC health service."""

    port: Int32 | None = doc("Number of the port.", required=True)
    service: str | None = doc("The service to ask for.")


class SleepAction(KubeModel):
    """Waiting."""

    seconds: Int64 | None = doc("How long.", required=True)


class Probe(KubeModel):
    """A check that is repeated."""

    exec: ExecAction | None = doc("Run a command.")
    failure_threshold: Int32 | None = doc("Failures in a row until it counts as failed; 3.")
    grpc: GRPCAction | None = doc("Ask the gRPC health service.")
    http_get: HTTPGetAction | None = doc("Make an HTTP request.")
    initial_delay_seconds: Int32 | None = doc("Seconds from the start to the first check.")
    period_seconds: Int32 | None = doc("Seconds between checks; 10.")
    success_threshold: Int32 | None = doc("Successes in a row until it counts as good again; 1.")
    tcp_socket: TCPSocketAction | None = doc("Open a TCP connection.")
    termination_grace_period_seconds: Int64 | None = doc("Grace of the container when this probe ends it.")
    timeout_seconds: Int32 | None = doc("Seconds until a check times out; 1.")


class LifecycleHandler(KubeModel):
    """Something done at a point of a container's life; exactly one is set."""

    exec: ExecAction | None = doc("Run a command.")
    http_get: HTTPGetAction | None = doc("Make an HTTP request.")
    sleep: SleepAction | None = doc("Wait.")
    tcp_socket: TCPSocketAction | None = doc("Not supported as a hook.")


class Lifecycle(KubeModel):
    """Hooks of a container."""

    post_start: LifecycleHandler | None = doc("Right after the start; its failure ends the container.")
    pre_stop: LifecycleHandler | None = doc("Before the container is told to stop; within the grace period.")


class ContainerResizePolicy(KubeModel):
    """What a resize of a resource does to the container."""

    resource_name: str | None = doc("cpu or memory.", required=True)
    restart_policy: str | None = doc("NotRequired or RestartContainer.", required=True)


class ContainerCommon(KubeModel):
    """What containers and ephemeral containers share."""

    args: list[str] | None = doc("Arguments of the entrypoint; the image's CMD unless given.")
    command: list[str] | None = doc("The entrypoint, not run in a shell; the image's unless given.")
    env: list[EnvVar] | None = doc("Environment variables.", merge_key="name")
    env_from: list[EnvFromSource] | None = doc("Sources of many variables; env goes before them.")
    image: str | None = doc("Name of the image.")
    image_pull_policy: str | None = doc("Always, IfNotPresent or Never; Always for :latest or no tag.")
    lifecycle: Lifecycle | None = doc("Hooks.")
    liveness_probe: Probe | None = doc("Whether it lives; it is restarted when not.")
    name: str | None = doc("Name, a DNS label, unique in the pod.", required=True)
    ports: list[ContainerPort] | None = doc(
        "Ports it listens on; for information and host ports.", merge_key="containerPort"
    )
    readiness_probe: Probe | None = doc("Whether it can serve.")
    resize_policy: list[ContainerResizePolicy] | None = doc("What a resize does.")
    resources: ResourceRequirements | None = doc("Compute resources.")
    restart_policy: str | None = doc("Always makes an init container a sidecar; not for other containers.")
    security_context: SecurityContext | None = doc("Privileges.")
    startup_probe: Probe | None = doc("Whether it has started; other probes wait for it.")
    stdin: bool | None = doc("Keep a standard input open.")
    stdin_once: bool | None = doc("Close the standard input after the first attach.")
    termination_message_path: str | None = doc("File whose text becomes the termination message.")
    termination_message_policy: str | None = doc(
        "File, or FallbackToLogsOnError: the end of the log if it fails."
    )
    tty: bool | None = doc("Give it a terminal; needs stdin.")
    volume_devices: list[VolumeDevice] | None = doc("Block devices.", merge_key="devicePath")
    volume_mounts: list[VolumeMount] | None = doc("Volumes to mount.", merge_key="mountPath")
    working_dir: str | None = doc("Working directory; the image's unless given.")


class Container(ContainerCommon):
    """A process from an image, in a pod."""


class EphemeralContainer(ContainerCommon):
    """A container added to a running pod to look into it."""

    target_container_name: str | None = doc("The container whose namespaces it joins.")
