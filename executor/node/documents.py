"""A pod as people have it in files: of a stream of YAML documents, with the ConfigMaps and Secrets beside it."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from executor.pods.claims import with_claims
from executor.pods.objects import Objects
from shared.models.annotations import STAGE1_IMAGES, STAGE1_NAME

Json = dict[str, Any]


def read(file: Path) -> tuple[Json, Objects]:
    """The v1 Pod or appc PodManifest, and the objects. Raises OSError, ValueError for what is none, or several."""
    try:
        documents = [
            one for one in yaml.safe_load_all(file.read_bytes()) if isinstance(one, dict)
        ]  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    pods = [one for one in documents if one.get("kind") == "Pod" or one.get("acKind") == "PodManifest"]
    if not pods:
        raise ValueError("neither a v1 Pod nor an appc PodManifest")
    if len(pods) > 1:
        raise ValueError(f"{len(pods)} pods: there is one plan for one pod")
    found: dict[str, Json] = {"ConfigMap": {}, "Secret": {}}
    for one in documents:
        if one.get("kind") in found:
            found[one["kind"]][one["metadata"]["name"]] = {**one, "data": _data(one)}
    return pods[0], Objects.from_json({"configMaps": found["ConfigMap"], "secrets": found["Secret"]})


def as_admitted(pod: Json) -> Mapping[str, Any]:
    """With what the API would have filled in, as far as a plan shows it. Raises KeyError, TypeError, ValueError."""
    meta, spec = pod["metadata"], pod["spec"]
    stage1 = str((meta.get("annotations") or {}).get(STAGE1_NAME) or "").partition(":")[0]
    if stage1 and not spec.get("runtimeClassName"):
        spec = {**spec, "runtimeClassName": STAGE1_IMAGES.get(stage1, stage1)}
    claims = [
        one["persistentVolumeClaim"] for one in spec.get("volumes") or () if "persistentVolumeClaim" in one
    ]
    meta = {"namespace": "default", "uid": meta["name"], **meta}
    volumes = {
        f"{meta['namespace']}/{one['claimName']}": Path(f"/(the volume of claim {one['claimName']})")
        for one in claims
    }
    return with_claims({**pod, "metadata": meta, "spec": spec}, volumes)


def _data(one: Json) -> Json:
    plain = {
        key: base64.b64encode(text.encode()).decode() for key, text in (one.get("stringData") or {}).items()
    }
    return {**(one.get("data") or {}), **plain}
