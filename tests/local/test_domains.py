"""Fault domains: what is offered of remote regions, and to whom."""

import json

import pytest

REGION_AWARE = [{"type": name} for name in ("MULTI_ROLE", "RESERVATION_REFINEMENT", "REGION_AWARE")]
SIMPLE = [{"type": name} for name in ("MULTI_ROLE", "RESERVATION_REFINEMENT")]


def domain(region, zone):
    return {"fault_domain": {"region": {"name": region}, "zone": {"name": zone}}}


def flag(*names):
    return ("--domain", json.dumps(domain(*names)))


async def test_remote_regions_are_for_those_who_know_regions(cluster):
    await cluster.start(master=flag("eu", "a"), agent=flag("eu", "b"))
    far = cluster.make(
        "agent", "far", "--master", cluster.master.endpoint, "--hostname", "far", *flag("us", "a")
    )
    await far.start()
    simple = await cluster.scheduler().subscribe(name="simple", capabilities=SIMPLE)
    subscribed = await simple.next("SUBSCRIBED")
    assert subscribed["master_info"]["domain"] == domain("eu", "a")
    offer = await simple.offer(4)
    assert offer["domain"] == domain("eu", "b")
    aware = await cluster.subscribe(name="aware", capabilities=REGION_AWARE)
    offer = await aware.offer(4)
    assert (offer["hostname"], offer["domain"]) == ("far", domain("us", "a"))
    assert not simple.offers, "the far one is not for it"
    _, listed = await cluster.operator({"type": "GET_AGENTS"})
    known = {
        one["agent_info"]["hostname"]: one["agent_info"]["domain"] for one in listed["get_agents"]["agents"]
    }
    assert known["far"] == domain("us", "a")


@pytest.mark.parametrize(
    ("master", "agent", "text"),
    [
        ((), flag("eu", "a"), "it has a domain, but this master has none"),
        ((*flag("eu", "a"), "--require_agent_domain"), (), "it has no domain, which this master requires"),
    ],
)
async def test_agents_that_do_not_fit_in_are_ignored(cluster, master, agent, text):
    await cluster.start(master=master, agent=agent)
    await cluster.until(lambda: text in (cluster.master.work_dir / "log").read_text())
    _, listed = await cluster.operator({"type": "GET_AGENTS"})
    assert not listed["get_agents"].get("agents")
    assert cluster.agent.process.returncode is None
