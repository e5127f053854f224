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


class ProbeKind(StrEnum):
    """What a probe is for."""

    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(frozen=True, slots=True)
class Probe:
    """When a check is made and what its answers count for (v1 Probe); what it does is the runner's matter.

    Durations in seconds. grace: from the stop signal to SIGKILL when the probe ends the container, None: the pod's.
    """

    initial_delay: float = 0.0
    period: float = 10.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class App:
    """One container of the pod: its name, its image as written, whether it is an init container.

    sidecar: an init container that runs on beside the others. post_start, pre_stop: whether it has these hooks.
    """

    name: str
    image: str
    init: bool = False
    sidecar: bool = False
    post_start: bool = False
    pre_stop: bool = False
    startup: Probe | None = None
    liveness: Probe | None = None
    readiness: Probe | None = None

    def probe(self, kind: ProbeKind) -> Probe | None:
        probes = {ProbeKind.STARTUP: self.startup, ProbeKind.LIVENESS: self.liveness}
        return probes.get(kind, self.readiness)


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


def read_pod(
    pod: Mapping[str, Any], *, host_ip: str, pod_ip: str, qos_class: str, own_processes: bool = False
) -> Pod:
    """Pick the facts out of a v1 Pod object. own_processes: each container has. Raises KeyError for an object without
    uid, name or containers."""
    meta, spec = pod["metadata"], pod["spec"]
    inits = tuple(_app(c, init=True) for c in spec.get("initContainers") or ())
    deadline = spec.get("activeDeadlineSeconds")
    grace = spec.get("terminationGracePeriodSeconds")
    return Pod(
        uid=meta["uid"],
        namespace=meta.get("namespace", "default"),
        name=meta["name"],
        restart_policy=RestartPolicy(spec.get("restartPolicy") or "Always"),
        apps=inits + tuple(_app(c, init=False) for c in spec["containers"]),
        grace=DEFAULT_GRACE_SECONDS if grace is None else float(grace),
        deadline=None if deadline is None else float(deadline),
        host_ip=host_ip,
        pod_ip=pod_ip,
        qos_class=qos_class,
        remarks=tuple(_remarks(spec, own_processes=own_processes)),
    )


def _app(container: Mapping[str, Any], *, init: bool) -> App:
    hooks = container.get("lifecycle") or {}
    return App(
        container["name"],
        container["image"],
        init=init,
        sidecar=init and container.get("restartPolicy") == "Always",
        post_start="postStart" in hooks,
        pre_stop="preStop" in hooks,
        startup=_probe(container.get("startupProbe")),
        liveness=_probe(container.get("livenessProbe")),
        readiness=_probe(container.get("readinessProbe")),
    )


def _probe(probe: Mapping[str, Any] | None) -> Probe | None:
    if probe is None:
        return None
    grace = probe.get("terminationGracePeriodSeconds")
    return Probe(
        float(probe.get("initialDelaySeconds") or 0),
        float(probe.get("periodSeconds") or 10),
        int(probe.get("successThreshold") or 1),
        int(probe.get("failureThreshold") or 3),
        None if grace is None else float(grace),
    )


def _remarks(spec: Mapping[str, Any], *, own_processes: bool) -> Iterator[str]:
    if not spec.get("hostNetwork"):
        yield from _unmapped_ports(spec)
    shared = not own_processes and not spec.get("hostPID")
    if spec.get("shareProcessNamespace") is False and shared:
        yield "shareProcessNamespace: false: containers of this flavor have no processes of their own"


def _unmapped_ports(spec: Mapping[str, Any]) -> Iterator[str]:
    for container in spec["containers"]:
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield (
                    f"container {container['name']}: hostPort {port['hostPort']} is reserved but not mapped: "
                    "a pod's own network has only loopback; set hostNetwork: true"
                )
