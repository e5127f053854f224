"""Quota: what the allocator makes of guarantees and limits, and what operators are told."""

import itertools
import json
from pathlib import Path

from local.master.allocator import Allocator
from local.master.quantities import Quota
from shared.mesos.resources import Resources

MULTI = frozenset(("MULTI_ROLE", "RESERVATION_REFINEMENT", "REVOCABLE_RESOURCES"))
RECORDING = Path(__file__).parent / "wire" / "scheduler-2.jsonl"


def make(roles=("a", "b"), agents=2, text="cpus:4;mem:4096;disk:100;ports:[1-9]", **quotas):
    allocator = Allocator(1.0)
    for number in range(agents):
        allocator.add_agent(f"S{number}", Resources.parse(text), {})
    for role in roles:
        allocator.add_framework(f"F{role}", (role,), (), MULTI)
    for role, quota in quotas.items():
        allocator.set_quota(role, quota)
    return allocator


def cpus(**amounts):
    return {f"{name}": round(value * 1000) for name, value in amounts.items()}


def sums(allocations):
    total = {}
    for one in allocations:
        total[one.role] = total.get(one.role, Resources()) + one.resources
    return {role: (r.scalar("cpus") / 1000, r.scalar("mem") / 1000) for role, r in total.items()}


def test_a_limit_chops_what_is_offered_and_leaves_the_rest_to_others():
    allocator = make(a=Quota({}, cpus(cpus=3, mem=512)))
    offered = sums(allocator.allocate(0.0))
    assert offered == {"a": (3.0, 512.0), "b": (5.0, 7680.0)}


def test_what_has_no_limit_and_ports_come_along():
    allocator = make(roles=("a",), agents=1, a=Quota({}, cpus(cpus=1)))
    (only,) = allocator.allocate(0.0)
    assert only.resources.scalar("cpus") == 1000
    assert only.resources.scalar("mem") == 4_096_000
    assert only.resources.ranges("ports") == ((1, 9),)


def test_a_role_at_its_limit_gets_nothing_but_what_is_reserved_for_it():
    allocator = make(roles=("a",), agents=1, text="cpus:4;mem:4096;cpus(a):1;mem(a):64")
    allocator.set_quota("a", Quota({}, cpus(cpus=1, mem=64)))
    (only,) = allocator.allocate(0.0)
    assert all(part.reservations() for part in only.resources.split())
    assert only.resources.scalar("cpus") == 1000, "the reservation alone is the limit"


def test_a_limit_is_over_all_agents_and_counts_what_runs():
    allocator = make(roles=("a",), agents=0, a=Quota({}, cpus(cpus=3)))
    running = Resources.parse("cpus:2;mem:64").allocate("a")
    allocator.add_agent("S0", Resources.parse("cpus:4;mem:512"), {"Fa": running})
    allocator.add_agent("S1", Resources.parse("cpus:4;mem:512"), {})
    assert sums(allocator.allocate(0.0))["a"][0] == 1.0
    allocator.recover("Fa", "S0", Resources.parse("cpus:2;mem:64").allocate("a"))
    assert sums(allocator.allocate(1.0))["a"][0] == 2.0


def test_no_limit_is_a_quota_of_nothing():
    allocator = make(a=Quota({}, cpus(cpus=1)))
    allocator.set_quota("a", Quota())
    assert sum(amount[0] for amount in sums(allocator.allocate(0.0)).values()) == 8.0


def test_guarantees_are_held_back_from_others():
    """Nobody of role a is there, and what is guaranteed to it is offered to nobody else."""
    allocator = make(roles=("b",), a=Quota(cpus(cpus=6, mem=1024), {}))
    assert sums(allocator.allocate(0.0)) == {"b": (2.0, 7168.0)}


def test_guarantees_come_first():
    allocator = make(roles=("b", "a"), agents=1, a=Quota(cpus(cpus=4), cpus(cpus=4)))
    running = Resources.parse("mem:2048").allocate("a")
    allocator.add_agent("S9", Resources.parse("mem:2048"), {"Fa": running})  # so its share is the greater one
    assert sums(allocator.allocate(0.0, ["S0"])) == {"a": (4.0, 4096.0)}


def test_guarantees_that_are_met_hold_nothing_back():
    allocator = make(roles=("b",), agents=0, a=Quota(cpus(cpus=2), {}))
    running = Resources.parse("cpus:2;mem:64").allocate("a")
    allocator.add_agent("S0", Resources.parse("cpus:4;mem:512"), {"Fa": running})
    assert sums(allocator.allocate(0.0)) == {"b": (2.0, 448.0)}


def test_reservations_count_for_a_guarantee():
    allocator = make(roles=("b",), agents=1, text="cpus:4;mem:512;cpus(a):2;mem(a):64")
    allocator.set_quota("a", Quota(cpus(cpus=3), {}))
    assert sums(allocator.allocate(0.0)) == {"b": (3.0, 512.0)}, "one of three is still to come"


def test_what_is_revocable_is_no_matter_of_quota():
    allocator = make(roles=("a", "b"), agents=1, text="cpus:1;mem:64;cpus{REV}:8;mem{REV}:640")
    allocator.set_quota("a", Quota(cpus(cpus=1), cpus(cpus=1)))
    allocator.set_quota("b", Quota({}, cpus(cpus=0, mem=0)))
    allocations = allocator.allocate(0.0)
    assert sums(allocations) == {"a": (9.0, 704.0)}
    allocator = make(roles=("b",), agents=1, text="cpus:1;mem:64;cpus{REV}:8;mem{REV}:640")
    allocator.set_quota("b", Quota({}, cpus(cpus=0, mem=0)))
    assert sums(allocator.allocate(0.0)) == {"b": (8.0, 640.0)}


# ---- operators


async def test_operators_set_see_and_remove_it(cluster):
    await cluster.start()
    gantry = await cluster.subscribe()
    await gantry.next("OFFERS")
    recorded = recorded_quota()
    assert await cluster.operator(recorded["call"]) == (200, "")
    status, shown = await cluster.operator({"type": "GET_QUOTA"})
    assert (status, shown) == (200, recorded["reply"])
    roles = {one["name"]: one for one in (await cluster.get("/roles"))["roles"]}
    assert roles["batch"]["quota"] == {
        "role": "batch",
        "guarantee": {"cpus": 0.5},
        "limit": {"cpus": 1.0, "mem": 512.0},
        "consumed": {},
    }
    _, listed = await cluster.operator({"type": "GET_ROLES"})
    assert {"name": "batch", "weight": 1.0} in listed["get_roles"]["roles"]
    await cluster.master.kill()
    await cluster.master.start()
    _, shown = await cluster.operator({"type": "GET_QUOTA"})
    assert shown == recorded["reply"], "it outlives the master"
    config = {"role": "batch"}
    assert (await cluster.operator(quota(config)))[0] == 200
    assert (await cluster.operator({"type": "GET_QUOTA"}))[1]["get_quota"] == {"status": {}}


def recorded_quota():
    entries = [json.loads(line) for line in RECORDING.read_text().splitlines()]
    calls = [one for one in entries if one.get("peer") == "operator"]
    found = {}
    for call, reply in itertools.pairwise(calls):
        if call.get("body", {}).get("type") == "UPDATE_QUOTA":
            found["call"] = call["body"]
        if call.get("body", {}).get("type") == "GET_QUOTA":
            found["reply"] = json.loads(reply["text"])
    return found


def quota(*configs, **more):
    return {"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": list(configs), **more}}


def amounts(**values):
    return {name: {"value": value} for name, value in values.items()}


async def test_a_new_limit_takes_offers_back_at_once(cluster):
    await cluster.start()
    gantry = await cluster.subscribe()
    offer = await gantry.offer(4)
    limited = quota({"role": "gantry", "limits": amounts(cpus=1, mem=128)})
    assert await cluster.operator(limited) == (200, "")
    rescinded = await gantry.next("RESCIND")
    assert rescinded["offer_id"] == offer["id"]
    again = await gantry.offer(1)
    scalars = {r["name"]: r["scalar"]["value"] for r in again["resources"] if "scalar" in r}
    assert scalars["cpus"] == 1.0
    assert scalars["mem"] == 128.0
    (role,) = (await cluster.get("/roles"))["roles"]
    assert role["offered"]["cpus"] == 1.0


async def test_a_guarantee_takes_offers_of_others_back(cluster):
    await cluster.start()
    gantry = await cluster.subscribe()
    offer = await gantry.offer(4)
    assert (await cluster.operator(quota({"role": "other", "guarantees": amounts(cpus=3)})))[0] == 200
    assert (await gantry.next("RESCIND"))["offer_id"] == offer["id"]
    assert {r["name"]: r for r in (await gantry.offer(1))["resources"]}["cpus"]["scalar"]["value"] == 1.0


REFUSED = [
    ({"role": "a/b", "limits": amounts(cpus=1)}, "Updating quota on nested role 'a/b' is not supported yet"),
    ({"limits": amounts(cpus=1)}, "'QuotaConfig.role' must be set"),
    ({"role": "a", "limits": amounts(cpus=-1)}, "Negative values not supported"),
    ({"role": "a", "limits": amounts(cpus=1e13)}, "greater than 1 trillion"),
    ({"role": "a", "guarantees": amounts(cpus=2), "limits": amounts(cpus=1)}, "is not contained within"),
    ({"role": "a", "guarantees": amounts(cpus=200)}, "exceed cluster capacity"),
    ({"role": "gantry", "limits": amounts(cpus=0.1)}, "Role 'gantry' is already consuming"),
]


async def test_what_makes_no_sense_is_refused_in_mesos_words(cluster):
    await cluster.start()
    gantry = await cluster.subscribe()
    await gantry.launch("")
    await gantry.update("TASK_RUNNING")
    for config, text in REFUSED:
        status, said = await cluster.operator(quota(config))
        assert (status, text in said) == (400, True), said
    for config, text in REFUSED[-2:]:
        assert (await cluster.operator(quota(config, force=True)))[0] == 200, text


async def test_the_deprecated_calls(cluster):
    await cluster.start()
    await (await cluster.subscribe()).offer(4)

    def request(role="r", cpus=2, **more):
        guarantee = [{"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}}]
        body = {"quota_request": {"role": role, "guarantee": guarantee, **more}}
        return {"type": "SET_QUOTA", "set_quota": body}

    assert await cluster.operator(request()) == (200, "")
    _, shown = await cluster.operator({"type": "GET_QUOTA"})
    (config,) = shown["get_quota"]["status"]["configs"]
    assert config == {"role": "r", "guarantees": amounts(cpus=2.0), "limits": amounts(cpus=2.0)}
    status, said = await cluster.operator(request())
    assert (status, "which already has quota" in said) == (400, True)
    status, said = await cluster.operator(request("s", cpus=99))
    assert (status, "overcommit the cluster" in said) == (409, True)
    assert (await cluster.operator(request("s", cpus=99, force=True)))[0] == 200
    remove = {"type": "REMOVE_QUOTA", "remove_quota": {"role": "r"}}
    assert (await cluster.operator(remove))[0] == 200
    status, said = await cluster.operator(remove)
    assert (status, said) == (400, "Failed to remove quota: Role 'r' has no quota set")
