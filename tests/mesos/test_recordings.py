"""The drivers on what a real Mesos said, and their calls beside those it accepted."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.mesos.executor_driver import ExecutorDriver
from shared.mesos.resources import Resources
from shared.mesos.scheduler_driver import SchedulerDriver

RECORDINGS = Path(__file__).parent / "recordings"
CALLBACKS = {
    "SUBSCRIBED": "reregistered",
    "OFFERS": "resourceOffers",
    "INVERSE_OFFERS": "inverseOffers",
    "RESCIND": "offerRescinded",
    "UPDATE": "statusUpdate",
    "MESSAGE": "frameworkMessage",
    "FAILURE": "executorLost",
    "ERROR": "error",
}


# The subscription itself, what the driver does not offer, and what was sent only to see it refused.
NOT_OURS = {"SUBSCRIBE", "TEARDOWN", "UPDATE_FRAMEWORK", "DANCE"}


def _wrong_on_purpose(call: dict[str, Any]) -> bool:
    """`role` for `roles`, which means all roles to a master; a role of nobody's, which it ignores silently."""
    body = call.get(call["type"].lower(), {})
    return call["type"] in ("REVIVE", "SUPPRESS") and ("role" in body or "nobody" in body.get("roles", ()))


def recording(name: str, what: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines())
    return [line[what] for line in lines if what in line]


def repeat(driver: SchedulerDriver, call: dict[str, Any]) -> None:
    """Make the recorded call through the driver."""
    kind = call["type"]
    body = call.get(kind.lower(), {})
    match kind:
        case "ACCEPT":
            driver.acceptOffers(body["offer_ids"], body["operations"], body.get("filters"))
        case "DECLINE":
            driver.declineOffer(body["offer_ids"], body.get("filters"))
        case "KILL":
            driver.killTask(body["task_id"], body.get("agent_id"), body.get("kill_policy"))
        case "RECONCILE":
            driver.reconcileTasks(body["tasks"])
        case "REVIVE":
            driver.reviveOffers(body.get("roles", ()))
        case "SUPPRESS":
            driver.suppressOffers(body.get("roles", ()))
        case "ACKNOWLEDGE":
            driver.acknowledgeStatusUpdate(body)
        case "MESSAGE":
            driver.sendFrameworkMessage(body["executor_id"], body["agent_id"], body["data"])
        case "ACCEPT_INVERSE_OFFERS":
            driver.acceptInverseOffers(body["inverse_offer_ids"], body.get("filters"))
        case "DECLINE_INVERSE_OFFERS":
            driver.declineInverseOffer(body["inverse_offer_ids"], body.get("filters"))
        case _:
            pytest.fail(f"no way to make a {kind}")


@pytest.mark.parametrize("name", ["scheduler", "scheduler-2"])
async def test_a_schedulers_day(peer: Any, scheduler: Any, name: str) -> None:
    events = recording(name, "event")
    calls = recording(name, "call")
    calls = [call for call in calls if call["type"] not in NOT_OURS and not _wrong_on_purpose(call)]
    (subscribe,) = (call for call in recording(name, "call") if call["type"] == "SUBSCRIBE")
    framework = subscribe["subscribe"]["framework_info"]
    framework["id"] = next(e for e in events if e["type"] == "SUBSCRIBED")["subscribed"]["framework_id"]
    driver = SchedulerDriver(scheduler, framework, peer.address)
    await driver.start()
    try:
        stream = await peer.stream()
        assert stream.body["subscribe"]["framework_info"] == framework
        await stream.send(events[0])
        await scheduler.next("reregistered")
        for call in calls:
            repeat(driver, call)
        said = [await peer.call() for _ in calls]
        assert said == [{**call, "framework_id": framework["id"]} for call in calls]
        await stream.send(*events[1:])
        for event in events[1:]:
            if event["type"] == "FAILURE" and "executor_id" not in event["failure"]:
                await scheduler.next("slaveLost")
            elif event["type"] != "HEARTBEAT":
                await scheduler.next(CALLBACKS[event["type"]])
    finally:
        await driver.stop()
    assert scheduler.nothing()


@pytest.mark.parametrize("name", ["scheduler", "scheduler-2"])
def test_every_offer_and_task_survives_resources(name: str) -> None:
    offers = [
        offer
        for event in recording(name, "event")
        if event["type"] == "OFFERS"
        for offer in event["offers"]["offers"]
    ]
    assert len(offers) > 5
    for offer in offers:
        bag = Resources.from_json(offer["resources"])
        assert Resources.from_json(bag.to_json()) == bag
        given = {json.dumps(item, sort_keys=True) for item in offer["resources"]}
        assert {json.dumps(item, sort_keys=True) for item in bag.to_json()} == given
        assert bag - bag == Resources()


@pytest.mark.parametrize("name", ["executor", "executor-2"])
async def test_an_executors_day(peer: Any, executor: Any, name: str) -> None:
    events = recording(name, "event")
    calls = recording(name, "call")
    subscribed = next(e for e in events if e["type"] == "SUBSCRIBED")["subscribed"]
    environ = {
        "MESOS_AGENT_ENDPOINT": peer.address,
        "MESOS_FRAMEWORK_ID": subscribed["framework_info"]["id"]["value"],
        "MESOS_EXECUTOR_ID": subscribed["executor_info"]["executor_id"]["value"],
        "MESOS_CHECKPOINT": "1",
    }
    driver = ExecutorDriver(executor, environ)
    await driver.start()
    try:
        stream = await peer.stream()
        assert stream.body == calls[0]
        updates = [
            call["update"]["status"]
            for call in calls
            if call["type"] == "UPDATE" and call["executor_id"] == driver.executor_id
        ]
        for status in updates:
            driver.sendStatusUpdate(status)
        await stream.send({"type": "SUBSCRIBED", "subscribed": subscribed})
        await executor.next("registered")
        said = [await peer.call() for _ in updates]
        assert [call["update"]["status"] for call in said] == updates
        rest = [event for event in events if event["type"] not in ("SUBSCRIBED", "SHUTDOWN")]
        await stream.send(*rest, {"type": "SHUTDOWN"})
        names = {"LAUNCH": "launchTask", "KILL": "killTask", "MESSAGE": "frameworkMessage"}
        for event in rest:
            if event["type"] != "ACKNOWLEDGED":
                await executor.next(names[event["type"]])
        await executor.next("shutdown")
        acknowledged = {event["acknowledged"]["uuid"] for event in rest if event["type"] == "ACKNOWLEDGED"}
        assert set(driver.updates) == {status["uuid"] for status in updates} - acknowledged
    finally:
        await driver.stop(timeout=0.05)
