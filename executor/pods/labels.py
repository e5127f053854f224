"""What a container asks of the kernel's security module (`appArmorProfile`, `seLinuxOptions`), as appc isolators.

The container's word goes before the pod's, as in Kubernetes `pkg/securitycontext/util.go`. One that says nothing gets
the node's own profile of AppArmor, where there is one, as container runtimes have it. What `seLinuxOptions` leaves out
is what the node's policy gives containers (lxc_contexts, as container runtimes read it).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from executor.pods.env import ConfigError
from executor.stage1.lsm import DEFAULT_PROFILE

Isolator = dict[str, Any]
SELINUX_POLICIES: Final = Path("/etc/selinux")
_PARTS: Final = ("user", "role", "type", "level")
_CONTAINERS: Final = ("system_u", "system_r", "container_t", "s0")
"""The context that container-selinux gives containers."""


def isolators(
    container: Mapping[str, Any],
    spec: Mapping[str, Any],
    policies: Path = SELINUX_POLICIES,
    *,
    default_profile: bool = False,
) -> list[Isolator]:
    """At most one of each module. default_profile: the node has one. Raises ConfigError."""
    privileged = (container.get("securityContext") or {}).get("privileged")
    default = {"type": "RuntimeDefault" if default_profile and not privileged else "Unconfined"}
    profile = _own(container, spec, "appArmorProfile") or default
    return [*_apparmor(profile), *_selinux(container, spec, policies)]


def wants_default_profile(pod: Mapping[str, Any]) -> bool:
    """Whether a container of the pod asks for the node's own AppArmor profile."""
    spec = pod["spec"]
    containers = (*(spec.get("initContainers") or ()), *spec["containers"])
    profiles = (_own(one, spec, "appArmorProfile") for one in containers)
    return any(profile.get("type") == "RuntimeDefault" for profile in profiles)


def _own(container: Mapping[str, Any], spec: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    own = (container.get("securityContext") or {}).get(field)
    return own or (spec.get("securityContext") or {}).get(field) or {}


def _apparmor(profile: Mapping[str, Any]) -> list[Isolator]:
    kind = profile.get("type", "Unconfined")
    if kind == "Unconfined":
        return []
    names = {"RuntimeDefault": DEFAULT_PROFILE, "Localhost": profile.get("localhostProfile")}
    if not names.get(kind):
        raise ConfigError(
            f"appArmorProfile.type {kind!r}: not RuntimeDefault, Unconfined, or Localhost with a profile"
        )
    return [{"name": "os/linux/apparmor-profile", "value": {"profile": names[kind]}}]


def _selinux(container: Mapping[str, Any], spec: Mapping[str, Any], policies: Path) -> list[Isolator]:
    asked = _own(container, spec, "seLinuxOptions")
    if not any(asked.get(part) for part in _PARTS):
        return []
    usual = dict(zip(_PARTS, _of_containers(policies), strict=True))
    value = {part: str(asked.get(part) or usual[part]) for part in _PARTS}
    return [{"name": "os/linux/selinux-context", "value": value}]


def _of_containers(policies: Path) -> tuple[str, ...]:
    """User, role, type and level of containers in the node's policy."""
    policy = _setting(policies / "config", "SELINUXTYPE") or "targeted"
    context = _setting(policies / policy / "contexts" / "lxc_contexts", "process").strip('"').split(":", 3)
    return tuple(context) if len(context) == len(_PARTS) else _CONTAINERS


def _setting(file: Path, name: str) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, sign, value = line.partition("=")
        if sign and key.strip() == name:
            return value.strip()
    return ""
