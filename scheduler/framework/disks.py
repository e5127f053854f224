"""Reserved disk and persistent volumes in Mesos JSON: what offers hold of ours, and the operations on it.

Ours is what is reserved at run time with a label that names this framework; everything else is somebody else's,
whatever its role. The labels also tell the executor which claim a volume is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.framework.core.claims import Held, Volume
from shared.claims import CLAIM_LABEL, CLAIM_UID_LABEL, FRAMEWORK_LABEL

Json = dict[str, Any]


def _labels(resource: Mapping[str, Any]) -> dict[str, str]:
    """Of its last reservation, in either format."""
    stack = resource.get("reservations") or [resource.get("reservation") or {}]
    listed = (stack[-1].get("labels") or {}).get("labels") or ()
    return {one["key"]: one.get("value", "") for one in listed}


def _id(resource: Mapping[str, Any]) -> str:
    persistence = (resource.get("disk") or {}).get("persistence") or {}
    return str(persistence.get("id", ""))


def _is_ours(resource: Mapping[str, Any], framework_id: str) -> bool:
    return resource["name"] == "disk" and _labels(resource).get(FRAMEWORK_LABEL) == framework_id


def _held(resource: Mapping[str, Any], role: str) -> Held:
    labels = _labels(resource)
    return Held(role, _id(resource), labels.get(CLAIM_UID_LABEL, ""), labels.get(CLAIM_LABEL, ""))


def held(offer: Json, role: str) -> tuple[Held, ...]:
    """What an offer holds of ours."""
    framework_id = (offer.get("framework_id") or {}).get("value", "")
    listed = offer.get("resources") or ()
    return tuple(_held(one, role) for one in listed if _is_ours(one, framework_id))


def owned(resources: Iterable[Json], owner: str) -> tuple[Held, ...]:
    """What of the resources is labelled as `owner`'s, a framework id; each in the role that it is reserved for."""
    return tuple(_held(one, _role(one)) for one in resources if _is_ours(one, owner))


def _role(resource: Mapping[str, Any]) -> str:
    stack = resource.get("reservations") or [{"role": resource.get("role", "*")}]
    return str(stack[-1].get("role", "*"))


def raw_disk(offer: Json) -> int:
    """Thousandths of a MB of unreserved disk: what volumes can be made of."""
    return sum(round(one["scalar"]["value"] * 1000) for one in offer.get("resources") or () if is_raw(one))


def is_raw(resource: Mapping[str, Any]) -> bool:
    """Plain, unreserved disk."""
    if resource["name"] != "disk":
        return False
    marks = ("reservations", "reservation", "disk", "revocable", "shared", "provider_id")
    plain = not any(resource.get(name) for name in marks) and not {"revocable", "shared"} & resource.keys()
    return plain and resource.get("role", "*") == "*"


def reserved(raw: Json, volume: Volume, framework_id: str, principal: str) -> Json:
    """Raw disk as the reservation of a volume."""
    labels = {
        FRAMEWORK_LABEL: framework_id,
        CLAIM_LABEL: volume.claim_key,
        CLAIM_UID_LABEL: volume.claim_uid,
    }
    reservation: Json = {
        "type": "DYNAMIC",
        "role": volume.role,
        "labels": {"labels": [{"key": key, "value": value} for key, value in labels.items()]},
    }
    if principal:
        reservation["principal"] = principal
    plain = {key: value for key, value in raw.items() if key != "role"}
    return {**plain, "reservations": [reservation]}


def with_volume(resource: Json, volume: Volume, principal: str) -> Json:
    """A reservation as the volume on it. Its path in the sandbox is its id, so no two can meet."""
    persistence = {"id": volume.id, **({"principal": principal} if principal else {})}
    return {
        **resource,
        "disk": {"persistence": persistence, "volume": {"mode": "RW", "container_path": volume.id}},
    }


def make(raw: Json, volume: Volume, framework_id: str, principal: str) -> tuple[list[Json], Json]:
    """The operations that make a volume, and the volume."""
    reservation = reserved(raw, volume, framework_id, principal)
    made = with_volume(reservation, volume, principal)
    operations: list[Json] = [
        {"type": "RESERVE", "reserve": {"resources": [reservation]}},
        {"type": "CREATE", "create": {"volumes": [made]}},
    ]
    return operations, made


def find(offers: Iterable[Json], volume_id: str) -> Json:
    """A volume as it was offered. LookupError when it was not: a bug of placement."""
    for offer in offers:
        for one in offer.get("resources") or ():
            if _id(one) == volume_id:
                return dict(one)
    raise LookupError(f"the offers do not hold volume {volume_id}")


def destroy(offers: Iterable[Json], doomed: Iterable[Held], role: str) -> list[Json]:
    """The operations that give reserved disk back, volumes and all."""
    wanted, operations = set(doomed), []
    for offer in offers:
        framework_id = (offer.get("framework_id") or {}).get("value", "")
        for one in offer.get("resources") or ():
            if _is_ours(one, framework_id) and _held(one, role) in wanted:
                operations += _give_back(one)
    return operations


def destroy_all(resources: Iterable[Json], owner: str) -> list[Json]:
    """The same for everything that is labelled as `owner`'s."""
    return [operation for one in resources if _is_ours(one, owner) for operation in _give_back(one)]


def _give_back(resource: Json) -> list[Json]:
    bare = {key: value for key, value in resource.items() if key != "disk"}
    operations: list[Json] = [{"type": "UNRESERVE", "unreserve": {"resources": [bare]}}]
    if _id(resource):
        operations.insert(0, {"type": "DESTROY", "destroy": {"volumes": [resource]}})
    return operations
