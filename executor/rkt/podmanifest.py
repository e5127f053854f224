"""From a command line to the PodManifest that stage1 reads. Pure.

Overrides go as in rkt `stage0/run.go`: the command line before the image, per-app flags before those of the pod.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from executor.rkt.apps import App, Apps
from executor.rkt.flags import Failure
from executor.rkt.pods import MUTABLE
from executor.stage1 import caps
from executor.stage1.manifest import FLAVORS

STAGE1: Final = {"coreos": "linux", "src": "linux", "host": "linux", "fly": "fly", "kvm": "kvm"}
KVM: Final = "kvm"
STREAM_NOTE: Final = "coreos.com/rkt/stage2/"
"""And stdin, stdout or stderr: rkt's annotations of apps for their streams."""
_THERE: Final = (*FLAVORS, KVM)
_STAGE1_NAME: Final = re.compile(r"(?:coreos\.com/rkt/)?stage1-([a-z]+)(?:[:,].*|\.aci)?")
AC_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SETS: Final = ("os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set")
_FILTERS: Final = ("os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set")
_ALL_RUN: Final = frozenset({"capabilities", "paths", "seccomp"})


@dataclass
class Environments:
    """What the flags of the pod say; each goes before those left of it, the image stands behind the parent's."""

    parent: Mapping[str, str] = field(default_factory=dict)
    file: Mapping[str, str] = field(default_factory=dict)
    explicit: Mapping[str, str] = field(default_factory=dict)

    def merge(self, image: Mapping[str, str], app: Mapping[str, str]) -> dict[str, str]:
        return {**self.parent, **image, **self.file, **self.explicit, **app}


@dataclass(frozen=True)
class Source:
    """An image that was found: its appc manifest, its id. docker: its volumes begin with what the image has there."""

    manifest: Mapping[str, Any]
    image_id: str
    docker: bool


@dataclass(frozen=True)
class Fill:
    """An implicit volume that begins with what the app's image has at a path."""

    volume: str
    app: str
    path: str


def ours(name: str) -> str:
    """The flavor of ours that stands for a stage1 image of rkt's; "" for others."""
    match = _STAGE1_NAME.fullmatch(name)
    flavor = STAGE1.get(match[1], "") if match else name
    return flavor if flavor in _THERE else ""


def flavor_of_pod(manifest: Mapping[str, Any]) -> str:
    """Which one a pod was made for."""
    return next(str(n["value"]) for n in manifest["annotations"] if n["name"] == "gantry.io/flavor")


def app_name(image_name: str) -> str:
    """rkt's: the last part of the image's name, as an AC name. Failure."""
    name = re.sub(r"[^a-z0-9]+", "-", image_name.rpartition("/")[2].lower()).strip("-")
    if not name:
        raise Failure(f"image {image_name}: nothing is left of its name to call the app by; give --name")
    return name


def build(
    apps: Apps, sources: list[Source], environments: Environments, flavor: str
) -> tuple[dict[str, Any], list[Fill]]:
    """The PodManifest, and what has to be put into volumes. Failure."""
    volumes = {name: _volume(volume, flavor) for name, volume in apps.volumes.items()}
    fills: list[Fill] = []
    entries: list[dict[str, Any]] = []
    for app, source in zip(apps.apps, sources, strict=True):
        entry = make_entry(app, source, environments)
        if entry["name"] in [other["name"] for other in entries]:
            raise Failure(f"error: multiple apps with name {entry['name']}; tell them apart with --name")
        entry["mounts"], more = mounts(entry, app.mounts + apps.mounts, volumes, docker=source.docker)
        fills += more
        entries.append(entry)
    notes = [{"name": MUTABLE, "value": "false"}]
    return {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": entries,
        "volumes": list(volumes.values()),
        "isolators": [],
        "annotations": notes,
        "ports": [],
    }, fills


def settle(manifest: dict[str, Any], **notes: str) -> None:
    """Put annotations in, of a pod or an app, that the command line decides, whatever was there."""
    names = {f"gantry.io/{key.replace('_', '-')}": value for key, value in notes.items()}
    kept = [entry for entry in manifest.get("annotations") or () if entry["name"] not in names]
    manifest["annotations"] = kept + [{"name": k, "value": v} for k, v in names.items() if v]


def _volume(volume: dict[str, Any], flavor: str) -> dict[str, Any]:
    if volume["kind"] == "host":
        return {"recursive": flavor != "fly", **volume}
    return volume


def make_entry(app: App, source: Source, environments: Environments) -> dict[str, Any]:
    """An app of a PodManifest, but for its mounts. Failure."""
    image = source.manifest
    body = dict(image.get("app") or {})
    if not body and not app.texts.get("exec"):
        raise Failure(f"error: image {image['name']} has no app section and --exec argument is not provided")
    command = [app.texts["exec"]] if app.texts.get("exec") else list(body.get("exec") or ())
    body["exec"] = command + app.args
    body["user"] = app.texts.get("user") or body.get("user") or "0"
    body["group"] = app.texts.get("group") or body.get("group") or "0"
    if app.supplementary_gids is not None:
        body["supplementaryGIDs"] = app.supplementary_gids
    if app.texts.get("working-dir"):
        body["workingDirectory"] = app.texts["working-dir"]
    own = {entry["name"]: entry["value"] for entry in body.get("environment") or ()}
    environment = environments.merge(own, app.environment)
    body["environment"] = [{"name": name, "value": value} for name, value in environment.items()]
    body["isolators"] = _isolators(body.get("isolators") or (), app.isolators)
    name = app.texts.get("name") or app_name(str(image["name"]))
    if not AC_NAME.fullmatch(name):
        raise Failure(
            f"invalid app name format: {name!r} is not lower case letters and digits with single dashes"
        )
    notes = dict(app.annotations)
    notes |= {STREAM_NOTE + stream: mode for stream, mode in app.streams.items()}
    notes |= {
        e["name"]: e["value"] for e in image.get("annotations") or () if e["name"] == "gantry.io/stop-signal"
    }
    if not source.docker and not app.texts.get("working-dir") and body.get("workingDirectory", "/") != "/":
        notes["gantry.io/working-directory"] = "exists"  # appc aci.md: else the start fails
    if app.user_annotations:
        body["userAnnotations"] = app.user_annotations
    if app.user_labels:
        body["userLabels"] = app.user_labels
    return {
        "name": name,
        "image": {"id": source.image_id, "name": image["name"], "labels": list(image.get("labels") or ())},
        "app": body,
        "readOnlyRootFS": app.readonly_rootfs,
        "annotations": [{"name": key, "value": value} for key, value in notes.items()],
    }


def _isolators(image: Any, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The image's, but for those that the command line replaces. Failure."""
    if all(name in own for name in _SETS):
        raise Failure("error: cannot use both --caps-retain and --caps-remove on the same image")
    replaced = set(own)
    for family in (_SETS, _FILTERS):
        if replaced & set(family):
            replaced |= set(family)
    made = {entry["name"]: entry["value"] for entry in image if entry["name"] not in replaced} | dict(own)
    return [{"name": name, "value": value} for name, value in made.items()]


def unrestrict(manifest: dict[str, Any], insecure: set[str], flavor: str) -> None:
    """Put --insecure-options=capabilities, seccomp, paths into the manifest of a pod that is to run. Failure.

    All three make the apps privileged; paths alone shows all of a /proc that is the pod's own.
    """
    paths = "paths" in insecure and not insecure >= _ALL_RUN and flavor != "fly"
    if paths and flavor != "linux":
        raise Failure(
            f"--insecure-options=paths is supported by {flavor} together with capabilities and seccomp only (all-run)"
        )
    for entry in manifest["apps"]:
        body = entry["app"]
        for option, family, everything in (
            ("capabilities", _SETS, list(caps.NAMES)),
            ("seccomp", _FILTERS, ["@appc.io/all"]),
        ):
            if option in insecure:
                kept = [one for one in body.get("isolators") or () if one["name"] not in family]
                body["isolators"] = [*kept, {"name": family[0], "value": {"set": everything}}]
        if insecure >= _ALL_RUN:
            settle(entry, privileged="true")
        elif paths:
            settle(entry, proc_mount="unmasked")
    if paths:
        settle(manifest, user_namespace="private")


def mounts(
    entry: Mapping[str, Any],
    asked: list[tuple[str, str]],
    volumes: dict[str, dict[str, Any]],
    *,
    docker: bool,
) -> tuple[list[dict[str, Any]], list[Fill]]:
    """Every mount of an app, and the volumes that nobody named (added to `volumes`). Failure.

    What was asked for goes before the image's mount points, the first for a path counts; a mount point takes the
    volume of its name, else an empty one of its own.
    """
    made: dict[str, dict[str, Any]] = {}
    fills: list[Fill] = []
    for volume, target in asked:
        path = target if target.startswith("/") else f"/{target}"  # resolved in the app's root, as in rkt
        if volume not in volumes:
            raise Failure(f"--mount: there is no volume {volume!r}; define it with --volume")
        made.setdefault(_clean(path), {"volume": volume, "path": path})
    for point in (entry.get("app") or {}).get("mountPoints") or ():
        path = str(point["path"])
        if _clean(path) in made:
            continue
        volume = str(point["name"])
        if volume not in volumes:
            volume = f"{entry['name']}-{volume}"
            volumes[volume] = {"name": volume, "kind": "empty", "mode": "0755", "uid": 0, "gid": 0}
            if docker:
                fills.append(Fill(volume, str(entry["name"]), path))
        made[_clean(path)] = {
            "volume": volume,
            "path": path,
            **({"readOnly": True} if point.get("readOnly") else {}),
        }
    return list(made.values()), fills


def _clean(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})


def resolv_conf(servers: list[str], domain: str, search: list[str], options: list[str]) -> str:
    """The file of these flags; "" for none of them."""
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    lines += [f"domain {domain}"] if domain else []
    return "".join(f"{line}\n" for line in lines)
