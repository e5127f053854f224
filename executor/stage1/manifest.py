"""A light reader of a pod directory's `pod` file: the appc PodManifest, as stage0 writes it (reified).

Reads what stage1 enforces into plain tuples and refuses what it would have to ignore; the full schema is
stage0's business. Source of the fields: appc spec 0.8.11, pods.md and ace.md; `gantry.io/…` are ours.
"""

import json
import posixpath
from typing import Any, Final, NamedTuple

from executor.stage1 import isolators, lsm, userns
from executor.stage1 import seccomp as filters
from executor.stage1.isolators import NO_LIMITS, Limits, ManifestError, quantity

__all__ = [
    "ETC",
    "FLAVORS",
    "NO_LIMITS",
    "App",
    "Limits",
    "ManifestError",
    "Mount",
    "Pod",
    "Volume",
    "quantity",
    "read",
]

FLAVORS: Final = ("linux", "fly", "nspawn")
ETC: Final = ("hosts", "hostname", "resolv.conf")
"""The files of /etc that pods have for their apps."""
_PROPAGATIONS: Final = {"None": "", "HostToContainer": "in", "Bidirectional": "both"}


class Volume(NamedTuple):
    """One volume of the pod. `size` (bytes) only with medium "Memory"; mode, uid, gid only with kind "empty"; `device`:
    a device file of the host that its apps may open, kind "host"; `layers`: of an image, seen as one and read-only."""

    name: str
    kind: str
    source: str
    read_only: bool
    recursive: bool
    memory: bool
    size: int | None
    mode: int
    uid: int
    gid: int
    device: bool = False
    layers: tuple[str, ...] = ()


class Mount(NamedTuple):
    """A volume (or a path below it) on an absolute path of the app. `propagation` of mounts below: "", "in", "both"."""

    volume: str
    path: str
    sub_path: str
    read_only: bool
    propagation: str = ""


class App(NamedTuple):
    """What stage1 needs to know about one app."""

    name: str
    exec: tuple[str, ...]
    user: str
    group: str
    supplementary_gids: tuple[int, ...]
    working_directory: str
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    capabilities: frozenset[str] | None  # None: the flavor's default
    no_new_privileges: bool
    oom_score_adj: int | None
    limits: Limits
    read_only_root: bool
    privileged: bool
    rlimits: tuple[tuple[int, int, int], ...] = ()  # resource (resource.h), soft, hard; -1 is no limit
    seccomp: filters.Filter | None = None
    default_seccomp: bool = True  # the flavor's filter, when the manifest does not say
    whole_proc: bool = False  # nothing of its /proc is hidden or read-only
    strict_groups: bool = False  # no groups that only the image knows
    label: lsm.Label | None = None  # for the kernel's security module
    own_volumes: tuple[str, ...] = ()  # paths that are writable, whatever its root is
    makes_directory: bool = True  # its working directory, when that is missing
    root_handlers: bool = False  # its event handlers run as root, not as its user
    image_files: tuple[str, ...] = ()  # of /etc, that are its image's, or are not there


class Pod(NamedTuple):
    """What stage1 needs to know about a pod."""

    flavor: str
    hostname: str
    host_network: bool
    volumes: dict[str, Volume]
    apps: dict[str, App]
    users: str = ""  # "private", "host", or where possible
    limits: Limits = NO_LIMITS
    sysctls: tuple[tuple[str, str], ...] = ()
    ids: int = 0  # the first id of its user namespace on the host; 0: it has none
    privileged: bool = False  # apps that come later may be
    metadata_url: str = ""  # of the metadata service, for this pod; "" when it has none
    host_pid: bool = False  # its apps see all processes of the host
    host_ipc: bool = False
    own_processes: bool = False  # each app has a pid namespace, below the pod's
    user_attributes: bool = (
        False  # overlays keep what they note in user.* attributes: their disk takes no trusted.*
    )
    loopback_only: bool = False  # nobody will put anything else into its network namespace
    tenant: str = ""  # who shares nothing, not even what was left untouched, with another

    @property
    def isolated(self) -> bool:
        """Whether it has namespaces of its own, beyond those of its apps' mounts."""
        return self.flavor != "fly"

    @property
    def may_have_users(self) -> bool:
        """Whether a user namespace of its own fits what else the pod asks for."""
        if (
            self.flavor != "linux"
            or self.any_privileged
            or self.host_network
            or self.host_pid
            or self.host_ipc
        ):
            return False
        return self.highest_id < userns.SIZE

    @property
    def highest_id(self) -> int:
        """Of the users and groups that it names in numbers."""
        ids = [one for volume in self.volumes.values() for one in (volume.uid, volume.gid)]
        for app in self.apps.values():
            ids += [userns.number(one) or 0 for one in (app.user, app.group)]
            ids += app.supplementary_gids
        return max(ids, default=0)

    @property
    def any_privileged(self) -> bool:
        """Whether an app is privileged, or may be that comes later."""
        return self.privileged or any(app.privileged for app in self.apps.values())


def read(text: str | bytes) -> Pod:
    """Parse a PodManifest; raises ManifestError."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"pod manifest: not JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("acKind") != "PodManifest":
        raise ManifestError("pod manifest: acKind is not PodManifest")
    try:
        return _pod(raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"pod manifest: malformed: {type(error).__name__}: {error}") from None


def _pod(raw: dict[str, Any]) -> Pod:
    notes = _annotations(raw)
    flavor = notes.get("gantry.io/flavor", "linux")
    if flavor not in FLAVORS:
        raise ManifestError(f"annotation gantry.io/flavor: {flavor!r} is not one of {', '.join(FLAVORS)}")
    limits, sysctls = isolators.of_pod(raw.get("isolators") or ())
    volumes = {volume.name: volume for volume in map(_volume, raw.get("volumes") or ())}
    apps: dict[str, App] = {}
    for entry in raw["apps"]:
        app = _app(entry, volumes)
        if app.name in apps:
            raise ManifestError(f"app {app.name}: there are two of that name")
        apps[app.name] = app
    users = notes.get("gantry.io/user-namespace", "")
    if users not in ("", "private", "host"):
        raise ManifestError(f"annotation gantry.io/user-namespace: {users!r} is neither private nor host")
    pod = Pod(
        flavor=flavor,
        hostname=notes.get("gantry.io/hostname", ""),
        host_network=notes.get("gantry.io/host-network") == "true",
        volumes=volumes,
        apps=apps,
        users=users,
        limits=limits,
        sysctls=sysctls,
        privileged=notes.get("gantry.io/privileged") == "true",
        host_pid=notes.get("gantry.io/host-pid") == "true",
        host_ipc=notes.get("gantry.io/host-ipc") == "true",
        own_processes=_processes(notes) == "own",
        user_attributes=_user_attributes(notes),
        loopback_only=_loopback_only(notes),
        tenant=notes.get("gantry.io/tenant", ""),
    )
    _check(pod)
    return pod


def _processes(notes: dict[str, str]) -> str:
    word = notes.get("gantry.io/processes", "shared")
    if word not in ("shared", "own"):
        raise ManifestError(f"annotation gantry.io/processes: {word!r} is neither shared nor own")
    return word


def _check(pod: Pod) -> None:
    """What does not go together. Raises ManifestError."""
    if pod.own_processes and (not pod.isolated or pod.host_pid):
        raise ManifestError("annotation gantry.io/processes: own: the pod has the host's processes")
    if pod.flavor == "nspawn" and (pod.host_pid or pod.host_ipc):
        name = "host-pid" if pod.host_pid else "host-ipc"
        raise ManifestError(f"annotation gantry.io/{name}: flavor nspawn always has a namespace of its own")
    if pod.sysctls and not pod.isolated:
        raise ManifestError("pod isolator os/unix/sysctl: flavor fly has no parameters of its own")
    for name, _ in pod.sysctls:
        kind, shared = ("network", pod.host_network) if name.startswith("net.") else ("ipc", pod.host_ipc)
        if shared:
            raise ManifestError(
                f"pod isolator os/unix/sysctl: {name} would be the host's, whose {kind} the pod has"
            )
    unmasked = [app.name for app in pod.apps.values() if app.whole_proc]
    if unmasked and pod.users != "private":
        raise ManifestError(
            f"app {unmasked[0]}: annotation gantry.io/proc-mount: unmasked needs a user namespace of the pod's own "
            "(annotation gantry.io/user-namespace: private)"
        )
    if pod.users == "private" and not pod.may_have_users:
        raise ManifestError(
            "annotation gantry.io/user-namespace: private needs flavor linux, nothing of the host (network, pid, ipc), "
            f"no privileged app, and users and groups below {userns.SIZE}"
        )


def _user_attributes(notes: dict[str, str]) -> bool:
    word = notes.get("gantry.io/overlay-attributes", "trusted")
    if word not in ("trusted", "user"):
        raise ManifestError(f"annotation gantry.io/overlay-attributes: {word!r} is neither trusted nor user")
    return word == "user"


def _loopback_only(notes: dict[str, str]) -> bool:
    word = notes.get("gantry.io/network", "")
    if word not in ("", "loopback"):
        raise ManifestError(f"annotation gantry.io/network: {word!r} is not loopback")
    return word == "loopback"


def _annotations(raw: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: str(entry["value"]) for entry in raw.get("annotations") or ()}


def _volume(raw: dict[str, Any]) -> Volume:
    name, kind, source = str(raw["name"]), raw["kind"], str(raw.get("source") or "")
    if kind not in ("empty", "host"):
        raise ManifestError(f"volume {name}: kind {kind!r} is not empty or host")
    if kind == "host" and not source.startswith("/"):
        raise ManifestError(f"volume {name}: source {source!r} is not an absolute path")
    if "/" in name or name in ("", ".", ".."):
        raise ManifestError(f"volume {name!r}: not a valid name")
    medium, size = raw.get("gantry.io/medium", ""), raw.get("gantry.io/size-limit")
    if medium not in ("", "Memory"):
        raise ManifestError(f"volume {name}: gantry.io/medium {medium!r} is not Memory")
    return Volume(
        name=name,
        kind=kind,
        source=source,
        read_only=bool(raw.get("readOnly", False)),
        recursive=bool(raw.get("recursive", True)),
        memory=medium == "Memory",
        size=None if size is None else quantity(size),
        mode=int(str(raw.get("mode") or "0755"), 8),
        uid=int(raw.get("uid") or 0),
        gid=int(raw.get("gid") or 0),
        device=_device(name, kind, raw),
        layers=_layers(name, kind, raw),
    )


def _layers(name: str, kind: str, raw: dict[str, Any]) -> tuple[str, ...]:
    layers = tuple(map(str, raw.get("gantry.io/layers") or ()))
    if layers and (
        kind != "host" or not raw.get("readOnly") or not all(one.startswith("/") for one in layers)
    ):
        raise ManifestError(
            f"volume {name}: gantry.io/layers are absolute paths, on a volume of kind host that is read-only"
        )
    return layers


def _device(name: str, kind: str, raw: dict[str, Any]) -> bool:
    device = raw.get("gantry.io/device", False)
    if device not in (False, True) or (device and kind != "host"):
        raise ManifestError(
            f"volume {name}: gantry.io/device {device!r} is not true on a volume of kind host"
        )
    return bool(device)


def _app(raw: dict[str, Any], volumes: dict[str, Volume]) -> App:
    name, body, notes = str(raw["name"]), raw["app"], _annotations(raw)
    if "/" in name or name in ("", ".", "..") or name.startswith("."):
        raise ManifestError(f"app {name!r}: not a valid name")
    if not body.get("exec"):
        raise ManifestError(f"app {name}: exec is empty, there is nothing to run")
    directory = body.get("workingDirectory") or "/"
    if not directory.startswith("/"):
        raise ManifestError(f"app {name}: workingDirectory {directory!r} is not absolute")
    isolated = isolators.of_app(name, body.get("isolators") or ())
    return App(
        name=name,
        exec=tuple(map(str, body["exec"])),
        user=_principal(name, str(body.get("user") or "0")),
        group=_principal(name, str(body.get("group") or "0")),
        supplementary_gids=tuple(
            int(_principal(name, str(one))) for one in body.get("supplementaryGIDs") or ()
        ),
        working_directory=directory,
        environment=tuple((str(e["name"]), str(e["value"])) for e in body.get("environment") or ()),
        mounts=_mounts(name, raw, volumes),
        capabilities=isolated["capabilities"],
        no_new_privileges=isolated["no_new_privileges"],
        oom_score_adj=isolated["oom_score_adj"],
        limits=isolated["limits"],
        rlimits=isolated["rlimits"],
        read_only_root=bool(raw.get("readOnlyRootFS", False)),
        privileged=notes.get("gantry.io/privileged") == "true",
        seccomp=isolated["seccomp"],
        default_seccomp=not isolated["seccomp_given"],
        whole_proc=_one_of(name, notes, "gantry.io/proc-mount", ("default", "unmasked")) == "unmasked",
        root_handlers=_one_of(name, notes, "gantry.io/handlers", ("app", "root")) == "root",
        strict_groups=_one_of(name, notes, "gantry.io/groups", ("merge", "strict")) == "strict",
        label=isolated["label"],
        own_volumes=_own_volumes(name, raw),
        image_files=_image_files(name, notes),
        makes_directory=_one_of(name, notes, "gantry.io/working-directory", ("made", "exists")) == "made",
    )


def _image_files(app: str, notes: dict[str, str]) -> tuple[str, ...]:
    names = tuple(notes.get("gantry.io/image-files", "").split())
    if wrong := [name for name in names if name not in ETC]:
        raise ManifestError(
            f"app {app}: annotation gantry.io/image-files: {wrong[0]!r} is none of {', '.join(ETC)}"
        )
    return names


def _principal(app: str, text: str) -> str:
    """A user or group, in whatever way it is named."""
    try:
        userns.number(text)
    except ValueError as error:
        raise ManifestError(f"app {app}: {error}") from None
    return text


def _one_of(app: str, notes: dict[str, str], name: str, words: tuple[str, ...]) -> str:
    word = notes.get(name, words[0])
    if word not in words:
        raise ManifestError(f"app {app}: annotation {name}: {word!r} is not one of {', '.join(words)}")
    return word


def _own_volumes(app: str, raw: dict[str, Any]) -> tuple[str, ...]:
    paths = sorted(map(str, raw.get("gantry.io/image-volumes") or ()))
    if wrong := [path for path in paths if not path.startswith("/") or not path.strip("/")]:
        raise ManifestError(f"app {app}: gantry.io/image-volumes: {wrong[0]!r} is not a path below /")
    return tuple(paths)


def _mounts(app: str, raw: dict[str, Any], volumes: dict[str, Volume]) -> tuple[Mount, ...]:
    """`mounts` of the app; a mountPoint without one takes the volume of its own name (appc pods.md)."""
    points = {str(point["path"]): point for point in raw["app"].get("mountPoints") or ()}
    entries = list(raw.get("mounts") or ())
    given = {str(entry["path"]) for entry in entries}
    entries += [{"volume": p["name"], "path": path} for path, p in points.items() if path not in given]
    result = []
    for entry in entries:
        volume, path = str(entry["volume"]), str(entry["path"])
        if volume not in volumes:
            raise ManifestError(f"app {app}: mount {path}: the pod has no volume {volume!r}")
        if not path.startswith("/"):
            raise ManifestError(f"app {app}: mount {path!r}: not an absolute path")
        if posixpath.normpath(path).strip("/") == "":
            raise ManifestError(f"app {app}: mount {path!r}: nothing is mounted on an app's root")
        read_only = (
            volumes[volume].read_only
            or bool(entry.get("readOnly", False))
            or bool(points.get(path, {}).get("readOnly", False))
        )
        sub_path = str(entry.get("gantry.io/sub-path") or "")
        result.append(
            Mount(volume, path, sub_path, read_only, _propagation(app, entry, raw, volumes[volume]))
        )
    # Parents first, so that /a/b lands inside what is mounted on /a.
    return tuple(sorted(result, key=lambda mount: mount.path.rstrip("/").split("/")))


def _propagation(app: str, entry: dict[str, Any], raw: dict[str, Any], volume: Volume) -> str:
    """As Kubernetes' mountPropagation. What an app mounts gets out only if it is privileged."""
    word = str(entry.get("gantry.io/propagation") or "None")
    if word not in _PROPAGATIONS:
        raise ManifestError(
            f"app {app}: gantry.io/propagation: {word!r} is none of {', '.join(_PROPAGATIONS)}"
        )
    if _PROPAGATIONS[word] and (volume.kind != "host" or volume.layers):
        raise ManifestError(f"app {app}: gantry.io/propagation: volume {volume.name} is not of kind host")
    if word == "Bidirectional" and _annotations(raw).get("gantry.io/privileged") != "true":
        raise ManifestError(f"app {app}: gantry.io/propagation: Bidirectional is for privileged apps")
    return _PROPAGATIONS[word]
