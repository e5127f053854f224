"""The facts of a pod that its life cycle depends on, read from the v1 Pod object.

Not here: what the apps look like inside (`executor.pods.manifest`). The object was validated by the API; a value
that is missing gets the Kubernetes default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

DEFAULT_GRACE_SECONDS: Final = 30.0


class RestartPolicy(StrEnum):
    """v1 PodSpec.restartPolicy."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


@dataclass(frozen=True, slots=True)
class App:
    """One container of the pod: its name, its image as written, and whether it is an init container."""

    name: str
    image: str
    init: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """What the core knows of the pod. Durations in seconds; `apps` has the init containers first, in order.

    remarks: what the pod asks for and does not get, one line each; its owner is told by an event.
    """

    uid: str
    namespace: str
    name: str
    restart_policy: RestartPolicy
    apps: tuple[App, ...]
    grace: float = DEFAULT_GRACE_SECONDS
    deadline: float | None = None
    host_ip: str = ""
    pod_ip: str = ""
    qos_class: str = "BestEffort"
    remarks: tuple[str, ...] = ()


def read_pod(pod: Mapping[str, Any], *, host_ip: str, pod_ip: str, qos_class: str) -> Pod:
    """Pick the facts out of a v1 Pod object. Raises KeyError for an object without uid, name or containers."""
    meta, spec = pod["metadata"], pod["spec"]
    inits = tuple(App(c["name"], c["image"], init=True) for c in spec.get("initContainers") or ())
    deadline = spec.get("activeDeadlineSeconds")
    grace = spec.get("terminationGracePeriodSeconds")
    return Pod(
        uid=meta["uid"],
        namespace=meta.get("namespace", "default"),
        name=meta["name"],
        restart_policy=RestartPolicy(spec.get("restartPolicy") or "Always"),
        apps=inits + tuple(App(c["name"], c["image"]) for c in spec["containers"]),
        grace=DEFAULT_GRACE_SECONDS if grace is None else float(grace),
        deadline=None if deadline is None else float(deadline),
        host_ip=host_ip,
        pod_ip=pod_ip,
        qos_class=qos_class,
        remarks=() if spec.get("hostNetwork") else tuple(_unmapped_ports(spec)),
    )


def _unmapped_ports(spec: Mapping[str, Any]) -> Iterator[str]:
    for container in spec["containers"]:
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield (
                    f"container {container['name']}: hostPort {port['hostPort']} is reserved but not mapped: "
                    "a pod's own network has only loopback; set hostNetwork: true"
                )
