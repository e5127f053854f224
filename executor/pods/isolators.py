"""What holds an app back, as appc isolators: resources, capabilities, privileges, OOM score. Pure.

Sources: appc `spec/ace.md` for the isolators; Kubernetes `pkg/kubelet/qos/policy.go` (OOM score) and
`pkg/apis/core/v1/helper/qos` (classes); containerd's default capabilities; runtime `securityContext` semantics as in
Kubernetes `pkg/securitycontext/util.go`. What the isolators do is stage1's business.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from executor.pods.env import ConfigError
from executor.stage1.isolators import CAPABILITIES, SECCOMP, WITHIN_DEFAULT
from shared.models.quantities import cpu_millis, parse_quantity, quantity_bytes

Isolator = dict[str, Any]

DEFAULT_CAPABILITIES: Final = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip

ALL_CAPABILITIES: Final = (
    "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
    "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE",
    "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
)  # fmt: skip

GUARANTEED_OOM_SCORE: Final = -997
BEST_EFFORT_OOM_SCORE: Final = 1000


def isolators(
    container: Mapping[str, Any],
    qos: str,
    node_memory: int,
    lowest_oom_score: int = -1000,
    image: Sequence[Isolator] = (),
) -> list[Isolator]:
    """Every isolator of a container. node_memory: bytes, the scale of the OOM score. image: those of an ACI."""
    context = container.get("securityContext") or {}
    made = resource_isolators(container.get("resources") or {})
    kept = {"set": capabilities(context, image)}
    made.append({"name": "os/linux/capabilities-retain-set", "value": kept})
    if context.get("allowPrivilegeEscalation") is False:
        made.append({"name": "os/linux/no-new-privileges", "value": True})
    score = max(oom_score_adj(container, qos, node_memory), lowest_oom_score)
    made.append({"name": "os/linux/oom-score-adj", "value": score})
    return made


def resource_isolators(resources: Mapping[str, Any]) -> list[Isolator]:
    """resource/cpu in milli-cores ("250m"), resource/memory in bytes; only what was asked for. Rounds up."""
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    made: list[Isolator] = []
    for name in ("cpu", "memory"):
        value = {}
        if name in requests or name in limits:  # a missing request is the limit, as in Kubernetes
            value["request"] = _exact(name, requests.get(name, limits.get(name)))
        if name in limits:
            value["limit"] = _exact(name, limits[name])
        if value:
            made.append({"name": f"resource/{name}", "value": value})
    return made


def _exact(resource: str, amount: Any) -> str:
    return f"{cpu_millis(amount)}m" if resource == "cpu" else str(quantity_bytes(amount))


def with_image(
    own: Sequence[Isolator], image: Sequence[Isolator], *, default_seccomp: bool
) -> list[Isolator]:
    """The pod's isolators, and what an ACI has that the pod says nothing about.

    An image can take rights away, and has no say in giving any: its capabilities count among the default ones only
    (see `capabilities`), its system calls within the default filter, if the flavor has one.
    """
    taken = {one["name"] for one in own}
    taken |= set(CAPABILITIES)
    taken |= set(SECCOMP) if taken & set(SECCOMP) else set()
    more = [dict(one) for one in image if one["name"] not in taken]
    for one in more:
        if one["name"] in SECCOMP and default_seccomp:
            one["value"] = {**one["value"], WITHIN_DEFAULT: True}
    return [*own, *more]


def capabilities(context: Mapping[str, Any], image: Sequence[Isolator] = ()) -> list[str]:
    """The capabilities that remain, sorted. Raises ConfigError for a name the kernel does not have."""
    if context.get("privileged"):
        return list(ALL_CAPABILITIES)
    asked = context.get("capabilities") or {}
    add, drop = _names(asked.get("add") or ()), _names(asked.get("drop") or ())
    kept = set(DEFAULT_CAPABILITIES)
    for one in image:
        if one["name"] in CAPABILITIES:
            listed = set(one["value"]["set"])
            kept = kept & listed if one["name"] == CAPABILITIES[0] else kept - listed
    if "CAP_ALL" in add:
        kept = set(ALL_CAPABILITIES)
    if "CAP_ALL" in drop:
        kept = set()
    return sorted((kept | (add - {"CAP_ALL"})) - (drop - {"CAP_ALL"}))


def _names(given: Sequence[str]) -> set[str]:
    names = set()
    for text in given:
        name = text.upper()
        name = name if name.startswith("CAP_") else f"CAP_{name}"
        if name != "CAP_ALL" and name not in ALL_CAPABILITIES:
            raise ConfigError(f"unknown capability {text!r}", "CreateContainerError")
        names.add(name)
    return names


def qos_class(spec: Mapping[str, Any]) -> str:
    """v1 PodStatus.qosClass: Guaranteed, Burstable or BestEffort."""
    containers = [*spec["containers"], *(spec.get("initContainers") or ())]
    asked = False
    guaranteed = True
    for container in containers:
        resources = container.get("resources") or {}
        limits = _amounts(resources.get("limits"))
        requests = limits | _amounts(resources.get("requests"))
        asked = asked or bool(requests)
        guaranteed = guaranteed and set(limits) == {"cpu", "memory"} and requests == limits
    if not asked:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _amounts(given: Mapping[str, Any] | None) -> dict[str, Any]:
    amounts = {name: parse_quantity((given or {}).get(name) or 0) for name in ("cpu", "memory")}
    return {name: amount for name, amount in amounts.items() if amount}


def oom_score_adj(container: Mapping[str, Any], qos: str, node_memory: int) -> int:
    """Guaranteed pods die last, BestEffort first; in between: the less memory was asked for, the earlier."""
    if qos == "Guaranteed":
        return GUARANTEED_OOM_SCORE
    if qos == "BestEffort" or node_memory <= 0:
        return BEST_EFFORT_OOM_SCORE
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    request = quantity_bytes(requests.get("memory") or limits.get("memory") or 0)
    return min(
        max(1000 - 1000 * request // node_memory, 1000 + GUARANTEED_OOM_SCORE), BEST_EFFORT_OOM_SCORE - 1
    )
