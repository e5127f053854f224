"""The appc pod manifest: the spec's rules for what is run, from whoever wrote it.

Source: appc spec 0.8.11 `pods.md`, `schema/pod.go`; unlike the latter, acVersion is demanded.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from executor.stage0 import acrules as rules
from executor.stage0.errors import ImageBroken

MAX_POD_MANIFEST = 4 * 1024 * 1024
_MODE = re.compile(r"0?[0-7]{3,4}")


def parse_pod(data: bytes) -> dict[str, Any]:
    """A checked pod manifest with the spec's spelling of its keys. ImageBroken."""
    if len(data) > MAX_POD_MANIFEST:
        raise ImageBroken(f"pod manifest: longer than {MAX_POD_MANIFEST} bytes")
    try:
        obj = rules.load(data)
        check_pod(obj)
    except ImageBroken as error:
        raise ImageBroken(f"pod {error}") from None
    return obj


def check_pod(manifest: Mapping[str, Any]) -> None:
    """Every rule of the spec for a PodManifest. ImageBroken names the field and the rule."""
    rules.header(manifest, "PodManifest")
    volumes = {entry["name"]: entry for entry in rules.named(manifest, "volumes")}
    for name, volume in volumes.items():
        rules.ac_name(name, "volumes: name")
        _volume(volume, f"volumes: {name}")
    for entry in rules.named(manifest, "apps"):
        _app(entry, set(volumes))
    rules.isolators(manifest, "isolators", pod=True)
    rules.annotations(manifest)
    for entry in rules.named(manifest, "ports"):
        _port(entry)
    rules.string_map(manifest, "userAnnotations", "userAnnotations")
    rules.string_map(manifest, "userLabels", "userLabels")


def _app(entry: Mapping[str, Any], volumes: set[str]) -> None:
    field = f"apps: {rules.ac_name(entry['name'], 'apps: name')}"
    image = entry.get("image")
    if not isinstance(image, dict):
        rules.bad(field, "has no image")
    rules.image_id(image.get("id"), f"{field}: image.id")
    if image.get("name") is not None:
        rules.identifier(image["name"], f"{field}: image.name")
    rules.labels(image, f"{field}: image.labels")
    if entry.get("app") is not None:
        rules.app(entry["app"], f"{field}: app")
    rules.boolean(entry, "readOnlyRootFS", field)
    for mount in rules.objects(entry, "mounts", f"{field}: mounts"):
        rules.absolute(mount.get("path"), f"{field}: mounts: path")
        volume = rules.ac_name(mount.get("volume"), f"{field}: mounts: volume")
        if mount.get("appVolume") is not None:
            if not isinstance(mount["appVolume"], dict):
                rules.bad(f"{field}: mounts: appVolume", "not an object")
            _volume(mount["appVolume"], f"{field}: mounts: appVolume")
        elif volume not in volumes:
            rules.bad(f"{field}: mounts", f"there is no volume {volume!r}")
    rules.annotations(entry, f"{field}: annotations")
    rules.string_map(entry, "userAnnotations", f"{field}: userAnnotations")
    rules.string_map(entry, "userLabels", f"{field}: userLabels")


def _volume(volume: Mapping[str, Any], field: str) -> None:
    kind = volume.get("kind")
    if kind == "host":
        rules.absolute(volume.get("source"), f"{field}: source")
        for key in ("mode", "uid", "gid"):
            if volume.get(key) is not None:
                rules.bad(field, f"{key} is for empty volumes only")
    elif kind == "empty":
        if volume.get("source"):
            rules.bad(field, "an empty volume has no source")
        mode = volume.get("mode")
        if mode is not None and not (isinstance(mode, str) and _MODE.fullmatch(mode)):
            rules.bad(field, f"mode {str(mode)[:20]!r} is not like '0755'")
        for key in ("uid", "gid"):
            if volume.get(key) is not None:
                rules.whole(volume[key], f"{field}: {key}", 0, 2**32 - 2)
    else:
        rules.bad(field, f"kind {str(kind)[:40]!r} is neither host nor empty")
    rules.boolean(volume, "readOnly", field)
    rules.boolean(volume, "recursive", field)


def _port(entry: Mapping[str, Any]) -> None:
    field = f"ports: {rules.ac_name(entry['name'], 'ports: name')}"
    rules.whole(entry.get("hostPort"), f"{field}: hostPort", 1, 65535)
    address = entry.get("hostIP")
    if address not in (None, ""):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            rules.bad(f"{field}: hostIP", f"{str(address)[:60]!r} is not an address")
    port = entry.get("podPort")
    if port is not None:
        if not isinstance(port, dict):
            rules.bad(f"{field}: podPort", "not an object")
        rules.whole(port.get("port"), f"{field}: podPort.port", 1, 65535)
