"""Resources in calls: their format, and the rules on several of them together.

Source: Mesos src/common/resources.cpp (`Resources::validate`, `validateAndUpgradeResources`),
src/master/validation.cpp (namespace `resource`).
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import orjson

from local.master.validation.ids import id_error, role_error
from local.wire.proto import Json
from shared.mesos.resources import Resources
from shared.mesos.values import format_value, milli, value_from_json

_VALUE_FIELDS = {"SCALAR": "scalar", "RANGES": "ranges", "SET": "set"}


def format_error(resource: Json) -> str | None:
    """Whether one resource is well formed."""
    if not resource["name"]:
        return "Empty resource name"
    kind = resource["type"]
    if kind not in _VALUE_FIELDS:
        return "Unsupported resource type"
    if [f for f in _VALUE_FIELDS.values() if f in resource] != [_VALUE_FIELDS[kind]]:
        return f"Invalid {kind.lower()} resource"
    error = _value_error(resource, kind)
    if error is None and "disk" in resource and resource["name"] != "disk":
        error = f"DiskInfo should not be set for {resource['name']} resource"
    return error or _reservation_error(resource) or _shared_error(resource)


def _value_error(resource: Json, kind: str) -> str | None:
    if kind == "SCALAR":
        value = resource["scalar"]["value"]
        return "Invalid scalar resource: value <= 0" if value != 0 and milli(value) <= 0 else None
    if kind == "SET":
        items = resource["set"].get("item", [])
        return "Invalid set resource: duplicated elements" if len(set(items)) != len(items) else None
    ranges = sorted((r["begin"], r["end"]) for r in resource["ranges"].get("range", []))
    if any(begin > end for begin, end in ranges):
        return "Invalid ranges resource: begin > end"
    if any(ranges[i][1] >= ranges[i + 1][0] for i in range(len(ranges) - 1)):
        return "Invalid ranges resource: overlapping ranges"
    return None


def _reservation_error(resource: Json) -> str | None:
    reservations = resource.get("reservations") or []
    role = resource.get("role", "*")
    if not reservations:
        error = role_error(role)
        if error is None and "reservation" in resource and role == "*":
            error = 'Invalid reservation: role "*" cannot be dynamically reserved'
        return error
    for field in ("type", "role"):
        if any(field not in reservation for reservation in reservations):
            return f"Invalid reservation: 'Resource.ReservationInfo.{field}' field must be set."
    for reservation in reservations:
        if reservation["role"] == "*":
            return 'Invalid reservation: role "*" cannot be reserved'
        error = role_error(reservation["role"])
        if error:
            return error
    for outer, inner in pairwise(reservations):
        if inner["type"] == "STATIC":
            return "Invalid refined reservation: A refined reservation cannot be STATIC"
        if not inner["role"].startswith(outer["role"] + "/"):
            return f"Invalid refined reservation: role '{inner['role']}' is not a refinement of '{outer['role']}'"
    if "role" in resource and len(reservations) == 1 and role != reservations[0]["role"]:
        return (
            f"Invalid resource format: 'Resource.role' field with '{role}' does not match the role "
            f"'{reservations[0]['role']}' in 'Resource.reservations'"
        )
    return None


def _shared_error(resource: Json) -> str | None:
    if "shared" not in resource:
        return None
    if resource["name"] != "disk":
        return f"Resource {resource['name']} cannot be shared"
    if "persistence" not in (resource.get("disk") or {}):
        return "Only persistent volumes can be shared"
    return None


def show(resource: Json) -> str:
    """One resource in Mesos' words, even when it is not valid."""
    label = str(resource["name"])
    role = (resource.get("allocation_info") or {}).get("role")
    if role is not None:
        label += f"(allocated: {role})"
    try:
        return f"{label}:{format_value(value_from_json(resource['type'], resource))}"
    except ValueError:
        return label


def upgrade_error(resources: Iterable[Json]) -> str | None:
    """The first resource that is not well formed; fails a whole operation."""
    for resource in resources:
        error = format_error(resource)
        if error:
            return f"Resource '{show(resource)}' is invalid: {error}"
    return None


def bag(resources: Iterable[Json]) -> Resources:
    """Well-formed resources as `Resources`; empty ones are dropped, as Mesos does. Raises ValueError."""
    return _bag(orjson.dumps(list(resources)))


@lru_cache(maxsize=4096)
def _bag(text: bytes) -> Resources:
    """The same few lists come again and again, and several times for each task."""
    return Resources.from_json(r for r in orjson.loads(text) if not _empty(r))


def _empty(resource: Json) -> bool:
    if resource["type"] == "SCALAR":
        return milli(resource["scalar"]["value"]) == 0
    if resource["type"] == "RANGES":
        return not resource["ranges"].get("range")
    return not resource.get("set", {}).get("item")


def set_error(resources: list[Json]) -> str | None:
    """Rules within one list (namespace `resource`): formats, whole GPUs, volumes."""
    for resource in resources:
        error = format_error(resource)
        if error:
            return f"Invalid resources: {error}"
        if resource["name"] == "gpus" and milli(resource["scalar"]["value"]) % 1000:
            return "Invalid 'gpus' resource: The 'gpus' resource must be an unsigned integer"
        error = _disk_error(resource) if "disk" in resource else None
        if error:
            return f"Invalid DiskInfo: {error}"
        stack = bag([resource]).reservations() if not _empty(resource) else []
        if "revocable" in resource and stack and stack[-1]["type"] == "DYNAMIC":
            text = (
                f"Dynamically reserved resource {show(resource)} cannot be created from revocable resources"
            )
            return f"Invalid ReservationInfo: {text}"
    return None


def _disk_error(resource: Json) -> str | None:
    """`validateDiskInfo`."""
    disk = resource["disk"]
    if "persistence" not in disk:
        if "volume" in disk:
            return "Non-persistent volume not supported"
        return None if "source" in disk else "DiskInfo is set but empty"
    if "revocable" in resource:
        return "Persistent volumes cannot be created from revocable resources"
    if not resource.get("reservations") and resource.get("role", "*") == "*":
        return "Persistent volumes cannot be created from unreserved resources"
    if "volume" not in disk:
        return "Expecting 'volume' to be set for persistent volume"
    if "host_path" in disk["volume"]:
        return "Expecting 'host_path' to be unset for persistent volume"
    error = id_error(disk["persistence"]["id"])
    return f"Invalid persistence ID for persistent volume: {error}" if error else None


def single_role_error(resources: list[Json]) -> str | None:
    """All resources must be allocated to one role."""
    first: str | None = None
    for resource in resources:
        role = (resource.get("allocation_info") or {}).get("role")
        if role is None:
            return "The resources are not allocated to a role"
        if first is not None and role != first:
            return (
                f"The resources have multiple allocation roles ('{role}' and '{first}') "
                "but only one allocation role is allowed"
            )
        first = role
    return None


def persistence_error(resources: list[Json]) -> str | None:
    """A persistence id may appear once a role."""
    seen: set[tuple[str, str]] = set()
    for resource in resources:
        persistence = (resource.get("disk") or {}).get("persistence")
        if persistence is None or "shared" in resource:
            continue
        reservations = resource.get("reservations") or [{"role": resource.get("role", "*")}]
        key = (reservations[-1]["role"], str(persistence.get("id")))
        if key in seen:
            return f"Persistence ID '{key[1]}' is not unique"
        seen.add(key)
    return None


def revocable_error(resources: list[Json]) -> str | None:
    """Revocable and other resources of one name do not mix."""
    kinds: dict[str, set[bool]] = {}
    for resource in resources:
        kinds.setdefault(resource["name"], set()).add("revocable" in resource)
    for name, found in kinds.items():
        if len(found) > 1:
            return f"Cannot use both revocable and non-revocable '{name}' at the same time"
    return None


def overlapping(*lists: list[Json]) -> bool:
    """Whether ranges or sets of the lists overlap: then the sum has less than its parts."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    items: dict[str, list[str]] = {}
    for resource in (r for resources in lists for r in resources):
        if resource["type"] == "RANGES":
            ranges.setdefault(resource["name"], []).extend(
                (r["begin"], r["end"]) for r in resource["ranges"].get("range", [])
            )
        elif resource["type"] == "SET":
            items.setdefault(resource["name"], []).extend(resource["set"].get("item", []))
    for spans in ranges.values():
        spans.sort()
        if any(spans[i][1] >= spans[i + 1][0] for i in range(len(spans) - 1)):
            return True
    return any(len(set(names)) != len(names) for names in items.values())
