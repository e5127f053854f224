"""Reserved disk in Mesos JSON: what is ours, and the operations on it, as a real Mesos took them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.framework import disks
from scheduler.framework.core.claims import Held, Volume, VolumeState
from scheduler.framework.pools import Pool
from scheduler.framework.volumeobjects import (
    capacity,
    claim_from_object,
    released_claim,
    volume_from_object,
    volume_object,
)
from scheduler.store import StoreError

RECORDING = Path(__file__).parents[1] / "local" / "wire" / "scheduler.jsonl"
VOLUME = Volume("pvc-u-1", "u", "default", "data", 64_000, "host-a1", "gantry")
RAW = {
    "name": "disk",
    "type": "SCALAR",
    "scalar": {"value": 64.0},
    "allocation_info": {"role": "gantry"},
}


def offer(*resources: Any, framework: str = "F") -> dict[str, Any]:
    return {"framework_id": {"value": framework}, "resources": list(resources)}


def made(framework: str = "F") -> Any:
    return disks.make(RAW, VOLUME, framework, "gantry")[1]


def shape(value: Any) -> Any:
    """The fields, without what they hold."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value) in (int, float) and "number"


def recorded() -> dict[str, Any]:
    """The operations that a real Mesos took, by type."""
    found = {}
    for line in RECORDING.read_text().splitlines():
        body = json.loads(line).get("body") or {}
        if isinstance(body, dict) and body.get("type") == "ACCEPT" and json.loads(line)["dir"] == "call":
            found |= {one["type"]: one for one in body["accept"].get("operations", ())}
    return found


def test_operations_have_the_recorded_shape() -> None:
    operations, volume = disks.make(RAW, VOLUME, "F", "gantry")
    operations += disks.destroy([offer(volume)], [Held("gantry", VOLUME.id, "u", "default/data")], "gantry")
    assert [one["type"] for one in operations] == ["RESERVE", "CREATE", "DESTROY", "UNRESERVE"]
    real = recorded()
    for one in operations:
        assert shape(one) == shape(real[one["type"]])


def test_without_a_principal_none_is_named() -> None:
    text = json.dumps(disks.make(RAW, VOLUME, "F", ""))
    assert "principal" not in text


def test_only_what_names_this_framework_is_ours() -> None:
    foreign = made("G")
    unlabelled = {**made(), "reservations": [{"type": "DYNAMIC", "role": "gantry"}]}
    mine = made()
    assert disks.held(offer(RAW, foreign, unlabelled, mine), "gantry") == (
        Held("gantry", VOLUME.id, "u", "default/data"),
    )
    doomed = [Held("gantry", VOLUME.id, "u", "default/data")]
    assert disks.destroy([offer(foreign, unlabelled)], doomed, "gantry") == []


def test_a_reservation_without_its_volume_is_given_back() -> None:
    bare = disks.reserved(RAW, VOLUME, "F", "gantry")
    (held,) = disks.held(offer(bare), "gantry")
    assert held == Held("gantry", "", "u", "default/data")
    assert disks.destroy([offer(bare)], [held], "gantry") == [
        {"type": "UNRESERVE", "unreserve": {"resources": [bare]}}
    ]


@pytest.mark.parametrize(
    "mark",
    [
        {"reservations": [{"type": "STATIC", "role": "gantry"}]},
        {"role": "gantry"},
        {"revocable": {}},
        {"shared": {}},
        {"disk": {"source": {"type": "MOUNT"}}},
        {"provider_id": {"value": "p"}},
    ],
)
def test_volumes_are_made_of_plain_disk(mark: dict[str, Any]) -> None:
    assert disks.raw_disk(offer(RAW)) == 64_000
    assert disks.raw_disk(offer(RAW | mark)) == 0


def test_raw_disk_of_several_offers_is_one_resource() -> None:
    pool = Pool([RAW, RAW], "gantry")
    assert pool.take_raw_disk(100_000) == {**RAW, "scalar": {"value": 100.0}}
    with pytest.raises(ValueError, match=r"the offers lack 22\.0 of unreserved disk"):
        pool.take_raw_disk(50_000)


def test_pods_never_take_the_disk_of_volumes() -> None:
    assert Pool([made(), disks.reserved(RAW, VOLUME, "F", "")], "gantry").vector().disk == 0


def test_an_offered_volume_is_used_as_it_is() -> None:
    assert disks.find([offer(RAW), offer(made())], VOLUME.id) == made()
    with pytest.raises(LookupError, match="do not hold volume x"):
        disks.find([offer(made())], "x")


@pytest.mark.parametrize("state", list(VolumeState))
@pytest.mark.parametrize("lost", [True, False])
def test_records_are_read_back(state: VolumeState, lost: bool) -> None:
    volume = replace(VOLUME, state=state, lost=lost, modes=("ReadWriteOncePod",))
    obj = volume_object(None, volume, uid="x", now=1.8e9)
    assert volume_from_object(obj) == volume
    again = volume_object(obj, volume, uid="y", now=1.9e9)
    assert again == obj


def test_a_record_that_cannot_be_read_stops_the_start() -> None:
    with pytest.raises(StoreError, match="record of volume x cannot be read"):
        volume_from_object({"metadata": {"name": "x"}, "spec": {}})


@pytest.mark.parametrize(
    ("size", "text"), [(1000, "1Mi"), (1500, "1536Ki"), (1_024_000, "1Gi"), (3 * 1024**2 * 1000, "3Ti")]
)
def test_capacities(size: int, text: str) -> None:
    assert capacity(replace(VOLUME, size=size)) == text


def claim(storage: str, **meta: Any) -> dict[str, Any]:
    metadata = {"uid": "u", "namespace": "default", "name": "data", **meta}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}}
    return {"metadata": metadata, "spec": spec}


@pytest.mark.parametrize(("storage", "size"), [("1", 1000), ("1Mi", 1000), ("1M", 1000), ("3Mi", 3000)])
def test_sizes_are_rounded_up_and_a_megabyte_at_least(storage: str, size: int) -> None:
    assert claim_from_object(claim(storage)).size == size


def test_only_a_deleted_claim_is_released_and_only_of_our_finalizer() -> None:
    protected = ["kubernetes.io/pvc-protection", "example.com/mine"]
    alive = claim("1Gi", finalizers=protected)
    assert released_claim(alive) is alive
    gone = claim("1Gi", finalizers=protected, deletionTimestamp="2026-01-01T00:00:00Z")
    kept = released_claim(gone)
    assert kept is not None
    assert kept["metadata"]["finalizers"] == ["example.com/mine"]
    gone["metadata"]["finalizers"] = protected[:1]
    assert released_claim(gone) is None
