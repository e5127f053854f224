"""The environment and the command line of a container, as the kubelet makes them. Pure.

Sources: Kubernetes `pkg/kubelet/kubelet_pods.go` (makeEnvironmentVariables), `pkg/fieldpath`, `third_party/forked/
golang/expansion` for `$(NAME)`; command and args against entrypoint and cmd as in the Kubernetes documentation
("Define a Command and Arguments for a Container").
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final

from executor.pods.objects import MissingError, Objects
from shared.models.quantities import parse_quantity

_REFERENCE: Final = re.compile(r"\$\$|\$\(([^)]*)\)")
_KEYED: Final = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


NO_OBJECTS: Final = Objects()


class ConfigError(Exception):
    """The container cannot be made as asked. reason: a waiting reason of Kubernetes; the message is one line."""

    def __init__(self, message: str, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(message)
        self.reason = reason


class MissingConfigError(ConfigError):
    """An object that the container needs is not there, yet."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a pod may learn of the node. cpus and memory (bytes): what it can have at most, for missing limits.

    lowest_oom_score: what we may give a process (proc(5): going below our own takes CAP_SYS_RESOURCE).
    shared_memory: bytes that all pods of this executor share, where they are limited together; else 0.
    """

    name: str
    ip: str
    cpus: Fraction
    memory: int
    ephemeral_storage: int = 0
    lowest_oom_score: int = -1000
    shared_memory: int = 0

    @property
    def scale(self) -> int:
        """What memory there is for pods, of which oom_score_adj counts thousandths."""
        return self.shared_memory or self.memory


def expand(text: str, values: Mapping[str, str], *, strict: bool = False) -> str:
    """Replace `$(NAME)`; an unknown name stays as it is written, or (strict) is a ConfigError. `$$` is one `$`."""

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if strict and name is not None and name not in values:
            raise ConfigError(f'missing value for "{name}"')
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(replacement, text)


def command_line(
    container: Mapping[str, Any], env: Mapping[str, str], entrypoint: Sequence[str], cmd: Sequence[str]
) -> list[str]:
    """What to execute. Raises ConfigError when nobody says."""
    command, args = container.get("command") or [], container.get("args") or []
    if command:
        words = [expand(word, env) for word in [*command, *args]]
    elif args:
        words = [*entrypoint, *(expand(word, env) for word in args)]
    else:
        words = [*entrypoint, *cmd]
    if not words:
        message = (
            f"no command: neither container {container['name']} nor image {container['image']} names one"
        )
        raise ConfigError(message, "CreateContainerError")
    return words


def environment(
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    node: Node,
    pod_ip: str,
    objects: Objects = NO_OBJECTS,
) -> dict[str, str]:
    """The variables of `envFrom` and `env`, in their order, references resolved. Raises ConfigError for what cannot be
    had."""
    try:
        return _environment(container, pod, node, pod_ip, objects)
    except MissingError as error:
        raise MissingConfigError(str(error)) from None


def _environment(
    container: Mapping[str, Any], pod: Mapping[str, Any], node: Node, pod_ip: str, objects: Objects
) -> dict[str, str]:
    made: dict[str, str] = {}
    for many in container.get("envFrom") or ():
        found = (
            objects.text(many["configMapRef"])
            if "configMapRef" in many
            else objects.secret(many["secretRef"])
        )
        made |= {f"{many.get('prefix') or ''}{key}": _text(value) for key, value in (found or {}).items()}
    for item in container.get("env") or ():
        source = item.get("valueFrom")
        if source is None:
            made[item["name"]] = expand(item.get("value") or "", made)
        elif "fieldRef" in source:
            made[item["name"]] = field(source["fieldRef"].get("fieldPath", ""), pod, node, pod_ip)
        elif "resourceFieldRef" in source:
            made[item["name"]] = resource_field(source["resourceFieldRef"], container, pod, node)
        elif "configMapKeyRef" in source or "secretKeyRef" in source:
            value = _value(source, pod, objects)
            if value is not None:
                made[item["name"]] = value
        else:
            kind = next(iter(source), "nothing")
            raise ConfigError(f"env {item['name']}: valueFrom.{kind} is not supported")
    return made


def _value(source: Mapping[str, Any], pod: Mapping[str, Any], objects: Objects) -> str | None:
    """Of one key of an object; None when it is optional and not there."""
    if "configMapKeyRef" in source:
        kind, reference = "ConfigMap", source["configMapKeyRef"]
        found = objects.text(reference)
    else:
        kind, reference = "Secret", source["secretKeyRef"]
        found = objects.secret(reference)
    if found is not None and reference["key"] in found:
        return _text(found[reference["key"]])
    if reference.get("optional"):
        return None
    where = f"{pod['metadata'].get('namespace', 'default')}/{reference['name']}"
    raise MissingError(f"couldn't find key {reference['key']} in {kind} {where}")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def field(path: str, pod: Mapping[str, Any], node: Node, pod_ip: str) -> str:
    """The value of a downward API field. A label or annotation that is not there is ""."""
    meta, spec = pod["metadata"], pod["spec"]
    if match := _KEYED.fullmatch(path):
        return str((meta.get(match.group(1)) or {}).get(match.group(2), ""))
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta.get("namespace", "default"),
        "metadata.uid": meta["uid"],
        "spec.nodeName": node.name,
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.hostIP": node.ip,
        "status.hostIPs": node.ip,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
    }
    if path not in fields:
        raise ConfigError(f"fieldRef {path!r} is not supported")
    return str(fields[path])


def resource_field(
    ref: Mapping[str, Any], container: Mapping[str, Any], pod: Mapping[str, Any], node: Node
) -> str:
    """A request or limit as a whole number of divisors, rounded up; a missing limit is what the node has."""
    name = ref.get("containerName") or container["name"]
    everyone = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]
    owner = next((c for c in everyone if c["name"] == name), None)
    if owner is None:
        raise ConfigError(f"resourceFieldRef: no container {name!r} in the pod")
    kind, _, resource = str(ref.get("resource", "")).partition(".")
    most = {
        "cpu": node.cpus,
        "memory": Fraction(node.memory),
        "ephemeral-storage": Fraction(node.ephemeral_storage),
    }
    if kind not in {"limits", "requests"} or resource not in most:
        raise ConfigError(f"resourceFieldRef: resource {ref.get('resource')!r} is not supported")
    given = (owner.get("resources") or {}).get(kind) or {}
    if resource in given:
        value = parse_quantity(given[resource])
    else:
        value = most[resource] if kind == "limits" else Fraction(0)
    divisor = parse_quantity(ref.get("divisor") or "1") or Fraction(1)
    return str(ceil(value / divisor))
