"""What the engine knows of storage: claims, the volumes made for them, and what offers hold of ours.

A volume's record is older than the volume (saved before RESERVE and CREATE are sent) and goes after it (when an
offer of its agent came without it). Data only; what to do about it is `volumes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the engine knows of a v1 PersistentVolumeClaim. `size` in thousandths of a MB."""

    uid: str
    namespace: str
    name: str
    size: int
    modes: tuple[str, ...] = ("ReadWriteOnce",)
    deleted: bool = False
    phase: str = "Pending"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class VolumeState(Enum):
    """CREATING: it may exist. BOUND: it does. RELEASED: its claim is gone, so it must go."""

    CREATING = "Pending"
    BOUND = "Bound"
    RELEASED = "Released"


@dataclass(frozen=True, slots=True)
class Volume:
    """A persistent volume of ours; `id` is its persistence id in Mesos and the name of its PersistentVolume.

    It stays with a machine, whatever id that machine's agent has: `node`. `lost`: that node is not there.
    """

    id: str
    claim_uid: str
    namespace: str
    claim: str
    size: int
    node: str
    role: str = ""
    """The Mesos role it is reserved for."""
    modes: tuple[str, ...] = ("ReadWriteOnce",)
    state: VolumeState = VolumeState.CREATING
    lost: bool = False

    @property
    def claim_key(self) -> str:
        return f"{self.namespace}/{self.claim}"


@dataclass(frozen=True, slots=True)
class Held:
    """Disk in an offer that is reserved with our labels; `id` is "" where the reservation has no volume."""

    role: str
    id: str
    claim_uid: str
    claim: str
    """namespace/name."""


@dataclass(frozen=True, slots=True)
class Use:
    """A volume of a launch; `create`: it is to be made first."""

    volume: Volume
    create: bool


@dataclass(slots=True)
class Storage:
    """All of it, with the indexes. `strays`: by node and what was held, since when nobody knows it."""

    claims: dict[str, Claim] = field(default_factory=dict)
    """By namespace/name."""
    keys: dict[str, str] = field(default_factory=dict)
    """Those keys by uid."""
    deleted: set[str] = field(default_factory=set)
    """Keys of claims that wait for their last user."""
    volumes: dict[str, Volume] = field(default_factory=dict)
    by_claim: dict[str, str] = field(default_factory=dict)
    """Volume id by claim uid."""
    by_node: dict[str, set[str]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    """Volumes that are not known to be there, or known to have to go."""
    users: dict[str, set[str]] = field(default_factory=dict)
    """Pods by claim key; may be out of date, the pods themselves decide."""
    tasks: dict[str, str] = field(default_factory=dict)
    """The last task of each volume; it may be over."""
    strays: dict[tuple[str, Held], float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """Agents that Mesos' operators marked gone, as far as they were asked about."""

    def put_claim(self, claim: Claim) -> None:
        self.claims[claim.key] = claim
        self.keys[claim.uid] = claim.key
        (self.deleted.add if claim.deleted else self.deleted.discard)(claim.key)

    def drop_claim(self, uid: str) -> Claim | None:
        key = self.keys.pop(uid, "")
        claim = self.claims.get(key)
        if claim is None or claim.uid != uid:  # a new one of that name is there already
            return None
        self.deleted.discard(key)
        return self.claims.pop(key)

    def put(self, volume: Volume) -> None:
        self.volumes[volume.id] = volume
        self.by_claim[volume.claim_uid] = volume.id
        self.by_node.setdefault(volume.node, set()).add(volume.id)
        (self.open.discard if volume.state is VolumeState.BOUND else self.open.add)(volume.id)

    def drop(self, volume_id: str) -> None:
        volume = self.volumes.pop(volume_id)
        self.open.discard(volume_id)
        self.tasks.pop(volume_id, None)
        if self.by_claim.get(volume.claim_uid) == volume_id:
            del self.by_claim[volume.claim_uid]
        self.by_node[volume.node].discard(volume_id)
        if not self.by_node[volume.node]:
            del self.by_node[volume.node]

    def of_claim(self, claim: Claim) -> Volume | None:
        return self.volumes.get(self.by_claim.get(claim.uid, ""))

    def on_node(self, node: str) -> list[Volume]:
        return [self.volumes[one] for one in sorted(self.by_node.get(node, ()))]


def claim_names(namespace: str, spec: Json) -> tuple[str, ...]:
    """The keys of the claims a pod mounts."""
    found = {
        f"{namespace}/{one['persistentVolumeClaim']['claimName']}"
        for one in spec.get("volumes") or ()
        if "persistentVolumeClaim" in one
    }
    return tuple(sorted(found))


def load(claims: Iterable[Claim], volumes: Iterable[Volume]) -> Storage:
    """From the records of the store."""
    storage = Storage()
    for claim in claims:
        storage.put_claim(claim)
    for volume in volumes:
        storage.put(volume)
    return storage
