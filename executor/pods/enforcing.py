"""Which isolators this node can enforce, and what becomes of a pod that asks for others (`--unenforceable`).

refuse (the default): the pod does not run; where the pod alone tells it is told at once, as by the kubelet's admission
(`pkg/kubelet/lifecycle/handlers.go`, AppArmor), otherwise by stage1. report: it runs without them, and its
condition, its events and its status name each. Nothing is ever left out without a word.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from executor.pods import bandwidth, labels
from executor.pods.env import ConfigError
from executor.stage1 import cgroups, lsm, seccomp
from executor.stage1.isolators import OF_A_POD, OF_AN_APP, SECCOMP

REFUSE, REPORT = "refuse", "report"
POLICIES: Final = (REFUSE, REPORT)
_LABELS: Final = {"os/linux/apparmor-profile": lsm.APPARMOR, "os/linux/selinux-context": lsm.SELINUX}
_CONTROLLERS: Final = {
    "resource/cpu": "cpu",
    "os/linux/cpu-shares": "cpu",
    "resource/memory": "memory",
    "gantry.io/pids": "pids",
    "resource/block-bandwidth": "blkio",
    "resource/block-iops": "blkio",
}
_OF_THE_DISK: Final = ("resource/block-bandwidth", "resource/block-iops")
_V2_NAMES: Final = {"blkio": "io"}
_OURS: Final = frozenset({"linux", "fly", "nspawn", "kvm"})
_MACHINE: Final = "kvm"


class EnforceError(ValueError):
    """The node cannot enforce what the pod asks for, and must not run it without. reason: for the pod's status."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Facts:
    """Of this node. missing: controllers that there are not, as v1 calls them. disk, seccomp: why these cannot be
    limited or made; labels: by the name of the module; "" where all is well. default_profile: AppArmor is on, and has
    the node's own."""

    missing: frozenset[str] = frozenset()
    disk: str = ""
    seccomp: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    default_profile: bool = False


NO_FACTS: Final = Facts()
"""Nothing is known to be missing; stage1 finds out."""


def facts(pods_dir: Path) -> Facts:
    """Looks at the machine."""
    try:
        there = controllers(cgroups.detect(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo")))
    except (OSError, cgroups.CgroupError):
        there = frozenset()
    missing = frozenset(_CONTROLLERS.values()) - there
    disk = ""
    try:
        cgroups.disk_below(str(pods_dir))
    except (OSError, cgroups.CgroupError) as error:
        disk = str(error)
    modules = (lsm.APPARMOR, lsm.SELINUX)
    return Facts(missing, disk, seccomp.why_not(), {module: lsm.why_not(module) for module in modules})


def controllers(layout: cgroups.Layout) -> frozenset[str]:
    """Those that there are, by their names in v1. Raises OSError."""
    if layout.version == 1:
        return frozenset(layout.base)
    root = Path(next(iter(layout.base.values()))).parent
    names = _read(str(root / "cgroup.controllers")).split()
    return frozenset(next((v1 for v1, v2 in _V2_NAMES.items() if v2 == name), name) for name in names)


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def why_not(name: str, value: Any, flavor: str, node: Facts, *, of_pod: bool = False) -> str:
    """Why an isolator would not be enforced here; "" when it would be."""
    if name not in (OF_A_POD if of_pod else OF_AN_APP):
        return "not known here"
    if name == bandwidth.ISOLATOR:
        return bandwidth.WHY_NOT
    if name in _LABELS:
        module = _LABELS[name]
        if flavor == _MACHINE:
            return f"nobody loads profiles or a policy of {module} into a virtual machine"
        return node.labels.get(module, "")
    if flavor == _MACHINE:
        return "a virtual machine has no disk of its own" if name in _OF_THE_DISK else ""
    if name in SECCOMP:
        return "" if "@appc.io/all" in (value.get("set") or ()) else node.seccomp
    controller = _CONTROLLERS.get(name)
    if controller in node.missing and value:
        return f"the cgroup controller {controller} is not available here"
    return node.disk if name in _OF_THE_DISK else ""


def admit(pod: Mapping[str, Any], flavor: str, node: Facts) -> None:
    """Policy refuse, as far as the pod alone tells. Raises EnforceError with the kubelet's words where it has some."""
    spec = pod["spec"]
    try:
        for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
            for one in labels.isolators(container, spec):
                if why := _why_not_any(one, flavor, node):
                    module = _LABELS[one["name"]]
                    raise EnforceError(f"Cannot enforce {module}: {why}", module)
        for one in bandwidth.isolators(pod):
            if why := _why_not_any(one, flavor, node, of_pod=True):
                raise EnforceError(f"Cannot enforce network bandwidth: {why}", "NetworkBandwidth")
    except ConfigError as error:
        raise EnforceError(str(error), "InvalidPod") from None


def _why_not_any(one: Mapping[str, Any], flavor: str, node: Facts, *, of_pod: bool = False) -> str:
    if flavor not in _OURS:
        return f"no stage1 image can be told of isolator {one['name']}"
    return why_not(one["name"], one["value"], flavor, node, of_pod=of_pod)


def _no_profile(one: Mapping[str, Any], node: Facts) -> str:
    """The node's own profile could not be loaded when the executor began."""
    asked = one["name"] == "os/linux/apparmor-profile" and one["value"].get("profile") == lsm.DEFAULT_PROFILE
    if not asked or node.default_profile or lsm.APPARMOR not in node.labels:
        return ""
    return f"this node has no profile {lsm.DEFAULT_PROFILE}"


def without_unenforceable(
    manifest: Mapping[str, Any], flavor: str, node: Facts, insisted: Container[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Policy report: the PodManifest without what would not be enforced, and a line for each of those. insisted: names
    of isolators that stay, for stage1 to refuse.

    Stage1 images of others judge for themselves: they get all, and refuse what they are known not to do.
    """
    if flavor not in _OURS:
        return dict(manifest), ()
    said: list[str] = []

    def keep(entries: Any, whose: str, *, of_pod: bool) -> list[Any]:
        kept = []
        for one in entries or ():
            why = why_not(one["name"], one["value"], flavor, node, of_pod=of_pod) or _no_profile(one, node)
            if why and one["name"] not in insisted:
                said.append(f"{whose}: isolator {one['name']} is not enforced: {why}")
            else:
                kept.append(one)
        return kept

    isolators = keep(manifest.get("isolators"), "pod", of_pod=True)
    apps = []
    for entry in manifest["apps"]:
        own = keep(entry["app"].get("isolators"), f"container {entry['name']}", of_pod=False)
        apps.append({**entry, "app": {**entry["app"], "isolators": own}})
    return {**manifest, "apps": apps, "isolators": isolators}, tuple(said)
