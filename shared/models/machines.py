"""What pods in virtual machines (flavor kvm) cannot have. Pure.

The API says so when a pod is made, if its RuntimeClass says that it is for a machine; an executor when the pod comes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

HANDLER: Final = "kvm"
"""Of a RuntimeClass: the flavor's name."""
GPU: Final = "nvidia.com/gpu"


def lacks(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path of a field, why) for what a v1 Pod asks for and no machine has."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        yield "spec.hostNetwork", "a virtual machine has a network of its own"
    for name in ("hostPID", "hostIPC"):
        if spec.get(name):
            yield f"spec.{name}", "a virtual machine has processes of its own"
    for index, volume in enumerate(spec.get("volumes") or ()):
        kind = (volume.get("hostPath") or {}).get("type") or ""
        if kind in ("CharDevice", "BlockDevice"):
            yield f"spec.volumes[{index}].hostPath.type", "a virtual machine has no devices of the node"
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            yield from _of_container(container, f"spec.{key}[{index}]")


def _of_container(container: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    resources = container.get("resources") or {}
    for key in ("limits", "requests"):
        if str((resources.get(key) or {}).get(GPU, "0")) != "0":
            yield f"{path}.resources.{key}[{GPU}]", "a virtual machine has no devices of the node"
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if (mount.get("mountPropagation") or "None") != "None":
            yield (
                f"{path}.volumeMounts[{index}].mountPropagation",
                "mounts of the node do not get into a virtual machine",
            )
    if (container.get("securityContext") or {}).get("procMount") == "Unmasked":
        yield f"{path}.securityContext.procMount", "there are no user namespaces in a virtual machine"
