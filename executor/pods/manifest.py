"""A v1 Pod as an appc PodManifest: what stage1 is told. Pure.

One entry in `apps` for each container, init containers included: stage1 is told which to start, and when. The manifest
is reified: images by id, every mount satisfied, users as numbers, quantities exact (milli-cores, bytes). Sources:
appc spec `pods.md` and `ace.md`; the `gantry.io/…` names are those of docs/stage1-interface.md.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from executor.pods import bandwidth, labels, seccomp, sysctls
from executor.pods.env import NO_OBJECTS, ConfigError, Node, command_line, environment, expand
from executor.pods.gpus import NO_DEVICES, Devices
from executor.pods.isolators import isolators, qos_class, with_image
from executor.pods.objects import Objects
from executor.pods.projections import is_projection
from executor.pods.rules import NO_RULES, Rules
from executor.pods.sockets import ports_of
from executor.pods.users import Identity
from executor.stage0.config import ImageConfig
from executor.stage1.manifest import FLAVORS
from shared.models.quantities import quantity_bytes

AC_VERSION: Final = "0.8.11"
INIT: Final = "gantry.io/init"
"""Annotation of an app that is an init container: `once`, or `sidecar` if it stays."""
HOSTNAME_MAX: Final = 63
DEFAULT_TERMINATION_PATH: Final = "/dev/termination-log"
_CONFINED: Final = ("linux", "nspawn", "kvm")
"""The flavors that have a default filter, and give containers processes of their own."""


@dataclass(frozen=True, slots=True)
class PodLevel:
    """What the containers of a pod share, read once. termination_dir: absolute, holds a file for each app. devices:
    by name of the container, for those that have some. rules: of this node. sysctls: that the pod sets.
    default_profile: of AppArmor, for containers that name none."""

    pod: Mapping[str, Any]
    node: Node
    flavor: str
    pod_ip: str
    qos_class: str
    termination_dir: str
    devices: Mapping[str, Devices] = field(default_factory=dict)
    rules: Rules = NO_RULES
    sysctls: Mapping[str, str] = field(default_factory=dict)
    default_profile: bool = False

    @property
    def hostname(self) -> str:
        """As kubelet's GeneratePodHostNameAndDomain: the pod's name unless it says otherwise, cut to 63."""
        spec = self.pod["spec"]
        return str(spec.get("hostname") or self.pod["metadata"]["name"])[:HOSTNAME_MAX].rstrip("-.")

    @property
    def host_network(self) -> bool:
        return bool(self.pod["spec"].get("hostNetwork"))


def choose_flavor(
    pod: Mapping[str, Any], handler: str, default_flavor: str, flavors: tuple[str, ...] = FLAVORS
) -> str:
    """The handler of its RuntimeClass names the flavor; a class that is no more meant the flavor of its name.

    Raises ValueError for a flavor that this executor does not have.
    """
    runtime_class = pod["spec"].get("runtimeClassName")
    if not runtime_class:
        return default_flavor
    flavor = str(handler or runtime_class)
    if flavor not in flavors:
        there_are = ", ".join(flavors)
        raise ValueError(
            f'RuntimeClass "{runtime_class}": its handler {flavor!r} is no stage1 flavor of this executor, '
            f"which has {there_are}"
        )
    return flavor


def pod_level(
    pod: Mapping[str, Any],
    node: Node,
    flavor: str,
    termination_dir: str,
    devices: Mapping[str, Devices] | None = None,
    rules: Rules = NO_RULES,
    *,
    default_profile: bool = False,
) -> PodLevel:
    """Read the pod's own part. The network of a pod is its own and has only loopback, unless it is the host's.

    Raises SysctlError, or another ValueError for what the flavor does not do.
    """
    spec = pod["spec"]
    for name in ("hostPID", "hostIPC"):
        if spec.get(name) and flavor not in ("linux", "fly"):
            raise ValueError(f"{name}: flavor {flavor} always has a namespace of its own")
    if spec.get("hostUsers") is False and flavor in ("fly", "nspawn"):
        raise ValueError(f"hostUsers: flavor {flavor} has no user namespace: false asks for one")
    pod_ip = node.ip if spec.get("hostNetwork") else ""
    qos = qos_class(spec)
    settings = sysctls.settings(pod, flavor, rules.unsafe_sysctls)
    profile = default_profile and flavor in ("linux", "nspawn")
    return PodLevel(pod, node, flavor, pod_ip, qos, termination_dir, devices or {}, rules, settings, profile)


def pod_manifest(level: PodLevel, apps: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole PodManifest with those apps that are ready to be in it."""
    notes = {"gantry.io/flavor": level.flavor, "gantry.io/hostname": level.hostname}
    if level.host_network:
        notes["gantry.io/host-network"] = "true"
        del notes["gantry.io/hostname"]  # such a pod has the host's name, as in Kubernetes
    elif level.flavor == "linux" and level.rules.reuse_namespaces:
        notes["gantry.io/network"] = "loopback"  # and nobody will add to it (see `executor.stage1.reuse`)
        notes["gantry.io/tenant"] = level.pod["metadata"].get("namespace", "")
    for field_name, note in (("hostPID", "host-pid"), ("hostIPC", "host-ipc")):
        if level.pod["spec"].get(field_name):
            notes[f"gantry.io/{note}"] = "true"
    if own_processes(level.pod["spec"], level.flavor):
        notes["gantry.io/processes"] = "own"
    if (host_users := level.pod["spec"].get("hostUsers")) is not None:
        notes["gantry.io/user-namespace"] = "host" if host_users else "private"
    return {
        "acVersion": AC_VERSION,
        "acKind": "PodManifest",
        "apps": apps,
        "volumes": [
            *(_volume(one, level) for one in level.pod["spec"].get("volumes") or ()),
            *_termination_volumes(level),
            *_device_volumes(level),
        ],
        "isolators": _pod_isolators(level),
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
        "ports": [],
    }


def own_processes(spec: Mapping[str, Any], flavor: str) -> bool:
    """Whether each container is to have its own, and can: unless the pod says otherwise, as in Kubernetes."""
    shared = spec.get("shareProcessNamespace") or spec.get("hostPID")
    return not shared and flavor in _CONFINED


def _pod_isolators(level: PodLevel) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    if level.rules.max_pids:
        made.append({"name": "gantry.io/pids", "value": {"limit": level.rules.max_pids}})
    if level.sysctls:
        made.append({"name": "os/unix/sysctl", "value": dict(level.sysctls)})
    return made + bandwidth.isolators(level.pod)


def _open_ports(level: PodLevel, config: ImageConfig) -> list[dict[str, Any]]:
    """Those of the image that its app is to find open. ConfigError."""
    ports = [port for port in (config.app or {}).get("ports") or () if port.get("socketActivated")]
    if ports and level.flavor == "kvm":
        raise ConfigError(
            f"image: port {ports[0]['name']} is socket-activated, which is not done in a virtual machine"
        )
    try:
        ports_of("", {"ports": ports})  # as it will be read
    except ValueError as error:
        raise ConfigError(f"image: {error}") from None
    return ports


def app_entry(
    level: PodLevel,
    container: Mapping[str, Any],
    image_id: str,
    config: ImageConfig,
    identity: Identity,
    objects: Objects = NO_OBJECTS,
) -> dict[str, Any]:
    """The entry of one container in `apps`. Raises ConfigError for what cannot be made as asked."""
    context = container.get("securityContext") or {}
    asked = environment(container, level.pod, level.node, level.pod_ip, objects)
    # PATH, HOME, HOSTNAME and AC_APP_NAME are stage1's to fill in.
    env = {**config.env, **_gpu_variables(level, container), **asked}
    directory = container.get("workingDir") or config.working_dir or "/"
    of_image = (config.app or {}).get("isolators") or ()
    node = level.node
    own = [
        *isolators(container, level.qos_class, node.scale, node.lowest_oom_score, of_image),
        *seccomp.isolator(container, level.pod["spec"], level.rules.seccomp_profiles),
        *labels.isolators(container, level.pod["spec"], default_profile=level.default_profile),
    ]
    app: dict[str, Any] = {
        "exec": command_line(container, asked, config.entrypoint, config.cmd),
        "user": str(identity.uid),
        "group": str(identity.gid),
        "supplementaryGIDs": list(identity.groups),
        "workingDirectory": directory,
        "environment": [{"name": name, "value": value} for name, value in env.items()],
        "isolators": with_image(own, of_image, default_seccomp=level.flavor in _CONFINED),
        "ports": _open_ports(level, config),
    }
    if handlers := event_handlers(config):
        app["eventHandlers"] = [{"name": name, "exec": argv} for name, argv in handlers.items()]
    notes = {"gantry.io/stop-signal": str(int(stop_signal(config.stop_signal)))}
    if any(one["name"] == container["name"] for one in level.pod["spec"].get("initContainers") or ()):
        notes[INIT] = "sidecar" if container.get("restartPolicy") == "Always" else "once"
    if config.format == "aci" and not container.get("workingDir"):
        notes["gantry.io/working-directory"] = "exists"  # appc aci.md: else the start fails
    if context.get("privileged"):
        notes["gantry.io/privileged"] = "true"
    if context.get("procMount") == "Unmasked":
        notes["gantry.io/proc-mount"] = "unmasked"
    if (level.pod["spec"].get("securityContext") or {}).get("supplementalGroupsPolicy") == "Strict":
        notes["gantry.io/groups"] = "strict"
    mounts = _mounts(level, container, asked)
    of_its_own = _own_volumes(config, [mount["path"] for mount in mounts])
    return {
        "name": container["name"],
        "image": {"id": image_id},
        "app": app,
        "readOnlyRootFS": bool(context.get("readOnlyRootFilesystem")),
        **({"gantry.io/image-volumes": of_its_own} if of_its_own else {}),
        "mounts": mounts,
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
    }


def event_handlers(config: ImageConfig) -> dict[str, list[str]]:
    """Commands of the image's handlers by name: pre-start, post-stop (appc spec, aci.md)."""
    listed = (config.app or {}).get("eventHandlers") or ()
    return {str(one["name"]): [str(word) for word in one["exec"]] for one in listed}


def stop_signal(text: str) -> int:
    """The number of an image's StopSignal: "SIGTERM", "TERM", "15", "SIGRTMIN+3"; "" is SIGTERM."""
    name = text.strip().upper()
    if not name:
        return signal.SIGTERM
    if name.isdecimal():
        number = int(name)
    else:
        name = name if name.startswith("SIG") else f"SIG{name}"
        base, _, offset = name.partition("+")
        if base not in signal.Signals.__members__ or (offset and not offset.isdecimal()):
            raise ConfigError(f"image: unknown StopSignal {text!r}")
        number = signal.Signals[base] + int(offset or 0)
    if not 1 <= number <= signal.SIGRTMAX:
        raise ConfigError(f"image: StopSignal {text!r} is out of range")
    return number


def termination_path(container: Mapping[str, Any]) -> str:
    """Where in the container its termination message is."""
    return str(container.get("terminationMessagePath") or DEFAULT_TERMINATION_PATH)


def _fs_group(level: PodLevel) -> int | None:
    group = (level.pod["spec"].get("securityContext") or {}).get("fsGroup")
    return None if group is None else int(group)


def _volume(volume: Mapping[str, Any], level: PodLevel) -> dict[str, Any]:
    """An appc volume; new ones are `fsGroup`'s, as `ownership` would make them. Raises ConfigError for a source that is
    not done."""
    group = _fs_group(level)
    name, given = volume["name"], {} if group is None else {"gid": group}
    if "hostPath" in volume:
        return {"name": name, "kind": "host", "source": volume["hostPath"]["path"]}
    if is_projection(volume):  # a tmpfs, so that no secret gets to a disk; the runner writes the files
        mode = "0755" if group is None else "2755"
        return {"name": name, "kind": "empty", "mode": mode, **given, "gantry.io/medium": "Memory"}
    if "emptyDir" not in volume:
        source = next((key for key in volume if key != "name"), "nothing")
        raise ConfigError(f'volume "{name}": {source} is not supported')
    empty = volume["emptyDir"] or {}
    mode = "0777" if group is None else "2777"  # as the kubelet makes them
    made: dict[str, Any] = {"name": name, "kind": "empty", "mode": mode, **given}
    if empty.get("medium") == "Memory":
        made["gantry.io/medium"] = "Memory"
        if size := _memory_size(level, empty.get("sizeLimit") or 0):
            made["gantry.io/size-limit"] = str(size)
    elif empty.get("medium"):
        raise ConfigError(f'volume "{name}": medium {empty["medium"]!r} is not supported')
    return made


def _memory_size(level: PodLevel, asked: Any) -> int:
    """Bytes of a volume in memory: the least of what the volume, the pod and the node may have (kubelet,
    calculateEmptyDirMemorySize). asked: its sizeLimit; 0 says nothing."""
    spec = level.pod["spec"]
    inits, mains = list(spec.get("initContainers") or ()), list(spec["containers"])
    limits = [_memory_limit(one) for one in (*inits, *mains)]
    stay = [*(one for one in inits if one.get("restartPolicy") == "Always"), *mains]
    of_pod = max([sum(map(_memory_limit, stay)), *limits]) if all(limits) else 0
    return min((size for size in (quantity_bytes(asked), of_pod, level.node.scale) if size), default=0)


def _memory_limit(container: Mapping[str, Any]) -> int:
    return quantity_bytes(((container.get("resources") or {}).get("limits") or {}).get("memory") or 0)


def _termination_volumes(level: PodLevel) -> list[dict[str, Any]]:
    """No volume of a pod has a dot in its name."""
    spec = level.pod["spec"]
    return [
        {
            "name": f"termination.{container['name']}",
            "kind": "host",
            "source": f"{level.termination_dir}/{container['name']}",
        }
        for container in (*(spec.get("initContainers") or ()), *spec["containers"])
    ]


def _own_volumes(config: ImageConfig, mounted: list[str]) -> list[str]:
    """The image's volumes that the pod mounts nothing on, or above. ("/" is the app's own in any case.)"""
    paths = {f"/{path.strip('/')}" for path in config.volumes if path.strip("/")}
    taken = tuple(f"{path.rstrip('/')}/" for path in mounted)
    return sorted(path for path in paths if not f"{path}/".startswith(taken))


def _sub_path(mount: Mapping[str, Any], env: Mapping[str, str]) -> str:
    """As the kubelet's makeMounts: variables are the container's own. Raises ConfigError."""
    if not mount.get("subPathExpr"):
        return str(mount.get("subPath") or "")
    path = expand(mount["subPathExpr"], env, strict=True)
    if path.startswith("/"):
        raise ConfigError(f"error SubPath `{path}` must not be an absolute path")
    if ".." in path.split("/"):
        raise ConfigError(f"unable to provision SubPath `{path}`: must not contain '..'")
    return path


def _mounts(level: PodLevel, container: Mapping[str, Any], env: Mapping[str, str]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    fixed = {one["name"] for one in level.pod["spec"].get("volumes") or () if is_projection(one)}
    for mount in container.get("volumeMounts") or ():
        entry = {"volume": mount["name"], "path": _absolute(mount["mountPath"])}
        if mount.get("readOnly") or mount["name"] in fixed:
            entry["readOnly"] = True
        if sub_path := _sub_path(mount, env):
            entry["gantry.io/sub-path"] = sub_path
        if mount.get("mountPropagation", "None") != "None":
            entry["gantry.io/propagation"] = mount["mountPropagation"]
        made.append(entry)
    made.append({"volume": f"termination.{container['name']}", "path": termination_path(container)})
    files = _device_files(level, container)
    return made + [{"volume": _device_name(file), "path": f"/dev/{_base(file)}"} for file in files]


def _device_volumes(level: PodLevel) -> list[dict[str, Any]]:
    spec = level.pod["spec"]
    containers = (*(spec.get("initContainers") or ()), *spec["containers"])
    files = dict.fromkeys(file for one in containers for file in _device_files(level, one))
    return [
        {
            "name": _device_name(file),
            "kind": "host",
            "source": file,
            "recursive": False,
            "gantry.io/device": True,
        }
        for file in files
    ]


def _device_files(level: PodLevel, container: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that have to be put into the app's /dev; under fly that is the host's."""
    return () if level.flavor == "fly" else level.devices.get(container["name"], NO_DEVICES).files


def _device_name(file: str) -> str:
    return f"device.{_base(file)}"


def _base(file: str) -> str:
    return file.rpartition("/")[2]


def _gpu_variables(level: PodLevel, container: Mapping[str, Any]) -> dict[str, str]:
    numbers = level.devices.get(container["name"], NO_DEVICES).numbers
    return {"NVIDIA_VISIBLE_DEVICES": ",".join(map(str, numbers))} if numbers else {}


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
