"""RESERVE, UNRESERVE, CREATE and DESTROY: whether one may be done at all.

Source: Mesos src/master/validation.cpp (namespace `operation`).
"""

from local.master.validation import resources as rules
from local.master.validation.frameworks import roles
from local.master.validation.resources import bag
from local.reservations import is_volume
from local.wire.proto import Json
from shared.mesos.resources import Resources

KINDS = ("RESERVE", "UNRESERVE", "CREATE", "DESTROY")


def resources_of(operation: Json) -> list[Json]:
    """What the operation is about."""
    body = operation.get(operation["type"].lower()) or {}
    return list(body.get("volumes" if operation["type"] in ("CREATE", "DESTROY") else "resources", []))


def source_of(operation: Json) -> list[Json]:
    """What a RESERVE says to take, if it does."""
    return list((operation.get("reserve") or {}).get("source", []))


def operation_error(operation: Json, info: Json, checkpointed: Resources, used: Resources) -> str | None:
    """`info`: of the framework. `checkpointed`: dynamic reservations and volumes of the agent, `used`: what its
    tasks and executors hold; both without allocation."""
    listed = resources_of(operation)
    if not listed:
        return "Operation contains no resources"
    error = rules.set_error(listed)
    if error is not None:
        return f"Invalid resources: {error}"
    if any("provider_id" in one for one in listed):
        return "Invalid resources: the embedded Mesos has no resource providers"
    kind = operation["type"]
    if kind == "RESERVE":
        return _reserve_error(listed, source_of(operation), info)
    if kind == "UNRESERVE":
        return _unreserve_error(listed)
    error = _volume_error(listed)
    if error is not None:
        return f"Not a persistent volume: {error}"
    if kind == "CREATE":
        return _create_error(listed, checkpointed, info)
    return _destroy_error(bag(listed).unallocate(), checkpointed, used)


def _stack(resource: Json) -> list[Json]:
    """The reservations in one format."""
    return bag([resource]).reservations()


def _dynamic(resource: Json) -> bool:
    stack = _stack(resource)
    return bool(stack) and stack[-1]["type"] == "DYNAMIC"


def _reserve_error(listed: list[Json], source: list[Json], info: Json) -> str | None:
    error = _source_error(listed, source)
    if error is not None:
        return error
    own = sorted(roles(info))
    for resource in listed:
        text = str(bag([resource]))
        if not _dynamic(resource):
            return f"Resource {text} is not dynamically reserved"
        last = _stack(resource)[-1]
        if "principal" in info:
            error = _reserve_principal_error(last, info["principal"])
            if error is not None:
                return error
        role, allocated = last["role"], resource["allocation_info"]["role"]
        if allocated != role:
            return (
                f"A reserve operation was attempted for a resource with role '{role}', but the resource was "
                f"allocated to role '{allocated}'"
            )
        if role not in own:
            return (
                f"A reserve operation was attempted for a resource allocated to role '{role}', but the "
                f"framework only has roles '{{ {', '.join(own)} }}'"
            )
    error = rules.single_role_error(listed)
    return f"Invalid reservation resources: {error}" if error else None


def _reserve_principal_error(reservation: Json, principal: str) -> str | None:
    if "principal" not in reservation:
        return (
            f"A reserve operation was attempted by principal '{principal}', but there is a reserved resource in "
            "the request with no principal set"
        )
    if reservation["principal"] != principal:
        return (
            f"A reserve operation was attempted by authenticated principal '{principal}', which does not match a "
            f"reserved resource in the request with principal '{reservation['principal']}'"
        )
    return None


def _source_error(listed: list[Json], source: list[Json]) -> str | None:
    if not source:
        return None
    error = rules.set_error(source)
    if error is not None:
        return f"Invalid source: {error}"
    for name, resources in (("source", source), ("resources", listed)):
        if any(_stack(one) != _stack(resources[0]) for one in resources):
            return f"Invalid {name}: Mixed reservations are not supported{bag(resources)}"
    if bag(source).flatten() != bag(listed).flatten():
        return (
            "Source and target resources should refer to identical resource quantities: "
            f"{bag(source).flatten()} vs. {bag(listed).flatten()}"
        )
    return None


def _unreserve_error(listed: list[Json]) -> str | None:
    for resource in listed:
        text = str(bag([resource]))
        if not _dynamic(resource):
            return f"Resource {text} is not dynamically reserved"
        if is_volume(bag([resource])):
            return (
                f"A dynamically reserved persistent volume {text} cannot be unreserved directly. Please destroy "
                "the persistent volume first then unreserve the resource"
            )
    return None


def _volume_error(listed: list[Json]) -> str | None:
    for resource in listed:
        if "disk" not in resource:
            return f"Resource {bag([resource])} does not have DiskInfo"
        if "persistence" not in resource["disk"]:
            return "'persistence' is not set in DiskInfo"
        if resource["disk"]["volume"].get("mode") == "RO":
            return "Read-only persistent volume not supported"
    return None


def _create_error(listed: list[Json], checkpointed: Resources, info: Json) -> str | None:
    error = rules.persistence_error([*checkpointed.to_json(), *listed])
    if error is not None:
        return error
    capabilities = {one.get("type") for one in info.get("capabilities", [])}
    for volume in listed:
        if "shared" in volume and "SHARED_RESOURCES" not in capabilities:
            return (
                f"Create volume operation for '{bag([volume])}' has been attempted by framework "
                f"'{info['id']['value']}' with no SHARED_RESOURCES capability"
            )
        if "principal" in info:
            error = _create_principal_error(volume["disk"]["persistence"], info["principal"])
            if error is not None:
                return error
    error = rules.single_role_error(listed)
    return f"Invalid volume resources: {error}" if error else None


def _create_principal_error(persistence: Json, principal: str) -> str | None:
    if "principal" not in persistence:
        return (
            f"Create volume operation attempted by principal '{principal}', but there is a volume in the operation "
            "with no principal set in 'disk.persistence'"
        )
    if persistence["principal"] != principal:
        return (
            f"Create volume operation attempted by authenticated principal '{principal}', which does not match a "
            f"volume in the operation with principal '{persistence['principal']}' set in 'disk.persistence'"
        )
    return None


def _destroy_error(volumes: Resources, checkpointed: Resources, used: Resources) -> str | None:
    if not all(checkpointed.contains(volume) for volume in volumes.split()):
        return "Persistent volumes not found"
    if any(used.contains(volume) for volume in volumes.split()):
        return "Persistent volumes in use"
    return None
