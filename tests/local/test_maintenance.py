"""Maintenance, inverse offers, drains: as recorded from a real master, and as operators may get it wrong."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]
RECORDING = Path(__file__).parent / "wire" / "scheduler-2.jsonl"
IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(\.\d+|-[SO]?\d+)?")
MASKED = frozenset(("timestamp", "uuid", "executor_pid", "port", "nanoseconds", "executor_id"))


def recorded(kind: str, text: str = "") -> list[Json]:
    """Bodies of the recorded events of a kind that have a text in them."""
    lines = [line for line in RECORDING.read_text().splitlines() if text in line]
    events = [json.loads(line) for line in lines]
    return [one["body"][kind.lower()] for one in events if one.get("body", {}).get("type") == kind]


def masked(value: Any, key: str = "") -> Any:
    if key in MASKED:
        return "*"
    if isinstance(value, dict):
        return {k: masked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(one) for one in value]
    return IDS.sub("*", value) if isinstance(value, str) else value


def windows(*hosts: str, start: float = 600.0, lasts: float = 600.0) -> list[Json]:
    machines = [{"hostname": host, "ip": "127.0.0.1"} for host in hosts or ("127.0.0.1",)]
    begin, length = int((time.time() + start) * 1e9), int(lasts * 1e9)
    unavailability = {"start": {"nanoseconds": begin}, "duration": {"nanoseconds": length}}
    return [{"machine_ids": machines, "unavailability": unavailability}]


async def schedule(cluster: Any, planned: list[Json]) -> tuple[int, Any]:
    body = {"schedule": {"windows": planned}}
    return await cluster.operator(
        {"type": "UPDATE_MAINTENANCE_SCHEDULE", "update_maintenance_schedule": body}
    )


async def operate(cluster: Any, kind: str, **body: Any) -> tuple[int, Any]:
    return await cluster.operator({"type": kind, kind.lower(): body})


@pytest.fixture
async def busy(cluster):
    """A task runs, an offer is out."""
    await cluster.start()
    scheduler = await cluster.subscribe()
    cluster.task = await scheduler.launch(
        "hang", kill_policy={"grace_period": {"nanoseconds": 30_000_000_000}}
    )
    await scheduler.update("TASK_RUNNING")
    scheduler.offers.append(await scheduler.offer())
    cluster.one = scheduler
    return cluster


# ---- as recorded


async def test_inverse_offers_are_the_recorded_ones(busy):
    scheduler, planned = busy.one, windows()
    (out,) = scheduler.offers
    assert await schedule(busy, planned) == (200, "")
    assert await scheduler.next("RESCIND") == {"offer_id": out["id"]}
    offers = (await scheduler.next("OFFERS"))["offers"]
    assert [one["unavailability"] for one in offers] == [planned[0]["unavailability"]]
    asked = await scheduler.next("INVERSE_OFFERS")
    assert masked(asked) == masked(recorded("INVERSE_OFFERS")[0])
    assert asked["inverse_offers"][0]["unavailability"] == planned[0]["unavailability"]
    status, reply = await busy.operator({"type": "GET_MAINTENANCE_SCHEDULE"})
    assert (status, reply["get_maintenance_schedule"]) == (200, {"schedule": {"windows": planned}})


async def test_a_declined_one_comes_again_and_an_accepted_one_does_not(busy):
    scheduler = busy.one
    await schedule(busy, windows())
    (first,) = (await scheduler.next("INVERSE_OFFERS"))["inverse_offers"]
    answer = {"inverse_offer_ids": [first["id"]], "filters": {"refuse_seconds": 0.3}}
    assert await scheduler.call("DECLINE_INVERSE_OFFERS", answer) == (202, "")
    (second,) = (await scheduler.next("INVERSE_OFFERS"))["inverse_offers"]
    assert second["id"] != first["id"]
    answer = {"inverse_offer_ids": [second["id"]], "filters": {"refuse_seconds": 60}}
    assert await scheduler.call("ACCEPT_INVERSE_OFFERS", answer) == (202, "")
    _, reply = await busy.operator({"type": "GET_MAINTENANCE_STATUS"})
    (machine,) = reply["get_maintenance_status"]["status"]["draining_machines"]
    assert machine["id"] == {"hostname": "127.0.0.1", "ip": "127.0.0.1"}
    assert [one["status"] for one in machine["statuses"]] == ["ACCEPT"]
    await scheduler.call("REVIVE", {})  # also ends the filters of inverse offers
    await scheduler.next("INVERSE_OFFERS")


async def test_a_cancelled_window_takes_everything_back(busy):
    scheduler = busy.one
    await schedule(busy, windows())
    asked = (await scheduler.next("INVERSE_OFFERS"))["inverse_offers"][0]
    await schedule(busy, [])
    assert await scheduler.next("RESCIND_INVERSE_OFFER") == {"inverse_offer_id": asked["id"]}
    await scheduler.next("RESCIND")
    (offer,) = (await scheduler.next("OFFERS"))["offers"]
    assert "unavailability" not in offer


async def test_a_drain_is_the_recorded_one(busy):
    scheduler, agent_id = busy.one, busy.task["agent_id"]
    (out,) = scheduler.offers
    call = {"agent_id": agent_id, "max_grace_period": {"seconds": 5}, "mark_gone": False}
    assert await operate(busy, "DRAIN_AGENT", **call) == (200, "")
    assert await scheduler.next("RESCIND") == {"offer_id": out["id"]}
    killed = await scheduler.update("TASK_KILLED")
    (theirs,) = recorded("UPDATE", "TASK_KILLED")
    assert masked(killed) == masked(theirs["status"])
    kill = await busy.seen(lambda line: line.get("body", {}).get("type") == "KILL")
    assert kill["body"]["kill"]["kill_policy"] == {"grace_period": {"nanoseconds": 5_000_000_000}}

    async def drained() -> bool:
        _, reply = await busy.operator({"type": "GET_AGENTS"})
        (agent,) = reply["get_agents"]["agents"]
        assert (agent["active"], agent["deactivated"]) == (False, True)
        return bool(agent["drain_info"]["state"] == "DRAINED")

    await busy.until_async(drained)


async def test_after_a_reactivation_the_agent_still_drops_launches(busy):
    scheduler, agent_id = busy.one, busy.task["agent_id"]
    await operate(busy, "DRAIN_AGENT", agent_id=agent_id)
    await scheduler.update("TASK_KILLED")

    async def reactivated() -> bool:
        return (await operate(busy, "REACTIVATE_AGENT", agent_id=agent_id))[0] == 200

    await busy.until_async(reactivated)
    scheduler.offers.clear()
    await scheduler.launch("hang", "gantry.gone.1")
    failure = await scheduler.next("FAILURE")
    assert masked(failure) == masked(recorded("FAILURE", "gantry.gone.1")[0])
    dropped = await scheduler.update("TASK_DROPPED")
    assert masked(dropped) == masked(recorded("UPDATE", "already draining")[0]["status"])


async def test_a_drain_that_marks_gone_says_so_of_its_tasks(busy):
    scheduler, agent_id = busy.one, busy.task["agent_id"]
    await operate(busy, "DRAIN_AGENT", agent_id=agent_id, mark_gone=True)
    gone = await scheduler.update("TASK_GONE_BY_OPERATOR")
    assert (gone["reason"], gone["source"]) == ("REASON_AGENT_DRAINING", "SOURCE_EXECUTOR")
    assert await scheduler.next("FAILURE", lambda body: "executor_id" not in body) == {"agent_id": agent_id}
    assert await busy.agent.process.wait() == 0


# ---- what outlives whom


async def test_a_restarted_master_remembers(busy):
    planned = windows()
    await schedule(busy, planned)
    await operate(busy, "DEACTIVATE_AGENT", agent_id=busy.task["agent_id"])
    await busy.master.kill()
    await busy.master.start()

    async def back() -> bool:
        _, reply = await busy.operator({"type": "GET_AGENTS"})
        return [one["deactivated"] for one in reply["get_agents"].get("agents", [])] == [True]

    await busy.until_async(back)
    _, reply = await busy.operator({"type": "GET_MAINTENANCE_SCHEDULE"})
    assert reply["get_maintenance_schedule"]["schedule"]["windows"] == planned


async def test_a_deactivated_agent_keeps_its_tasks_and_offers_nothing(busy):
    scheduler, agent_id = busy.one, busy.task["agent_id"]
    assert (await operate(busy, "DEACTIVATE_AGENT", agent_id=agent_id))[0] == 200
    await scheduler.next("RESCIND")
    await scheduler.call("RECONCILE", {"tasks": [{"task_id": busy.task["task_id"]}]})
    await scheduler.update("TASK_RUNNING")
    await scheduler.call("REVIVE", {})
    assert (await operate(busy, "REACTIVATE_AGENT", agent_id=agent_id))[0] == 200
    await scheduler.offer()


async def test_a_machine_goes_down_and_comes_up(busy):
    machines = [{"hostname": "127.0.0.1", "ip": "127.0.0.1"}]
    await schedule(busy, windows())
    assert await operate(busy, "START_MAINTENANCE", machines=machines) == (200, "")
    assert (await busy.one.update("TASK_LOST"))["reason"] == "REASON_AGENT_REMOVED"
    assert await busy.agent.process.wait() == 0
    status, text = await schedule(busy, [])
    assert (status, text) == (
        400,
        "Machine '127.0.0.1 127.0.0.1' is deactivated and cannot be removed from the schedule",
    )
    await busy.agent.start()
    assert await busy.agent.process.wait() == 0, "no agent may register there"
    assert await operate(busy, "STOP_MAINTENANCE", machines=machines) == (200, "")
    await busy.agent.start()
    await busy.one.offer()


# ---- refusals


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (
            "START_MAINTENANCE",
            {"machines": [{"hostname": "x"}]},
            "Machine 'x' is not part of a maintenance schedule",
        ),
        (
            "STOP_MAINTENANCE",
            {"machines": [{"hostname": "x"}]},
            "Machine 'x' is not in DOWN mode and cannot be brought up",
        ),
        ("DRAIN_AGENT", {"agent_id": {"value": "S9"}}, "Agent S9 is not registered"),
        ("DEACTIVATE_AGENT", {"agent_id": {"value": "S9"}}, "Agent S9 is not registered"),
        ("REACTIVATE_AGENT", {"agent_id": {"value": "S9"}}, "Agent S9 is not deactivated"),
        (
            "UPDATE_MAINTENANCE_SCHEDULE",
            {"schedule": {"windows": windows("a", "A")}},
            "Machine 'a 127.0.0.1' appears more than once in the schedule",
        ),
        (
            "UPDATE_MAINTENANCE_SCHEDULE",
            {"schedule": {"windows": [{"machine_ids": []}]}},
            "List of machines in the maintenance window is empty",
        ),
        (
            "UPDATE_MAINTENANCE_SCHEDULE",
            {"schedule": {"windows": windows(lasts=-1.0)}},
            "Unavailability 'duration' is negative",
        ),
    ],
)
async def test_refusals(cluster, kind, body, text):
    await cluster.master.start()
    assert await operate(cluster, kind, **body) == (400, text)
