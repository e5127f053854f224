"""v1 Pod and Node objects -> what placement needs of them.

Kubernetes quantities become Mesos units rounded up: cpu to thousandths of a core, bytes to thousandths
of a MB (2**20 bytes). A container's missing request is its limit; init containers run one after another, so
they count with their largest (`pkg/api/v1/resource/helpers.go`); the overhead of the RuntimeClass is added.
`nvidia.com/gpu` is Mesos' `gpus`, whole ones. A pod that asks for nothing is accounted with MINIMUM, because Mesos
refuses a task without resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from sys import intern
from typing import Any, Final

from scheduler.framework.core.claims import claim_names
from scheduler.framework.core.entities import Needs, Node, Pod, Taint, Toleration
from scheduler.framework.core.placement_terms import labels_of, rules_of
from scheduler.framework.core.status import FINAL_PHASES
from scheduler.framework.core.vectors import Vector
from shared.models.annotations import (
    DEDICATED,
    EXECUTOR,
    KEEP_OLDEST,
    ON_MAINTENANCE,
    ON_RETURN,
    REVOCABLE,
    ROLE,
    START_FIRST,
    STAY,
    STOP_FIRST,
)
from shared.models.quantities import cpu_millis, quantity_bytes

Json = Mapping[str, Any]

MINIMUM: Final = Vector(cpus=10, mem=32_000)
"""0.01 cpus and 32 MB."""

MIB: Final = 1 << 20
GPU: Final = "nvidia.com/gpu"

ADDRESS_ANNOTATION: Final = "gantry.io/agent-address"
AGENT_ANNOTATION: Final = "gantry.io/agent-id"
MAINTENANCE_ANNOTATION: Final = "gantry.io/maintenance"
"""On nodes: seconds since the epoch, `start/end`."""
DRAINING_TAINT: Final = "gantry.io/draining"
MAINTENANCE_TAINT: Final = "gantry.io/maintenance"
OUR_TAINTS: Final = frozenset(
    {
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unschedulable",
        DRAINING_TAINT,
        MAINTENANCE_TAINT,
    }
)


def pod_from_object(obj: Json) -> Pod:
    """`obj` is a validated v1 Pod."""
    meta, spec = obj["metadata"], obj["spec"]
    deletion = None
    stateful = any(one.get("kind") == "StatefulSet" for one in meta.get("ownerReferences") or [])
    if "deletionTimestamp" in meta:
        deletion = float(meta.get("deletionGracePeriodSeconds") or 0)
    claims = claim_names(meta["namespace"], spec)
    needs = replace(_needs(meta, spec), claims=claims, **_wishes(meta.get("annotations") or {}))
    if needs.amounts.gpus:
        # When the GPUs of an executor's tasks change, the agent takes back which it likes, not those of the task that
        # ended, and forgets which it gave before (Mesos' gpu/isolator.cpp): so one allocation for each executor.
        needs = replace(needs, dedicated=True)
    return Pod(  # equal words are one object: many pods name the same node, and tasks name pods
        uid=intern(meta["uid"]),
        namespace=intern(meta["namespace"]),
        name=intern(meta["name"]),
        needs=_same(needs),
        node=intern(spec.get("nodeName") or ""),
        restart=intern(spec.get("restartPolicy") or "Always"),
        created=intern(meta.get("creationTimestamp") or ""),
        deletion=deletion,
        done=(obj.get("status") or {}).get("phase") in FINAL_PHASES,
        labels=labels_of(meta),
        grace=float(spec.get("terminationGracePeriodSeconds", 30)),
        stateful=stateful,
        keep_oldest=(meta.get("annotations") or {}).get(ON_RETURN) == KEEP_OLDEST,
        on_maintenance=_on_maintenance(meta, spec, stateful),
    )


def _on_maintenance(meta: Json, spec: Json, stateful: bool) -> str:
    """What becomes of a pod whose node goes into maintenance; two copies only where the user says so and nothing else
    speaks against it."""
    asked = (meta.get("annotations") or {}).get(ON_MAINTENANCE)
    if asked == STAY or (spec.get("restartPolicy") or "Always") != "Always":
        return STAY
    claims = any("persistentVolumeClaim" in one for one in spec.get("volumes") or [])
    return START_FIRST if asked == START_FIRST and not claims and not stateful else STOP_FIRST


@lru_cache(maxsize=4096)
def _same(needs: Needs) -> Needs:
    """One object for all pods of equal needs: a Deployment's replicas are compared by identity then."""
    return needs


def _wishes(notes: Mapping[str, str]) -> dict[str, Any]:
    """What annotations ask for; the API has checked them, and given a pod those of its namespace."""
    return {
        "role": notes.get(ROLE, ""),
        "dedicated": notes.get(EXECUTOR) == DEDICATED,
        "revocable": notes.get(REVOCABLE) == "true",
    }


def _needs(meta: Json, spec: Json) -> Needs:
    containers = spec.get("containers") or []
    inits = spec.get("initContainers") or []
    sidecars = [one for one in inits if one.get("restartPolicy") == "Always"]
    asked = _asked(containers, inits) + _overhead(spec)
    amounts = _largest([asked, MINIMUM])
    return Needs(
        amounts=amounts,
        ports=_host_ports([*containers, *sidecars]),
        selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        tolerations=tuple(_toleration(one) for one in spec.get("tolerations") or []),
        rules=rules_of(meta, spec),
    )


def _asked(containers: Iterable[Json], inits: Iterable[Json]) -> Vector:
    """Init containers run one after the other, each beside the sidecars before it (k8s.io/component-helpers, resource,
    AggregateContainerRequests)."""
    beside = Vector()
    steps = []
    for one in inits:
        if one.get("restartPolicy") == "Always":
            beside = beside + _request(one)
            steps.append(beside)
        else:
            steps.append(beside + _request(one))
    for one in containers:
        beside = beside + _request(one)
    return _largest([beside, *steps])


def _largest(many: Iterable[Vector]) -> Vector:
    vectors = list(many)
    return Vector(
        max(one.cpus for one in vectors),
        max(one.mem for one in vectors),
        max(one.disk for one in vectors),
        max(one.gpus for one in vectors),
    )


def _request(container: Json) -> Vector:
    asked = container.get("resources") or {}
    return _vector({**(asked.get("limits") or {}), **(asked.get("requests") or {})})


def _overhead(spec: Json) -> Vector:
    return _vector(spec.get("overhead") or {})


def _vector(both: Json) -> Vector:
    return _amounts(
        both.get("cpu", 0), both.get("memory", 0), both.get("ephemeral-storage", 0), both.get(GPU, 0)
    )


Quantity = str | int | float


@lru_cache(maxsize=4096)
def _amounts(cpu: Quantity, memory: Quantity, storage: Quantity, gpus: Quantity) -> Vector:
    """Few sizes are asked for by many pods."""
    return Vector(
        cpus=cpu_millis(cpu),
        mem=megabytes(memory),
        disk=megabytes(storage),
        gpus=-(-cpu_millis(gpus) // 1000) * 1000,
    )


def megabytes(quantity: str | int | float) -> int:
    """Bytes -> thousandths of a MB, rounded up."""
    return -(-quantity_bytes(quantity) * 1000 // MIB)


def _host_ports(containers: Iterable[Json]) -> tuple[int, ...]:
    """A Mesos port has no protocol: the same number for TCP and UDP is one port."""
    return tuple(
        sorted(
            {
                port["hostPort"]
                for one in containers
                for port in one.get("ports") or []
                if port.get("hostPort")
            }
        )
    )


def _toleration(one: Json) -> Toleration:
    seconds = one.get("tolerationSeconds")
    return Toleration(
        key=one.get("key") or "",
        operator=one.get("operator") or "Equal",
        value=one.get("value") or "",
        effect=one.get("effect") or "",
        seconds=None if seconds is None else float(seconds),
    )


def node_from_object(obj: Json) -> Node:
    """What the store has of a Node: the user's wishes, and which agent it stands for."""
    meta, spec = obj["metadata"], obj.get("spec") or {}
    notes = meta.get("annotations") or {}
    ready = next((c for c in (obj.get("status") or {}).get("conditions") or [] if c["type"] == "Ready"), None)
    return Node(
        name=meta["name"],
        agent_id=notes.get(AGENT_ANNOTATION, ""),
        address=notes.get(ADDRESS_ANNOTATION, ""),
        labels=tuple(sorted((meta.get("labels") or {}).items())),
        taints=tuple(
            Taint(one["key"], one.get("value") or "", one["effect"])
            for one in spec.get("taints") or []
            if one["key"] not in OUR_TAINTS
        ),
        own=tuple(
            Taint(one["key"], "", one["effect"])
            for one in spec.get("taints") or []
            if one["key"] in {DRAINING_TAINT, MAINTENANCE_TAINT}
        ),
        window=_window(notes.get(MAINTENANCE_ANNOTATION)),
        unschedulable=bool(spec.get("unschedulable")),
        ready=ready is not None and ready["status"] == "True",
    )


def _window(text: str | None) -> tuple[float, float] | None:
    """`start/end` as `nodeobjects` writes it. What cannot be read is no window: the next offer tells it again."""
    start, _, end = (text or "").partition("/")
    try:
        return (float(start), float(end))
    except ValueError:
        return None
