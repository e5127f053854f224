"""What RESERVE, UNRESERVE, CREATE and DESTROY make of resources, for master and agent alike. Pure.

An operation is a list of conversions: these resources are consumed, those take their place. Resources are single
identities (`Resources.split`) in the format with refined reservations.

Source: Mesos src/common/resources_utils.cpp (`getResourceConversions`, `needCheckpointing`,
`applyCheckpointedResources`), src/slave/paths.cpp (`getPersistentVolumePath`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from local.wire.proto import Json
from shared.mesos.resources import Resources


class Conversion(NamedTuple):
    """`consumed` becomes `converted`."""

    consumed: Resources
    converted: Resources


class ConversionError(Exception):
    """What an operation consumes is not there; Mesos' words."""


def single(resource: Json) -> Resources:
    return Resources.from_json([resource])


def shape(part: Resources) -> Json:
    """The one resource of a single identity, as JSON of its own."""
    (resource,) = part.to_json()
    return resource


def unreserved(resource: Json) -> Json:
    """Without its last reservation (`popReservation`)."""
    outer = resource["reservations"][:-1]
    rest = {key: value for key, value in resource.items() if key != "reservations"}
    return {**rest, "reservations": outer} if outer else rest


def without_volume(resource: Json) -> Json:
    """The disk that a persistent volume is made of."""
    result = {key: value for key, value in resource.items() if key not in ("disk", "shared")}
    if "source" in resource["disk"]:
        result["disk"] = {"source": resource["disk"]["source"]}
    return result


def conversions(kind: str, resources: Resources, source: Resources | None = None) -> list[Conversion]:
    """Of one operation. `source`: what a RESERVE names as such, instead of one reservation less."""
    if kind == "RESERVE" and source:
        return [Conversion(source, resources)]
    result = []
    for part in resources.split():
        inner = single(
            without_volume(shape(part)) if kind in ("CREATE", "DESTROY") else unreserved(shape(part))
        )
        result.append(Conversion(inner, part) if kind in ("RESERVE", "CREATE") else Conversion(part, inner))
    return result


def apply(resources: Resources, many: list[Conversion]) -> Resources:
    """Raises ConversionError when something to be consumed is missing."""
    for consumed, converted in many:
        if not resources.contains(consumed):
            raise ConversionError(f"{resources} does not contain {consumed}")
        resources = resources - consumed + converted
    return resources


def needs_checkpoint(part: Resources) -> bool:
    """Whether a single identity is a dynamic reservation or a persistent volume, which agents remember."""
    stack = part.reservations()
    return is_volume(part) or (bool(stack) and stack[-1]["type"] == "DYNAMIC")


def checkpointed(total: Resources) -> Resources:
    """Of all that an agent has, what it remembers."""
    return sum((part for part in total.split() if needs_checkpoint(part)), Resources())


def restored(total: Resources, remembered: Resources) -> Resources:
    """An agent's --resources with what it remembers in its place. Raises ConversionError."""
    return apply(total, [Conversion(_original(part), part) for part in remembered.split()])


def _original(part: Resources) -> Resources:
    """A remembered resource as --resources has it: neither volume nor dynamic reservation."""
    resource = shape(part)
    if "persistence" in resource.get("disk", {}):
        resource = without_volume(resource)
    while resource.get("reservations") and resource["reservations"][-1]["type"] == "DYNAMIC":
        resource = unreserved(resource)
    return single(resource)


# ---- persistent volumes


def is_volume(part: Resources) -> bool:
    return "persistence" in shape(part).get("disk", {})


def volumes(resources: Resources) -> Iterator[Json]:
    """The persistent volumes, as JSON."""
    return (shape(part) for part in resources.split() if is_volume(part))


def volume_path(work_dir: Path, volume: Json) -> Path:
    """Where an agent keeps a volume: roles' slashes become spaces, which no role has."""
    role = str(volume["reservations"][-1]["role"]).replace("/", " ")
    disk = volume["disk"]
    source = disk.get("source") or {}
    if source.get("type") == "MOUNT":
        return work_dir / str(source["mount"]["root"])
    if source.get("type") == "PATH":
        work_dir = work_dir / str(source["path"]["root"])
    return work_dir / "volumes" / "roles" / role / str(disk["persistence"]["id"])
