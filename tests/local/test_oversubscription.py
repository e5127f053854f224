"""Revocable resources of agents: who is offered them, what is taken back when they change, who is ended."""

import pytest

from local.agent.estimator import Estimator

REVOCABLE = [*(("MULTI_ROLE"), "PARTITION_AWARE", "RESERVATION_REFINEMENT", "REVOCABLE_RESOURCES")]


def capabilities(*names):
    return [{"type": name} for name in names]


def revocable(offer):
    return {r["name"]: r["scalar"]["value"] for r in offer["resources"] if "revocable" in r}


def spare(cpus=0.1, mem=32):
    amounts = {"cpus": cpus, "mem": mem}
    return [
        {"name": name, "type": "SCALAR", "scalar": {"value": value}, "revocable": {}}
        for name, value in amounts.items()
    ]


async def test_only_those_who_know_them_are_offered_revocable_resources(cluster):
    await cluster.start(agent=("--resource_estimator", "cpus:2;mem:1024"))
    plain = await cluster.subscribe()
    assert revocable(await plain.offer(4)) == {}
    keen = await cluster.subscribe(name="keen", capabilities=capabilities(*REVOCABLE))
    offer = await keen.offer(2)
    assert revocable(offer) == {"cpus": 2.0, "mem": 1024.0}
    assert all("revocable" in one for one in offer["resources"]), "the rest is the other's"
    _, listed = await cluster.operator({"type": "GET_AGENTS"})
    (agent,) = listed["get_agents"]["agents"]
    assert {
        "name": "cpus",
        "type": "SCALAR",
        "scalar": {"value": 2.0},
        "revocable": {},
        "role": "*",
    } in agent["total_resources"]


async def test_a_change_takes_offers_back_and_the_rest_is_offered(cluster):
    file = cluster.tmp_path / "estimate"
    file.write_text("cpus:2;mem:1024")
    interval = ("--oversubscribed_resources_interval", "50ms")
    await cluster.start(agent=("--resource_estimator", f"file://{file}", *interval))
    keen = await cluster.subscribe(capabilities=capabilities(*REVOCABLE))
    offer = await keen.offer(2)
    while not revocable(offer):
        offer = await keen.offer(2)
    file.write_text("cpus:1;mem:512")
    assert (await keen.next("RESCIND"))["offer_id"] == offer["id"]
    offer = await keen.offer(1)
    while not revocable(offer):
        offer = await keen.offer(1)
    assert revocable(offer) == {"cpus": 1.0, "mem": 512.0}
    await cluster.master.kill()
    await cluster.master.start()
    again = await cluster.subscribe(capabilities=capabilities(*REVOCABLE), name="again")
    offer = await again.offer(1)
    while not revocable(offer):
        offer = await again.offer(1)
    assert revocable(offer) == {"cpus": 1.0, "mem": 512.0}, "the agent told the new master"


@pytest.mark.parametrize("controller", ["noop", "estimate"])
async def test_who_holds_more_than_there_is(cluster, controller):
    """Nobody is ended by Mesos itself; a controller ends the latest executors, and says that they were preempted."""
    file = cluster.tmp_path / "estimate"
    file.write_text("cpus:2;mem:1024")
    flags = ("--oversubscribed_resources_interval", "50ms", "--qos_controller", controller)
    await cluster.start(agent=("--resource_estimator", f"file://{file}", *flags))
    keen = await cluster.subscribe(capabilities=capabilities(*REVOCABLE))
    offer = await keen.offer(2)
    while not revocable(offer):
        offer = await keen.offer(2)
    tasks = [
        keen.task(offer, "", f"gantry.rev.{number}", resources=spare(0.5), executor={"resources": spare()})
        for number in (1, 2)
    ]
    await keen.accept(offer, *tasks)
    for _ in tasks:
        await keen.update("TASK_RUNNING")
    file.write_text("cpus:0.6;mem:64")
    if controller == "noop":

        async def shrunk():
            _, listed = await cluster.operator({"type": "GET_AGENTS"})
            (agent,) = listed["get_agents"]["agents"]
            return revocable({"resources": agent["total_resources"]}) == {"cpus": 1.2, "mem": 128.0}

        await cluster.until_async(shrunk)  # to what is used
        states = [e["update"]["status"]["state"] for e in keen.events if e["type"] == "UPDATE"]
        assert set(states) <= {"TASK_STARTING", "TASK_RUNNING"}
        return
    gone = await keen.update("TASK_GONE")
    assert gone["reason"] == "REASON_CONTAINER_PREEMPTED"
    assert gone["message"].startswith("Container preempted by QoS correction")
    assert gone["task_id"] == tasks[1]["task_id"]


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path):
    file = tmp_path / "estimate"
    file.write_text("cpus:1")
    estimator = Estimator(f"file://{file}")
    before = estimator.total()
    assert str(before) == "cpus{REV}:1"
    file.write_text("nonsense")
    assert estimator.total() == before
    file.unlink()
    assert estimator.total() == before
    file.write_text("")
    assert not estimator.total()
