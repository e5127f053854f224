"""The resources of offers, as Mesos JSON: what of them we may use, and taking amounts out of them.

Used: unreserved resources, and those reserved for our role or a role above it, which are taken first: by the agent's
operator (static), or at run time with the label `gantry.io/pods: "true"`. Never touched: other roles' reservations,
and all others made at run time (they are somebody's, maybe ours for a volume), volumes, MOUNT disks. Revocable
resources are a pool of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.framework.core.vectors import Ranges, Vector, has_ports, join, without_ports
from scheduler.framework.disks import is_raw
from shared.mesos.values import milli

Json = dict[str, Any]

POOL_LABEL = "gantry.io/pods"
"""Of a dynamic reservation that pods may use."""

PLAIN = frozenset({"name", "type", "scalar", "ranges", "role", "allocation_info"})
"""The fields of an unreserved resource."""

SCALARS = {"cpus": "cpus", "mem": "mem", "disk": "disk", "gpus": "gpus"}


@dataclass(slots=True)
class _Part:
    """What is left of one resource of an offer."""

    resource: Json
    name: str
    left: int = 0
    ranges: Ranges = ()


class Pool:
    """The usable resources of some offers of one agent; `roles`: whose. Either the revocable ones, or the others."""

    def __init__(self, resources: Iterable[Json], *roles: str, revocable: bool = False) -> None:
        alike = [one for one in resources if ("revocable" in one) is revocable]
        usable = [one for one in alike if _plain(one) or any(_usable(one, role) for role in roles)]
        if not all(map(_plain, usable)):
            usable.sort(key=lambda one: -_reservations(one))
        self._parts = [_part(one) for one in usable]

    def vector(self) -> Vector:
        sums = dict.fromkeys(SCALARS, 0)
        for part in self._parts:
            if part.name in sums:
                sums[part.name] += part.left
        return Vector(**sums)

    def ports(self) -> Ranges:
        return join(*(part.ranges for part in self._parts if part.name == "ports"))

    def take(self, amounts: Vector, ports: Iterable[int] = ()) -> list[Json]:
        """`Resource` messages of these amounts. ValueError when there is not as much: a bug of placement."""
        taken: list[Json] = []
        for name in SCALARS:
            taken += self._take_scalar(name, getattr(amounts, name))
        for port in ports:
            taken.append(self._take_port(port))
        return taken

    def _take_scalar(self, name: str, amount: int) -> list[Json]:
        taken = []
        for part in self._parts:
            share = min(part.left, amount) if part.name == name else 0
            if share > 0:
                part.left -= share
                amount -= share
                taken.append({**part.resource, "scalar": {"value": share / 1000}})
        if amount:
            raise ValueError(f"the offers lack {amount / 1000} of {name}")
        return taken

    def _take_port(self, port: int) -> Json:
        for part in self._parts:
            if part.name == "ports" and has_ports(part.ranges, [port]):
                part.ranges = without_ports(part.ranges, [port])
                return {**part.resource, "ranges": {"range": [{"begin": port, "end": port}]}}
        raise ValueError(f"the offers lack port {port}")

    def take_raw_disk(self, amount: int) -> Json:
        """Unreserved disk as one `Resource`, to make a volume of. ValueError when there is not as much."""
        left, taken = amount, None
        for part in self._parts:
            share = min(part.left, left) if is_raw(part.resource) else 0
            if share > 0:
                part.left -= share
                left -= share
                taken = {**part.resource, "scalar": {"value": amount / 1000}}
        if left or taken is None:
            raise ValueError(f"the offers lack {left / 1000} of unreserved disk")
        return taken

    def remove(self, resources: Iterable[Mapping[str, Any]]) -> None:
        """Sets aside what an executor takes that the master will start with these launches, identity by identity."""
        for one in resources:
            amount = milli(one["scalar"]["value"])
            for part in self._parts:
                if _identity(part.resource) == _identity(one):
                    share = min(part.left, amount)
                    part.left -= share
                    amount -= share


def _identity(resource: Mapping[str, Any]) -> Json:
    return {name: value for name, value in resource.items() if name not in {"scalar", "ranges"}}


def _part(resource: Json) -> _Part:
    name = resource["name"]
    if resource["type"] == "RANGES":
        listed = (resource.get("ranges") or {}).get("range") or []
        return _Part(resource, name, ranges=join(tuple((int(r["begin"]), int(r["end"])) for r in listed)))
    if resource["type"] == "SCALAR":
        return _Part(resource, name, left=milli(resource["scalar"]["value"]))
    return _Part(resource, name)


def _plain(resource: Json) -> bool:
    """Nobody's, and nothing special: most resources of most offers."""
    return resource.keys() <= PLAIN and resource.get("role", "*") == "*"


def _usable(resource: Json, role: str) -> bool:
    if "shared" in resource or "provider_id" in resource:
        return False
    disk = resource.get("disk") or {}
    if "persistence" in disk or "source" in disk:
        return False
    if "reservation" in resource:  # dynamic, in the format before refined reservations
        return False
    old = resource.get("role", "*")
    return (old == "*" or _above(old, role)) and all(
        _above(one.get("role", ""), role) and _open(one) for one in resource.get("reservations") or []
    )


def _above(owner: str, role: str) -> bool:
    """What is reserved for `eng` is offered to `eng/web`, too (Mesos docs/roles.md)."""
    return role == owner or role.startswith(owner + "/")


def _open(reservation: Mapping[str, Any]) -> bool:
    """Whether a reservation is for whatever runs in its role, not for somebody's own purpose."""
    if reservation.get("type") == "STATIC":
        return True
    labels = (reservation.get("labels") or {}).get("labels") or []
    return {"key": POOL_LABEL, "value": "true"} in labels


def _reservations(resource: Json) -> int:
    """How deep it is reserved: the most refined is the hardest to use for anything else."""
    return len(resource.get("reservations") or []) or int(resource.get("role", "*") != "*")
