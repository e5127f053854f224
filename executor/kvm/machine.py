"""Pure: a PodManifest in; out come the machine it needs, what runs that on the host, and the manifest for the guest.

On the host a machine is a pod of flavor linux with two apps: QEMU, and virtiofsd, which shows the guest the images and
volumes below /share and nothing else. So a machine has the namespaces, the cgroup, the seccomp filter and the user
namespace that any pod has, and ends as pods end.
"""

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.kvm import acpi, commands
from executor.kvm.boot import Boot
from executor.kvm.guest.main import SHARE
from executor.kvm.probe import DEVICE, Accelerator, Tools
from executor.kvm.shares import app_in_guest, parts, volumes_in_guest
from executor.network.taps import TUN, Link
from executor.pods.launcher import AppExit
from executor.pods.manifest import INIT
from executor.stage1 import userns
from executor.stage1.manifest import quantity
from shared.models.machines import lacks

KVM: Final = "kvm"
"""The flavor's name."""
VM: Final = "vm"
FILES: Final = "files"
PLACES: Final = ("images", "volumes")
"""Directories below what a machine is shown."""
MIB: Final = 1024 * 1024
DEFAULT_MEMORY: Final = 512 * MIB
"""For the apps without a memory limit, together."""
DEFAULT_CPU_MILLI: Final = 1000
"""For those without a cpu limit."""
BLOCK: Final = 128 * MIB
"""What a kernel takes memory in that comes when it runs (Documentation/admin-guide/mm/memory-hotplug.rst)."""
GUEST_OVERHEAD: Final = 110 * MIB
"""Of the machine's memory, what its kernel and our code have in it; beside one byte of `_PER_BYTE`."""
_PER_BYTE: Final = 64
"""A page of 4096 bytes has an entry of 64 in the kernel's list (include/linux/mm_types.h, struct page)."""
HOST_OVERHEAD: Final = 192 * MIB
"""Beside the machine's memory: QEMU's and virtiofsd's own."""
CPU_OVERHEAD_MILLI: Final = 250

NOBODY: Final = 65534
OVERLAYS: Final = f"{SHARE}/overlay"
"""What apps write to their roots, in the guest; on the host it is where that of any flavor is."""
_ON_HOST: Final = (
    "resource/memory", "resource/cpu", "os/linux/cpu-shares", "resource/block-bandwidth", "resource/block-iops",
)  # fmt: skip
"""Isolators of a pod that hold for its machine; all others are for the guest. What memory the apps may have is the
guest's, too: the machine has some more."""
_VERSION: Final = "0.8.11"
_USERS: Final = "gantry.io/user-namespace"
_RLIMITS: Final = "gantry.io/rlimits"
_OOM_SCORE: Final = "os/linux/oom-score-adj"
_SERVICES: Final = ("/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
_FILES_CAPABILITIES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP", "CAP_SETGID",
    "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip


# virtiofsd unshares its threads' working directory, which the filter of flavor linux forbids. It installs a filter of
# its own, an allow-list, before it serves; until then it has this one. Of that list it must not have syncfs: the
# guest's kernel asks for it whenever it unmounts something, so when an app ends, and gets nothing else meanwhile, for
# as long as the host takes to write out what anybody has written. A kernel that is told ENOSYS asks no more.
_FILES_FORBIDDEN: Final = (
    "acct", "add_key", "bpf", "clock_settime", "delete_module", "finit_module", "fsmount", "fsopen", "init_module",
    "io_uring_setup", "iopl", "ioperm", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount",
    "move_mount", "mount_setattr", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root",
    "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "reboot", "request_key", "setdomainname",
    "sethostname", "setns", "settimeofday", "swapoff", "swapon", "sync", "syncfs", "syslog", "umount2", "userfaultfd",
    "vhangup",
)  # fmt: skip


class MachineError(ValueError):
    """The pod asks for what no virtual machine of ours has; one line."""


@dataclass(frozen=True)
class Size:
    """memory: bytes the guest has; cpus: it has; limits: of the whole on the host."""

    memory: int
    cpus: int
    cpu_limit_milli: int | None
    cpu_request_milli: int

    @property
    def host_memory(self) -> int:
        return self.memory + HOST_OVERHEAD

    @property
    def template(self) -> "Size":
        """Of the machine whose template all of this size go on from, whatever memory they have: with as many cpus, or
        a few more, which are not used."""
        return Size(acpi.BASE_MEMORY, 1 << (self.cpus - 1).bit_length(), None, 0)


def flavor(pod: Mapping[str, Any]) -> str:
    """Which one a PodManifest asks for; "" when it does not say."""
    return _notes(pod).get("gantry.io/flavor", "")


def check_pod(pod: Mapping[str, Any]) -> None:
    """Of a v1 Pod, before anything is done for it. Raises MachineError that names the field."""
    for path, why in lacks(pod):
        raise MachineError(f"{path}: {why} (flavor {KVM})")


def check(pod: Mapping[str, Any]) -> None:
    """Of a PodManifest, whoever made it. Raises MachineError."""
    notes = _notes(pod)
    if notes.get("gantry.io/host-network") == "true":
        raise MachineError("flavor kvm has no host network: a virtual machine has a network of its own")
    for volume in pod.get("volumes") or ():
        if volume.get("gantry.io/device"):
            raise MachineError(f"flavor kvm passes no devices on: {volume.get('source')}")


def size(pod: Mapping[str, Any], host_cpus: int) -> Size:
    """From the apps' limits, and the pod's own where it has some."""
    together = [[_isolators(app["app"].get("isolators")) for app in apps] for apps in _together(pod["apps"])]
    cpu = max(_sum(apps, "resource/cpu", DEFAULT_CPU_MILLI, scale=3) for apps in together)
    cpu = cpu or DEFAULT_CPU_MILLI  # of a pod whose apps come later
    request = max(sum(_cpu_request(asked) for asked in apps) for apps in together)
    request = request if pod["apps"] else cpu
    limited = bool(pod["apps"]) and all(
        _limit(asked, "resource/cpu") is not None for apps in together for asked in apps
    )
    if (value := _limit(_isolators(pod.get("isolators")), "resource/cpu")) is not None:
        cpu, limited = quantity(value, scale=3), True
    memory = -(-(memory_of_apps(pod) + GUEST_OVERHEAD) * _PER_BYTE // (_PER_BYTE - 1))
    return Size(
        memory=max(-(-memory // BLOCK) * BLOCK, acpi.BASE_MEMORY),
        cpus=min(max(math.ceil(cpu / 1000), 1), host_cpus),
        cpu_limit_milli=cpu + CPU_OVERHEAD_MILLI if limited else None,
        cpu_request_milli=request + CPU_OVERHEAD_MILLI,
    )


def memory_of_apps(pod: Mapping[str, Any]) -> int:
    """Bytes that the apps may have, together: the pod's own limit, or the sum of theirs."""
    own = _limit(_isolators(pod.get("isolators")), "resource/memory")
    if own is not None:
        return quantity(own)
    together = [[_isolators(app["app"].get("isolators")) for app in apps] for apps in _together(pod["apps"])]
    return max(_sum(apps, "resource/memory", DEFAULT_MEMORY) for apps in together) or DEFAULT_MEMORY


def _together(apps: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Which apps run at the same time: each init container with the sidecars before it, then all that stay.

    Kubernetes' rule for what a pod needs (`pkg/api/v1/resource`, KEP-753).
    """
    found: list[list[Mapping[str, Any]]] = []
    stay: list[Mapping[str, Any]] = []
    for app in apps:
        if _notes(app).get(INIT) == "once":
            found.append([*(one for one in stay if INIT in _notes(one)), app])
        else:
            stay.append(app)
    return [*found, stay]


def _sum(apps: Sequence[Mapping[str, Any]], name: str, default: int, scale: int = 0) -> int:
    """Of the limits. default: for those apps together that have none."""
    limits = [_limit(asked, name) for asked in apps]
    return sum(quantity(value, scale=scale) for value in limits if value is not None) + (
        default if None in limits else 0
    )


def _limit(asked: Mapping[str, Any], name: str) -> Any:
    return asked.get(name, {}).get("limit")


def _cpu_request(asked: Mapping[str, Any]) -> int:
    cpu = asked.get("resource/cpu", {})
    return quantity(cpu.get("request") or cpu.get("limit") or 0, scale=3)


def how_ended(ended: AppExit) -> str:
    """QEMU, or virtiofsd; after a colon."""
    what = "QEMU" if ended.app == VM else "virtiofsd"
    if ended.oom_killed:
        return f"{what} was killed for the memory it took"
    return f"{what} ended with {'signal' if ended.signal else 'status'} {ended.signal or ended.exit_code}"


def host_manifest(
    pod: Mapping[str, Any],
    layers: Mapping[str, Sequence[str]],
    tools: Tools,
    boot: Boot,
    how: Accelerator,
    wanted: Size,
    pod_dir: str,
    directory: str,
    *,
    template: bool = False,
    users: str = "",
) -> dict[str, Any]:
    """The PodManifest of the machine, for the host's launcher. layers: of each app, uppermost first.

    pod_dir: of the pod; directory: of this one. Device files in that, which nobody may open (see `make_device`), are
    `kvm` and `tun`; a pod without apps may have some later, for which there are directories (executor/kvm/changes.py).
    template: it goes on from one.
    """
    volumes, programs = _programs()
    volumes.append(
        {"name": "machine.overlay", "kind": "host", "source": f"{pod_dir}/overlay", "recursive": False}
    )
    more, shares = shown(pod, layers, pod_dir)
    volumes += more
    shares.append({"volume": "machine.overlay", "path": OVERLAYS})
    if not pod["apps"]:
        volumes += [_given(f"machine.{name}", f"{directory}/{name}") for name in PLACES]
        shares += [{"volume": f"machine.{name}", "path": f"{SHARE}/{name}"} for name in PLACES]
    own, mounts = _vm(how, boot, directory)
    asked = pod.get("isolators") or ()
    command = (
        commands.going_on(tools, how, wanted) if template else commands.booting(tools, boot, how, wanted)
    )
    return {
        "acVersion": pod["acVersion"],
        "acKind": "PodManifest",
        "apps": [
            _app(
                FILES,
                commands.virtiofsd(tools),
                "0",
                [*programs, *shares],
                _FILES_CAPABILITIES,
                _FILES_FORBIDDEN,
                pod,
            ),
            _app(VM, command, str(NOBODY), [*programs, *mounts], (), (), pod),
        ],
        "volumes": [*volumes, *own],
        "isolators": [*_host_limits(wanted), *(one for one in asked if one["name"] in _ON_HOST[2:])],
        "annotations": [
            {"name": "gantry.io/flavor", "value": "linux"},
            *([{"name": _USERS, "value": users}] if users else []),
        ],
        "ports": [],
    }


def _vm(how: Accelerator, boot: Boot, directory: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes, and mounts of them, that QEMU alone has: what it boots, what it tells, and device files."""
    volumes = [_given("machine.boot", str(boot.root.parent))]
    mounts: list[dict[str, Any]] = [{"volume": "machine.boot", "path": "/boot"}]
    told = {"name": commands.TOLD, "kind": "empty", "mode": "0700", "uid": NOBODY, "gid": NOBODY}
    volumes.append({**told, "gantry.io/medium": "Memory", "gantry.io/size-limit": "64Ki"})
    mounts.append({"volume": commands.TOLD, "path": f"/{commands.TOLD}", "readOnly": True})
    for path in device_files(how):
        name = os.path.basename(path)
        source = f"{directory}/{name}"
        volumes.append(
            {"name": f"machine.{name}", "kind": "host", "source": source, "gantry.io/device": True}
        )
        mounts.append({"volume": f"machine.{name}", "path": path})
    return volumes, mounts


def shown(
    pod: Mapping[str, Any], layers: Mapping[str, Sequence[str]], pod_dir: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes, and virtiofsd's mounts of them: of the pod's what its apps mount, and their images."""
    volumes: dict[str, dict[str, Any]] = {}
    mounts: list[dict[str, Any]] = []
    for part in parts(pod):
        name = part.volume["name"]
        volumes[name] = {**_on_disk(part.volume, pod_dir), "name": name}
        mount = {"volume": name, "path": part.place, "readOnly": part.read_only}
        mounts.append({**mount, "gantry.io/sub-path": part.sub_path})
    for app, paths in layers.items():
        name = f"image.{app}"
        volumes[name] = {**_given(name, paths[-1]), "gantry.io/layers": list(paths)}
        mounts.append({"volume": name, "path": f"{SHARE}/images/{app}"})
    return list(volumes.values()), mounts


def make_places(pod_dir: Path, pod: Mapping[str, Any]) -> None:
    """Where apps write: what stage1 would make in the pod's directory (docs/stage1-interface.md). Raises OSError."""
    (pod_dir / "overlay").mkdir(exist_ok=True)
    for volume in pod.get("volumes") or ():
        place = pod_dir / "sharedVolumes" / volume["name"]
        if volume["kind"] == "empty" and not volume.get("gantry.io/medium") and not place.is_dir():
            place.mkdir(parents=True)
            os.chown(place, int(volume.get("uid") or 0), int(volume.get("gid") or 0))
            place.chmod(int(str(volume.get("mode") or "0755"), 8))


def users_on_host(pod: Mapping[str, Any], highest: int) -> str:
    """What the machine's pod on the host is told of its user namespace: that it must have one, if the pod says so; that
    it can have none, if the pod names ids which no range of ours has. highest: of those ids."""
    asked = _notes(pod).get(_USERS, "")
    if highest >= userns.SIZE and asked == "private":
        raise MachineError(f"a user namespace of its own has no user or group {highest}")
    if highest >= userns.SIZE:
        return "host"
    return "private" if asked == "private" else ""


def _on_disk(volume: Mapping[str, Any], pod_dir: str) -> Mapping[str, Any]:
    """The volume as it is for the machine's pod on the host: what is not in memory lies in the pod's own directory."""
    if volume["kind"] != "empty" or volume.get("gantry.io/medium"):
        return volume
    return {
        "kind": "host",
        "source": f"{pod_dir}/sharedVolumes/{volume['name']}",
        "readOnly": bool(volume.get("readOnly", False)),
        "recursive": False,
    }


def template_manifest(
    tools: Tools, boot: Boot, how: Accelerator, wanted: Size, *, aside: bool = False
) -> dict[str, Any]:
    """The PodManifest of a machine that others are to go on from. aside: it has the least right to the processors,
    and is the first to be killed for want of memory."""
    volumes, programs = _programs()
    volumes.append(_given("machine.boot", str(boot.root.parent)))
    mounts = [*programs, {"volume": "machine.boot", "path": "/boot"}]
    vm = _app(VM, commands.template(tools, boot, how, wanted), str(NOBODY), mounts, (), (), {"apps": []})
    limits = _host_limits(wanted)[:1]
    if aside:
        vm["app"]["isolators"].append({"name": _OOM_SCORE, "value": 1000})
        limits.append({"name": "resource/cpu", "value": {"request": "10m"}})
    return {
        "acVersion": _VERSION,
        "acKind": "PodManifest",
        "apps": [vm],
        "volumes": volumes,
        "isolators": limits,
        "annotations": [{"name": "gantry.io/flavor", "value": "linux"}],
        "ports": [],
    }


def _programs() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The volumes with the host's programs, and their mounts."""
    volumes = [_given(f"host{path.replace('/', '.')}", path) for path in host_paths()]
    return volumes, [{"volume": volume["name"], "path": volume["source"]} for volume in volumes]


def _given(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "kind": "host", "source": path, "readOnly": True, "recursive": False}


def device_files(how: Accelerator) -> list[str]:
    """The host's that QEMU opens: KVM's where it works, and that of taps. It makes none: it may open those it owns."""
    return [*([str(DEVICE)] if how.name == "kvm" else []), *([TUN] if os.path.exists(TUN) else [])]


def network_of_guest(links: Sequence[Link]) -> list[dict[str, Any]]:
    """The same, for executor/kvm/guest/network.py."""
    return [
        {
            "name": link.name,
            "index": link.index,
            "mac": link.mac,
            "mtu": link.mtu,
            "told": [[kind, payload.hex()] for kind, payload in link.told],
        }
        for link in links
    ]


def make_device(path: Path, original: Path) -> None:
    """A device file of our own for QEMU, which is nobody: the host's may be for others only, and cannot be
    id-mapped. It lies in the pod's directory, which only root may enter. Raises OSError."""
    os.mknod(path, stat.S_IFCHR, original.stat().st_rdev)
    path.chmod(0o666)


def host_paths() -> list[str]:
    """What QEMU and virtiofsd need of the host, as far as it is no link into /usr."""
    return [path for path in _SERVICES if Path(path).exists() and not Path(path).is_symlink()]


def guest_manifest(pod: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The PodManifest for the launcher in the guest: all volumes come from the host, all else is as it was.

    limits: (soft, hard) of the executor's, by name, as in `gantry.io/rlimits`.
    """
    notes = {
        **_notes(pod),
        "gantry.io/flavor": "linux",
        _USERS: "host",
        "gantry.io/overlay-attributes": "user",
    }
    given = parts(pod)
    return {
        **pod,
        "apps": [_as_here(app_in_guest(app, given), limits) for app in pod["apps"]],
        "volumes": volumes_in_guest(pod, given),
        "isolators": [
            *(one for one in pod.get("isolators") or () if one["name"] not in _ON_HOST),
            *_limit_in_guest(pod),
        ],
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
    }


def _limit_in_guest(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of memory, for all apps together, where they have not each their own: the machine has more."""
    asked = [_isolators(app["app"].get("isolators")) for app in pod["apps"]]
    own = _limit(_isolators(pod.get("isolators")), "resource/memory")
    if asked and own is None and all(_limit(one, "resource/memory") is not None for one in asked):
        return []
    return [{"name": "resource/memory", "value": {"limit": str(memory_of_apps(pod))}}]


def _as_here(app: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """With what it would inherit on the host, instead of what there is in the guest: an OOM score, which there is that
    of what must not be killed; limits of resources, which there are the kernel's for so little memory."""
    body = app["app"]
    asked = _isolators(body.get("isolators"))
    own = {name: {"soft": soft, "hard": hard} for name, (soft, hard) in limits.items()}
    more: list[dict[str, Any]] = [{"name": _RLIMITS, "value": {**own, **asked.get(_RLIMITS, {})}}]
    if _OOM_SCORE not in asked:
        more.append({"name": _OOM_SCORE, "value": 0})
    kept = [one for one in body.get("isolators") or () if one["name"] != _RLIMITS]
    return {**app, "app": {**body, "isolators": [*kept, *more]}}


def _app(
    name: str,
    argv: list[str],
    user: str,
    mounts: list[dict[str, Any]],
    capabilities: tuple[str, ...],
    forbidden: tuple[str, ...],
    pod: Mapping[str, Any],
) -> dict[str, Any]:
    isolators: list[dict[str, Any]] = [
        {"name": "os/linux/capabilities-retain-set", "value": {"set": list(capabilities)}},
        {"name": "os/linux/no-new-privileges", "value": True},
    ]
    if forbidden:
        isolators.append(
            {"name": "os/linux/seccomp-remove-set", "value": {"set": list(forbidden), "errno": "ENOSYS"}}
        )
    scores = [
        int(asked[_OOM_SCORE])
        for asked in (_isolators(app["app"].get("isolators")) for app in pod["apps"])
        if _OOM_SCORE in asked
    ]
    if scores:
        isolators.append({"name": _OOM_SCORE, "value": min(scores)})
    return {
        "name": name,
        "app": {"exec": argv, "user": user, "group": user, "isolators": isolators},
        "mounts": mounts,
        "annotations": [],
    }


def _host_limits(wanted: Size) -> list[dict[str, Any]]:
    cpu = {"request": f"{wanted.cpu_request_milli}m"}
    if wanted.cpu_limit_milli is not None:
        cpu["limit"] = f"{wanted.cpu_limit_milli}m"
    return [
        {"name": "resource/memory", "value": {"limit": str(wanted.host_memory)}},
        {"name": "resource/cpu", "value": cpu},
    ]


def _isolators(entries: Any) -> dict[str, Any]:
    return {str(one["name"]): one["value"] for one in entries or ()}


def _notes(pod: Mapping[str, Any]) -> dict[str, str]:
    return {str(one["name"]): str(one["value"]) for one in pod.get("annotations") or ()}
