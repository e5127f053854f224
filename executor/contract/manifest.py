"""The pod as a stage1 is told of it that knows appc, and nothing of us. Pure, but for a look at /etc/resolv.conf.

What only Gantry's stage1 understands is done by stage0 instead: every mount gets a volume of kind `host` of its own,
whose source stage0 makes and mounts (memory, sub paths, read-only directories); limits are set on the pod's cgroup.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from executor.contract.interface import MUTABLE, ContractError, Run, Stage1
from executor.stage1 import caps
from executor.stage1 import manifest as ours
from executor.stage1.manifest import Limits, Volume

SHARED: Final = "sharedVolumes"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_NAME: Final = re.compile(r"[^a-z0-9]+")
_ID: Final = re.compile(r"sha512-[0-9a-f]{2,128}")
_OURS: Final = "gantry.io/"
_URL: Final = "AC_METADATA_URL"
_USERS: Final = "gantry.io/user-namespace"
_RETAIN: Final = "os/linux/capabilities-retain-set"
_REMOVE: Final = "os/linux/capabilities-remove-set"
_OF_THE_CGROUP: Final = frozenset(
    {"resource/cpu", "resource/memory", "os/linux/cpu-shares", "gantry.io/pids"}
)
_OF_AN_APP: Final = _OF_THE_CGROUP | {
    "gantry.io/rlimits",
    "os/linux/capabilities-retain-set",
    "os/linux/capabilities-remove-set",
    "os/linux/no-new-privileges",
    "os/linux/oom-score-adj",
    "os/linux/seccomp-retain-set",
    "os/linux/seccomp-remove-set",
}
"""What rkt's stages enforce, or we do around them."""


class Place(NamedTuple):
    """A directory or file that stage0 makes for a volume or a mount of it, at `target` (absolute).

    kind "empty": a directory with this mode and owner; "memory": a tmpfs of at most `size` bytes; "below": what lies at
    `path` in `source`, resolved without leaving it, mounted on `target`.
    """

    kind: str
    target: str
    source: str = ""
    path: str = ""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0


class Foreign(NamedTuple):
    """manifest: for the pod directory; limits: of the pod's cgroup; rlimits: of the process that runs the pod; users:
    whether it is to have user ids of its own."""

    manifest: dict[str, Any]
    places: tuple[Place, ...]
    limits: Limits
    rlimits: tuple[tuple[int, int, int], ...]
    run: Run
    users: bool = False


def convert(stage1: Stage1, text: bytes | str, pod_dir: Path, url: str = "") -> Foreign:
    """The pod of a directory for `stage1`. url: of its metadata service. Raises ContractError for what cannot be done,
    or is malformed."""
    try:
        raw = json.loads(text)
        pod = ours.read(json.dumps(_readable(stage1, raw)))
    except (ours.ManifestError, ValueError, KeyError, TypeError) as error:
        raise ContractError(f"stage1 {stage1.name}: {error}") from None
    names = _Names()
    places, volumes = _volume_places(pod.volumes, pod_dir), []
    apps = []
    for entry in raw["apps"]:
        app = pod.apps[entry["name"]]
        mounts = []
        for mount in app.mounts:
            volume = pod.volumes[mount.volume]
            source = _source(volume, pod_dir)
            name = names.new(volume.name)
            if mount.sub_path:
                place = Place("below", str(pod_dir / SHARED / f"below.{name}"), source, mount.sub_path)
                places.append(place)
                source = place.target
            made = {"name": name, "kind": "host", "source": source, "readOnly": mount.read_only}
            volumes.append({**made, "recursive": volume.recursive})
            mounts.append({"volume": name, "path": mount.path})
        apps.append(_app(entry, mounts, pod.hostname, url))
    notes = {
        one["name"]: one["value"] for one in raw.get("annotations") or () if not one["name"].startswith(_OURS)
    }
    if stage1.mutable:
        notes[MUTABLE] = "true"
    manifest = {
        "acVersion": raw["acVersion"],
        "acKind": "PodManifest",
        "apps": apps,
        "volumes": volumes,
        "isolators": isolators(raw),
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
        "ports": raw.get("ports") or [],
    }
    users = any(one == {"name": _USERS, "value": "private"} for one in raw.get("annotations") or ())
    return Foreign(manifest, tuple(places), _limits(pod), _rlimits(stage1, pod), _run(stage1, pod), users)


def image_id(text: str) -> str:
    """An image id as appc has them: `sha512-…`; of another kind of image one that is made of its own."""
    return text if _ID.fullmatch(text) else f"sha512-{hashlib.sha512(text.encode()).hexdigest()}"


def isolators(of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of an app or a pod that appc has. It knows no empty set: who keeps no capability has all of the default
    ones removed (appc spec, schema/types/isolator_linux_specific.go)."""
    made: list[dict[str, Any]] = []
    for one in of.get("isolators") or ():
        if one["name"] in (_RETAIN, _REMOVE) and not one["value"]["set"]:
            if one["name"] == _RETAIN:
                made.append({"name": _REMOVE, "value": {"set": sorted(caps.DEFAULT)}})
        elif not one["name"].startswith(_OURS):
            made.append(one)
    return made


def _readable(stage1: Stage1, raw: dict[str, Any]) -> dict[str, Any]:
    """The manifest for our own reader, which knows our own flavors; refuses what nobody else would enforce."""
    for entry in raw["apps"]:
        for isolator in entry["app"].get("isolators") or ():
            _check_isolator(stage1, f"app {entry['name']}", isolator["name"], _OF_AN_APP)
    for isolator in raw.get("isolators") or ():
        _check_isolator(stage1, "pod", isolator["name"], _OF_THE_CGROUP)
    for volume in raw.get("volumes") or ():
        if volume.get("gantry.io/layers"):
            raise ContractError(
                f"stage1 {stage1.name}: volume {volume['name']}: an image as a volume is not done"
            )
    skipped = {"gantry.io/flavor", _USERS}
    notes = [one for one in raw.get("annotations") or () if one["name"] not in skipped]
    return {**raw, "annotations": notes}


def _check_isolator(stage1: Stage1, whose: str, name: str, known: frozenset[str]) -> None:
    if name not in known:
        raise ContractError(
            f"stage1 {stage1.name}: {whose}: isolator {name}: no stage1 of rkt's contract enforces it"
        )


def _volume_places(volumes: Mapping[str, Volume], pod_dir: Path) -> list[Place]:
    made = []
    for volume in volumes.values():
        if volume.kind == "empty":
            kind = "memory" if volume.memory else "empty"
            made.append(
                Place(
                    kind,
                    _source(volume, pod_dir),
                    "",
                    "",
                    volume.mode,
                    volume.uid,
                    volume.gid,
                    volume.size or 0,
                )
            )
    return made


def _source(volume: Volume, pod_dir: Path) -> str:
    """Those in memory are where the runner looks for them (`/proc/PID/root/volume.NAME`)."""
    if volume.kind == "host":
        return volume.source
    return str(pod_dir / SHARED / (f"volume.{volume.name}" if volume.memory else volume.name))


class _Names:
    """Names as appc wants them, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def new(self, text: str) -> str:
        base = name = _NOT_NAME.sub("-", text.lower()).strip("-") or "volume"
        number = 1
        while name in self._given:
            number += 1
            name = f"{base}-{number}"
        self._given.add(name)
        return name


def _app(entry: dict[str, Any], mounts: list[dict[str, Any]], hostname: str, url: str) -> dict[str, Any]:
    app = dict(entry["app"])
    given = [dict(one) for one in app.get("environment") or ()]
    if url:
        given = [one for one in given if one["name"] != _URL] + [{"name": _URL, "value": url}]
    names = {one["name"] for one in given}
    defaults = {"PATH": PATH, "AC_APP_NAME": entry["name"], "HOSTNAME": hostname}
    app["environment"] = [
        *({"name": name, "value": value} for name, value in defaults.items() if value and name not in names),
        *given,
    ]
    app["isolators"] = isolators(app)
    app.pop("mountPoints", None)  # every one of them has its mount
    notes = [one for one in entry.get("annotations") or () if not one["name"].startswith(_OURS)]
    image = {**entry["image"], "id": image_id(str(entry["image"]["id"]))}
    return {**entry, "image": image, "app": app, "mounts": mounts, "annotations": notes}


def _limits(pod: ours.Pod) -> Limits:
    """Of the pod: its own, or what its apps may have together, if each of them has a limit."""

    def together(name: str) -> int | None:
        own: int | None = getattr(pod.limits, name)
        parts: list[int | None] = [getattr(app.limits, name) for app in pod.apps.values()]
        known = [part for part in parts if part is not None]
        if not parts or len(known) < len(parts):
            return own
        return sum(known) if own is None else min(own, sum(known))

    return Limits(**{name: together(name) for name in Limits._fields})


def _rlimits(stage1: Stage1, pod: ours.Pod) -> tuple[tuple[int, int, int], ...]:
    asked = {app.rlimits for app in pod.apps.values()}
    if len(asked) > 1:
        raise ContractError(f"stage1 {stage1.name}: its apps have the same rlimits, or none")
    return asked.pop() if asked else ()


def _run(stage1: Stage1, pod: ours.Pod) -> Run:
    privileged = [app.privileged for app in pod.apps.values()]
    if any(privileged) and not all(privileged):
        raise ContractError(f"stage1 {stage1.name}: all containers of a pod are privileged, or none")
    free = any(privileged)
    return Run(
        net="host" if pod.host_network else "none",
        hostname=pod.hostname,
        mutable=stage1.mutable,
        unrestricted_capabilities=free,
        unrestricted_paths=free,
        unrestricted_seccomp=free,
        resolv="host" if Path("/etc/resolv.conf").is_file() else "default",
        hosts="host" if pod.host_network else "default",
    )


def refusal(stage1: Stage1, pod: Mapping[str, Any]) -> str:
    """Why a v1 Pod cannot run by `stage1`; "" when it can, as far as the pod alone tells."""
    spec = pod["spec"]
    containers = spec["containers"]
    if not stage1.mutable and (reason := _immutable_refusal(spec)):
        return f"stage1 {stage1.name} starts all apps of a pod at once and none again: {reason}"
    if "enter" not in stage1.entrypoints:
        for container in (*(spec.get("initContainers") or ()), *containers):
            if what := _executes(container):
                return f"stage1 {stage1.name} cannot execute commands in apps: container {container['name']} has {what}"
    for container in (*(spec.get("initContainers") or ()), *containers):
        if container.get("tty"):
            return (
                f"stage1 {stage1.name} cannot give an app a terminal: container {container['name']} has tty"
            )
    for name in ("hostPID", "hostIPC"):
        if spec.get(name):
            return f"stage1 {stage1.name} cannot be told of namespaces of the node: {name}"
    if (spec.get("securityContext") or {}).get("sysctls"):
        return f"stage1 {stage1.name} cannot be told of kernel parameters: securityContext.sysctls"
    for container in (spec, *containers):
        profile = (container.get("securityContext") or {}).get("seccompProfile") or {}
        if profile.get("type") == "Localhost":
            return f"stage1 {stage1.name} cannot be given a seccomp profile: seccompProfile.type Localhost"
    return ""


def _immutable_refusal(spec: Mapping[str, Any]) -> str:
    if spec.get("initContainers"):
        return "the pod may have no initContainers"
    containers = spec["containers"]
    if len(containers) > 1:
        if spec.get("restartPolicy", "Always") != "Never":
            return "a pod of several containers needs restartPolicy Never"
        for container in containers:
            for probe in ("livenessProbe", "startupProbe"):
                if container.get(probe):
                    return f"container {container['name']} of several may have no {probe}"
    return ""


def _executes(container: Mapping[str, Any]) -> str:
    """Which of a container's fields makes us execute something in it."""
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if "exec" in (container.get(probe) or {}):
            return f"{probe}.exec"
    for hook in ("postStart", "preStop"):
        if "exec" in ((container.get("lifecycle") or {}).get(hook) or {}):
            return f"lifecycle.{hook}.exec"
    return ""
