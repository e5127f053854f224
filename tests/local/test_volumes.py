"""Reservations and persistent volumes, from the offer operation to the directory, held to the recording."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from local.agent.checkpoint import CheckpointError
from local.agent.volumes import Memory, VolumeError
from local.master.validation.operations import operation_error
from local.reservations import ConversionError, apply, checkpointed, conversions, restored, volume_path
from shared.mesos.resources import Resources

RECORDING = Path(__file__).parent / "wire" / "scheduler.jsonl"
SCENARIO = "reserve, create a volume, launch on it, destroy, unreserve"
LABELS = {"labels": [{"key": "pvc", "value": "default/data"}]}
RESERVATION = {"type": "DYNAMIC", "role": "gantry", "principal": "gantry", "labels": LABELS}
DISK = {
    "persistence": {"id": "vol-1", "principal": "gantry"},
    "volume": {"mode": "RW", "container_path": "data"},
}
INFO = {
    "id": {"value": "f"},
    "roles": ["gantry"],
    "principal": "gantry",
    "capabilities": [{"type": "MULTI_ROLE"}],
}


def disk(amount=64, **fields):
    return {
        "name": "disk",
        "type": "SCALAR",
        "scalar": {"value": amount},
        "allocation_info": {"role": "gantry"},
        **fields,
    }


RESERVED = disk(reservations=[RESERVATION])
VOLUME = disk(reservations=[RESERVATION], disk=DISK)


def operation(kind, *resources):
    field = "volumes" if kind in ("CREATE", "DESTROY") else "resources"
    return {"type": kind, kind.lower(): {field: list(resources)}}


def special(offer):
    """The reserved resources of an offer."""
    return [r for r in offer["resources"] if r.get("reservations") or r.get("reservation")]


async def accept(scheduler, offer, *operations):
    body = {"offer_ids": [offer["id"]], "operations": list(operations), "filters": {"refuse_seconds": 0}}
    assert await scheduler.call("ACCEPT", body) == (202, "")


async def use(scheduler, what):
    """Reserve, create and launch on a volume in one ACCEPT, as recorded."""
    offer = await scheduler.offer(1.0)
    task = scheduler.task(offer, what)
    task["resources"].append(VOLUME)
    launch = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
    await accept(scheduler, offer, operation("RESERVE", RESERVED), operation("CREATE", VOLUME), launch)
    return task


async def offered(scheduler, found):
    """The next offer whose reserved resources satisfy `found`; others are declined."""
    while True:
        offer = await asyncio.wait_for(scheduler.offer(), 60)
        if found(special(offer)):
            return offer
        await scheduler.call("DECLINE", {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0}})


def recorded_offers():
    """The resources of the offers in the recorded scenario."""
    entries = [json.loads(line) for line in RECORDING.read_text().splitlines()]
    start = next(i for i, e in enumerate(entries) if e.get("text") == SCENARIO)
    end = next(i for i, e in enumerate(entries) if i > start and e["dir"] == "scenario")
    bodies = [e["body"] for e in entries[start:end] if e["dir"] == "event"]
    return [b["offers"]["offers"][0]["resources"] for b in bodies if b["type"] == "OFFERS"]


async def test_the_recorded_life_of_a_volume(cluster):
    await cluster.start()
    with_volume, without = recorded_offers()
    scheduler = await cluster.subscribe()
    task = await use(scheduler, "hang")
    await scheduler.update("TASK_RUNNING")
    launched = (await cluster.seen(lambda line: line["body"].get("type") == "LAUNCH"))["body"]["launch"]
    assert special(launched["task"])[0] == special({"resources": with_volume})[0]
    path = cluster.tmp_path / "agent" / "volumes" / "roles" / "gantry" / "vol-1"
    link = cluster.sandbox() / "data"
    assert link.resolve() == path.resolve()
    (link / "file").write_text("kept")
    beside = await scheduler.offer(1.0)
    assert not special(beside)  # in use: it is not offered a second time
    await scheduler.call("KILL", {"task_id": task["task_id"]})
    await scheduler.update("TASK_KILLED")
    await scheduler.call("DECLINE", {"offer_ids": [beside["id"]], "filters": {"refuse_seconds": 0}})
    offer = await offered(scheduler, bool)
    assert special(offer) == special({"resources": with_volume})
    assert not link.exists()
    assert (path / "file").read_text() == "kept"
    await accept(scheduler, offer, operation("DESTROY", VOLUME), operation("UNRESERVE", RESERVED))
    after = await offered(scheduler, lambda found: not found)
    wanted = next(r for r in without if r["name"] == "disk")
    assert next(r for r in after["resources"] if r["name"] == "disk") == wanted
    await cluster.until(lambda: not path.exists())
    state = await cluster.get("/state")
    assert state["slaves"][0]["reserved_resources"] == {}


async def test_volumes_outlive_the_agent_the_master_and_the_agent_id(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await use(scheduler, "sleep 0")
    await scheduler.update("TASK_FINISHED")
    offer = await offered(scheduler, bool)
    (cluster.tmp_path / "agent" / "volumes" / "roles" / "gantry" / "vol-1" / "file").write_text("kept")
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    again = await offered(scheduler, bool)
    assert (special(again), again["agent_id"]) == (special(offer), offer["agent_id"])
    await cluster.master.kill(signal.SIGKILL)
    await scheduler.until_closed()
    await cluster.master.start()
    scheduler = await cluster.subscribe(id={"value": scheduler.framework_id})
    assert special(await offered(scheduler, bool)) == special(offer)
    await cluster.agent.kill(signal.SIGUSR1)
    await cluster.agent.start()
    renewed = await offered(scheduler, bool)
    assert special(renewed) == special(offer)
    assert renewed["agent_id"] != offer["agent_id"]
    task = scheduler.task(renewed, "hang", resources=[*scheduler.task(renewed, "")["resources"], VOLUME])
    await scheduler.accept(renewed, task)
    await scheduler.update("TASK_RUNNING", task["task_id"]["value"])
    assert (cluster.sandbox_of(renewed["agent_id"]["value"]) / "data" / "file").read_text() == "kept"
    status = (await cluster.get("/state", cluster.agent))["resources"]
    assert VOLUME["disk"] in [r.get("disk") for r in status]


async def test_the_format_before_refined_reservations(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    old = {key: value for key, value in RESERVED.items() if key != "reservations"}
    old |= {"role": "gantry", "reservation": {"principal": "gantry", "labels": LABELS}}
    await accept(scheduler, offer, operation("RESERVE", old))
    again = await offered(scheduler, bool)
    assert special(again) == special({"resources": [RESERVED | {"scalar": {"value": 64.0}}]})
    await accept(scheduler, again, operation("UNRESERVE", old))
    await offered(scheduler, lambda found: not found)


async def test_other_roles_never_see_it(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await use(scheduler, "sleep 0")
    await scheduler.update("TASK_FINISHED")
    offer = await offered(scheduler, bool)
    await scheduler.call("SUPPRESS")
    await scheduler.call("DECLINE", {"offer_ids": [offer["id"]]})
    other = await cluster.subscribe(roles=["other"], name="other", principal="other")
    found = await other.offer(1.0)
    assert not special(found)
    assert sum(r["scalar"]["value"] for r in found["resources"] if r["name"] == "disk") == 20000 - 64


async def test_what_is_refused_changes_nothing(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    too_much = disk(50_000, reservations=[RESERVATION])
    asks = operation("RESERVE", RESERVED) | {"id": {"value": "asks"}}
    launch = {"type": "LAUNCH", "launch": {"task_infos": [scheduler.task(offer, "sleep 0")]}}
    await accept(scheduler, offer, operation("RESERVE", too_much), asks, operation("CREATE", VOLUME), launch)
    status = (await scheduler.next("UPDATE_OPERATION_STATUS"))["status"]
    assert (status["operation_id"], status["state"]) == ({"value": "asks"}, "OPERATION_ERROR")
    assert "AGENT_OPERATION_FEEDBACK" in status["message"]
    await scheduler.update("TASK_FINISHED")
    assert not special(await scheduler.offer())
    assert (
        "does not contain disk(allocated: gantry):50000" in (cluster.tmp_path / "master" / "log").read_text()
    )


async def test_an_agent_that_lost_the_disk_under_its_volumes_does_not_start(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await use(scheduler, "sleep 0")
    await scheduler.update("TASK_FINISHED")
    await offered(scheduler, bool)
    await cluster.agent.kill(signal.SIGUSR1)
    cluster.agent.flags = tuple(f.replace("disk:20000", "disk:10") for f in cluster.agent.flags)
    with pytest.raises(AssertionError, match="no longer hold the reservations and volumes"):
        await cluster.agent.start()


BASE = Resources.parse("cpus:4;disk:1000").allocate("gantry")
HELD = BASE - Resources.from_json([disk()]) + Resources.from_json([VOLUME])


def refusal(kind, resource, known=None, used=None, info=INFO):
    return operation_error(operation(kind, resource), info, known or Resources(), used or Resources())


@pytest.mark.parametrize(
    ("kind", "resource", "error"),
    [
        ("RESERVE", disk(), "is not dynamically reserved"),
        ("UNRESERVE", disk(), "is not dynamically reserved"),
        ("UNRESERVE", VOLUME, "cannot be unreserved directly. Please destroy the persistent volume first"),
        ("CREATE", RESERVED, "Not a persistent volume: Resource disk"),
        ("CREATE", disk(disk=DISK), "Persistent volumes cannot be created from unreserved resources"),
        (
            "CREATE",
            disk(
                reservations=[RESERVATION], disk={**DISK, "volume": {"mode": "RO", "container_path": "data"}}
            ),
            "Not a persistent volume: Read-only persistent volume not supported",
        ),
        (
            "CREATE",
            disk(reservations=[RESERVATION], disk={**DISK, "persistence": {"id": "a/b"}}),
            "Invalid persistence ID for persistent volume: 'a/b' contains invalid characters",
        ),
        (
            "CREATE",
            disk(reservations=[RESERVATION], disk={**DISK, "persistence": {"id": "a"}}),
            "Create volume operation attempted by principal 'gantry', but there is a volume",
        ),
        ("CREATE", VOLUME | {"shared": {}}, "with no SHARED_RESOURCES capability"),
        ("DESTROY", VOLUME, "Persistent volumes not found"),
        (
            "RESERVE",
            disk(reservations=[{**RESERVATION, "principal": "other"}]),
            "which does not match a reserved resource in the request with principal 'other'",
        ),
        (
            "RESERVE",
            disk(reservations=[{**RESERVATION, "role": "other"}]),
            "for a resource with role 'other', but the resource was allocated to role 'gantry'",
        ),
    ],
)
def test_refusals_in_mesos_words(kind, resource, error):
    assert error in refusal(kind, resource)


def test_persistence_ids_are_unique_and_volumes_in_use_stay():
    known = checkpointed(HELD).unallocate()
    assert refusal("CREATE", VOLUME, known) == "Persistence ID 'vol-1' is not unique"
    assert refusal("DESTROY", VOLUME, known) is None
    assert refusal("DESTROY", VOLUME, known, known) == "Persistent volumes in use"
    assert refusal("RESERVE", RESERVED) is None


def test_conversions_there_and_back():
    reserved = Resources.from_json([RESERVED])
    volume = Resources.from_json([VOLUME])
    there = [*conversions("RESERVE", reserved), *conversions("CREATE", volume)]
    assert apply(BASE, there) == HELD
    back = [*conversions("DESTROY", volume), *conversions("UNRESERVE", reserved)]
    assert apply(HELD, back) == BASE
    with pytest.raises(ConversionError, match="does not contain"):
        apply(BASE, back)


def test_refined_reservations_go_one_at_a_time():
    outer = {"type": "STATIC", "role": "gantry"}
    inner = {"type": "DYNAMIC", "role": "gantry/web", "principal": "gantry"}
    own = Resources.from_json([disk(reservations=[outer])])
    refined = Resources.from_json([disk(reservations=[outer, inner])])
    assert apply(own, conversions("RESERVE", refined)) == refined
    assert checkpointed(refined) == refined
    assert restored(own, refined) == refined
    assert volume_path(Path("/w"), disk(reservations=[outer, inner], disk=DISK)) == Path(
        "/w/volumes/roles/gantry web/vol-1"
    )


def test_memory_survives_a_crash_between_directory_and_file(tmp_path):
    memory = Memory(tmp_path, BASE.unallocate())
    memory.take(checkpointed(HELD).unallocate())
    path = tmp_path / "volumes" / "roles" / "gantry" / "vol-1"
    assert path.is_dir()
    path.rmdir()
    assert Memory(tmp_path, BASE.unallocate()).total == HELD.unallocate()
    assert path.is_dir()
    with pytest.raises(CheckpointError, match="does not contain"):
        Memory(tmp_path, Resources.parse("disk:1"))


def test_a_name_in_the_sandbox_that_is_taken(tmp_path):
    memory = Memory(tmp_path, BASE.unallocate())
    wanted = checkpointed(HELD)
    memory.take(wanted.unallocate())
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    links = memory.link(sandbox, {}, wanted)
    assert memory.link(sandbox, {}, wanted) == links  # an agent that restarted
    assert memory.link(sandbox, links, Resources()) == {}
    assert not (sandbox / "data").exists()
    (sandbox / "data").mkdir()
    with pytest.raises(VolumeError, match="existing symlink"):
        memory.link(sandbox, {}, wanted)
