"""Which kernel parameters a pod may set (`securityContext.sysctls`), and to what. Pure.

As the kubelet: a short list is safe for everybody else on the node, others have to be allowed by whoever runs it; one
that is not fails the pod with the reason SysctlForbidden. Sources: Kubernetes `pkg/kubelet/sysctl/safe_sysctls.go`,
`allowlist.go`, and `pkg/kubelet/sysctl/namespace.go` for what a pod can have for itself at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

SAFE: Final = (
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
)  # fmt: skip
_OF_IPC: Final = ("kernel.shm", "kernel.msg", "fs.mqueue.")
_OF_NET: Final = "net."


_OWN_PARAMETERS: Final = ("linux", "kvm", "nspawn")
"""The flavors whose pods have parameters of their own."""


class SysctlError(ValueError):
    """A parameter that this pod may not set. reason: as the kubelet's, of the pod's status."""

    reason: Final = "SysctlForbidden"


def settings(pod: Mapping[str, Any], flavor: str, allowed: Sequence[str]) -> dict[str, str]:
    """What the pod sets, names with dots. allowed: further names, `prefix*` too. Raises SysctlError."""
    spec = pod["spec"]
    made: dict[str, str] = {}
    for one in (spec.get("securityContext") or {}).get("sysctls") or ():
        name = normal(one["name"])
        if not any(_matches(name, pattern) for pattern in (*SAFE, *allowed)):
            raise SysctlError(f'forbidden sysctl: "{name}" not allowlisted')
        if flavor not in _OWN_PARAMETERS:
            raise SysctlError(
                f'forbidden sysctl: "{name}" not allowed with flavor {flavor}: it is the host\'s'
            )
        if spec.get("hostIPC") and not name.startswith(_OF_NET):
            raise SysctlError(f'forbidden sysctl: "{name}" not allowed with host ipc enabled')
        if spec.get("hostNetwork") and name.startswith(_OF_NET):
            raise SysctlError(f'forbidden sysctl: "{name}" not allowed with host net enabled')
        made[name] = str(one["value"])
    return made


def check_allowed(pattern: str) -> str:
    """A value of --allowed-unsafe-sysctls. Raises ValueError for what no pod can have for itself."""
    name = normal(pattern)
    if name.startswith((*_OF_IPC, _OF_NET)) or name == "kernel.sem":
        return name
    raise ValueError(
        f"--allowed-unsafe-sysctls {pattern!r}: not of a pod's own namespaces: there are "
        "kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*"
    )


def normal(name: str) -> str:
    """With dots between the parts: where the first separator is a slash, dots are part of the names (sysctl(8))."""
    dot, slash = name.find("."), name.find("/")
    if slash < 0 or 0 <= dot < slash:
        return name
    return name.translate(str.maketrans("./", "/."))


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
