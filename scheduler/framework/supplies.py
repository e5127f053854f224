"""What a launch carries besides the pod: what the store has at that moment of the objects a pod refers to.

The executor never reads the store, so all it needs comes with the task. None of it is ever logged or shown in an event.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from scheduler.registry.secrets import DOCKER_CONFIG, DOCKER_KEYS
from scheduler.store import Key, Store

Json = dict[str, Any]

_KINDS: Final = {"configMaps": "configmaps", "secrets": "secrets"}
_FIELDS: Final = ("data", "binaryData")


@dataclass(frozen=True, slots=True)
class Supplies:
    """runtime_handler: of the pod's RuntimeClass; "" for a pod without one, or whose class is no more.

    pull_secrets: dockerconfigjson documents, in the pod's order. missing: imagePullSecrets that are not there, or are
    none. objects: the data of the ConfigMaps and Secrets that there are, as `shared.wire.Launch` has them.
    """

    runtime_handler: str = ""
    pull_secrets: tuple[Json, ...] = field(default=(), repr=False)
    missing: tuple[str, ...] = ()
    objects: Json = field(default_factory=dict, repr=False)


NOTHING: Final = Supplies()


def supplies_of(pod: Mapping[str, Any], store: Store) -> Supplies:
    """What the store has for this v1 Pod."""
    spec, namespace = pod["spec"], pod["metadata"].get("namespace", "")
    name = spec.get("runtimeClassName")
    entry = store.get(Key("runtimeclasses.node.k8s.io", "", name)) if name else None
    names = [one["name"] for one in spec.get("imagePullSecrets") or () if one.get("name")]
    found = {name: _docker_config(store, namespace, name) for name in names}
    return Supplies(
        runtime_handler=entry.obj["handler"] if entry else "",
        pull_secrets=tuple(one for one in found.values() if one is not None),
        missing=tuple(name for name, one in found.items() if one is None),
        objects=objects_of(pod, store),
    )


def _docker_config(store: Store, namespace: str, name: str) -> Json | None:
    entry = store.get(Key("secrets", namespace, name))
    kind = entry.obj.get("type", "") if entry else ""
    if entry is None or kind not in DOCKER_KEYS:
        return None
    try:
        config = orjson.loads(base64.b64decode(entry.obj["data"][DOCKER_KEYS[kind]]))
    except (KeyError, ValueError):
        return None
    auths = config.get("auths") if kind == DOCKER_CONFIG else config
    return {"auths": auths} if isinstance(auths, dict) else None


def objects_of(pod: Mapping[str, Any], store: Store) -> Json:
    """The ConfigMaps and Secrets that its containers and volumes use, by kind and name: those that there are."""
    found: Json = {}
    for kind, name in sorted(set(references(pod))):
        entry = store.get(Key(_KINDS[kind], pod["metadata"].get("namespace", ""), name))
        if entry is not None:
            data = {key: entry.obj[key] for key in _FIELDS if entry.obj.get(key)}
            found.setdefault(kind, {})[name] = data
    return found


def references(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(configMaps or secrets, name) of all that is used, some perhaps more than once."""
    spec = pod["spec"]
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for source in container.get("envFrom") or ():
            yield from _named("configMaps", source.get("configMapRef"))
            yield from _named("secrets", source.get("secretRef"))
        for variable in container.get("env") or ():
            value = variable.get("valueFrom") or {}
            yield from _named("configMaps", value.get("configMapKeyRef"))
            yield from _named("secrets", value.get("secretKeyRef"))
    for volume in spec.get("volumes") or ():
        for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
            yield from _named("configMaps", source.get("configMap"))
            yield from _named("secrets", source.get("secret"))


def _named(kind: str, reference: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    name = (reference or {}).get("name") or (reference or {}).get("secretName")
    if name:
        yield kind, name
