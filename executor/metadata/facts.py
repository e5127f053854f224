"""What is known of one pod, and what of it appc's words are. Pure."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

from executor.contract.manifest import image_id, isolators

OURS: Final = "gantry.io/"
_IDENTIFIER: Final = re.compile(r"[a-z0-9]+([-._~/][a-z0-9]+)*")
_NOT_NAME: Final = re.compile(r"[^a-z0-9]+")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9.-]*")


@dataclass(frozen=True)
class Facts:
    """A pod as the service tells of it. images: image manifests by app."""

    manifest: Mapping[str, Any]
    images: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def pod_annotations(self) -> list[dict[str, str]]:
        """Of the PodManifest."""
        return list(self.manifest.get("annotations") or ())

    def app_annotations(self, app: str) -> list[dict[str, str]]:
        """The image's, each replaced by the pod's of that name; the pod's others follow. Raises KeyError."""
        merged = {one["name"]: one["value"] for one in self.images[app].get("annotations") or ()}
        merged |= {one["name"]: one["value"] for one in self._entry(app).get("annotations") or ()}
        return [{"name": name, "value": value} for name, value in merged.items()]

    def image_id(self, app: str) -> str:
        """Raises KeyError."""
        return str(self._entry(app)["image"]["id"])

    def _entry(self, app: str) -> Mapping[str, Any]:
        for entry in self.manifest.get("apps") or ():
            if entry["name"] == app:
                return dict(entry)
        raise KeyError(app)


class Pod(NamedTuple):
    """Who asks. facts: looks up what is known of the pod; raises OSError or ValueError when that cannot be had."""

    uuid: UUID
    facts: Callable[[], Awaitable[Facts]]


def of_kubernetes(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What a v1 Pod says of itself, in a PodManifest's words: name, labels, and annotations, whose names appc lets be
    anything in `userAnnotations` and AC identifiers in `annotations`. Never for stage1, which obeys annotations."""
    meta = pod["metadata"]
    own = {f"{OURS}pod-name": meta["name"], f"{OURS}pod-namespace": meta.get("namespace", "default")}
    given = {str(name): str(value) for name, value in (meta.get("annotations") or {}).items()}
    named = {name: value for name, value in given.items() if _IDENTIFIER.fullmatch(name)}
    made = {"annotations": [{"name": name, "value": value} for name, value in {**named, **own}.items()]}
    labels = {str(name): str(value) for name, value in (meta.get("labels") or {}).items()}
    found = {"userAnnotations": given, "userLabels": labels}
    return made | {key: value for key, value in found.items() if value}


def plain(manifest: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A PodManifest as anybody's appc code reads it: ids, names and isolators by the spec, nothing of ours in it.
    more: of `of_kubernetes`.

    appc's own schema refuses a whole manifest for one app isolator that it does not know, an id that is not sha512, or
    a variable's name with odd characters (schema/types/isolator.go, hash.go, environment.go).
    """
    volumes, more = _volume_names(manifest), more or {}
    notes = {
        one["name"]: one["value"] for one in (*more.get("annotations", ()), *manifest.get("annotations", ()))
    }
    return {
        "acVersion": manifest.get("acVersion", "0.8.11"),
        "acKind": "PodManifest",
        "apps": [_app(entry, volumes) for entry in manifest.get("apps") or ()],
        "volumes": [
            {**_without_ours(one), "name": volumes[one["name"]]} for one in manifest.get("volumes") or ()
        ],
        "isolators": isolators(manifest),
        "annotations": [{"name": name, "value": value} for name, value in notes.items()],
        "ports": list(manifest.get("ports") or ()),
        **{
            key: one[key]
            for one in (manifest, more)
            for key in ("userAnnotations", "userLabels")
            if one.get(key)
        },
    }


def _app(entry: Mapping[str, Any], volumes: Mapping[str, str]) -> dict[str, Any]:
    made = _without_ours(entry)
    made["image"] = {**entry["image"], "id": image_id(str(entry["image"]["id"]))}
    if entry.get("app"):
        app = dict(entry["app"])
        app["isolators"] = isolators(app)
        app["environment"] = [
            one for one in app.get("environment") or () if _VARIABLE.fullmatch(str(one["name"]))
        ]
        made["app"] = app
    mounts = entry.get("mounts") or ()
    made["mounts"] = [{**_without_ours(one), "volume": volumes[one["volume"]]} for one in mounts]
    return made


def _without_ours(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if not key.startswith(OURS)}


def _volume_names(manifest: Mapping[str, Any]) -> dict[str, str]:
    """AC names for all volumes; those that have one keep it."""
    made: dict[str, str] = {}
    names = [str(one["name"]) for one in manifest.get("volumes") or ()]
    taken = {name for name in names if _NOT_NAME.sub("-", name) == name}
    for name in names:
        new = base = _NOT_NAME.sub("-", name.lower()).strip("-") or "volume"
        number = 1
        while new != name and new in taken:
            number += 1
            new = f"{base}-{number}"
        taken.add(new)
        made[name] = new
    return made
