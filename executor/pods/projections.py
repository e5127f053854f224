"""Volumes whose files come from the API: configMap, secret, downwardAPI, projected. What is in them: pure.

Sources: Kubernetes `pkg/volume/{configmap,secret,downwardapi,projected}`, `pkg/fieldpath`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from executor.pods.env import ConfigError, Node, field, resource_field
from executor.pods.objects import MissingError, Objects

KINDS: Final = ("configMap", "secret", "downwardAPI", "projected")
DEFAULT_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class File:
    """One file: its content and its permission bits."""

    content: bytes
    mode: int


Payload = dict[str, File]
"""By relative path."""


def is_projection(volume: Mapping[str, Any]) -> bool:
    return any(kind in volume for kind in KINDS)


def payload(volume: Mapping[str, Any], objects: Objects, pod: Mapping[str, Any], node: Node) -> Payload:
    """All files of a volume. Raises MissingError and ConfigError."""
    kind = next(kind for kind in KINDS if kind in volume)
    source = volume[kind]
    mode = source.get("defaultMode", DEFAULT_MODE)
    sources = source.get("sources") or () if kind == "projected" else ({kind: source},)
    files: Payload = {}
    for one in sources:
        files |= _files(one, mode, objects, pod, node)
    return files


def _files(
    source: Mapping[str, Any], mode: int, objects: Objects, pod: Mapping[str, Any], node: Node
) -> Payload:
    if "configMap" in source:
        reference = source["configMap"]
        missing = "configmap references non-existent config key: "
        return _keys(reference, objects.config_map(reference), mode, missing)
    if "secret" in source:
        reference = source["secret"]
        return _keys(reference, objects.secret(reference), mode, "references non-existent secret key: ")
    if "downwardAPI" in source:
        items = source["downwardAPI"].get("items") or ()
        return {one["path"]: File(_fact(one, pod, node), one.get("mode", mode)) for one in items}
    raise ConfigError(f"projected source {next(iter(source), 'nothing')} is not supported")


def _keys(reference: Mapping[str, Any], data: Mapping[str, bytes] | None, mode: int, missing: str) -> Payload:
    """Those that are listed, or all."""
    if data is None:
        return {}
    if not reference.get("items"):
        return {key: File(value, mode) for key, value in data.items()}
    files: Payload = {}
    for item in reference["items"]:
        if item["key"] in data:
            files[item["path"]] = File(data[item["key"]], item.get("mode", mode))
        elif not reference.get("optional"):
            raise MissingError(missing + item["key"])
    return files


def _fact(item: Mapping[str, Any], pod: Mapping[str, Any], node: Node) -> bytes:
    if "resourceFieldRef" in item:
        text = resource_field(item["resourceFieldRef"], {"name": ""}, pod, node)
    else:
        path = item["fieldRef"]["fieldPath"]
        if path in ("metadata.labels", "metadata.annotations"):
            facts = pod["metadata"].get(path.partition(".")[2]) or {}
            text = "\n".join(f"{key}={json.dumps(facts[key], ensure_ascii=False)}" for key in sorted(facts))
        else:
            text = field(path, pod, node, "")
    return text.encode("utf-8", "surrogateescape")
