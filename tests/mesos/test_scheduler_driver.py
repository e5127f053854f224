"""The scheduler driver against a scripted master, which says what Mesos 1.12 was recorded saying."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared.mesos.scheduler_driver import NotConnected, SchedulerDriver
from tests.mesos.words import FRAMEWORK, MASTER_INFO, OFFER, OFFERS, STATUS, SUBSCRIBED, UPDATE

Make = Callable[..., SchedulerDriver]


async def test_subscribe_says_what_we_mean(driver: SchedulerDriver, peer: Any) -> None:
    assert peer.subscribes == [{"type": "SUBSCRIBE", "subscribe": {"framework_info": FRAMEWORK}}]
    assert driver.connected
    assert driver.master == peer.address
    assert driver.framework == {**FRAMEWORK, "id": {"value": "F-0002"}}


async def test_registered_gets_id_and_master(make: Make, peer: Any, scheduler: Any) -> None:
    await make().start()
    stream = await peer.stream()
    await stream.send(SUBSCRIBED)
    assert await scheduler.next("registered") == ({"value": "F-0002"}, MASTER_INFO)


async def test_a_framework_with_an_id_is_reregistered(make: Make, peer: Any, scheduler: Any) -> None:
    await make(framework={**FRAMEWORK, "id": {"value": "F-0002"}}, suppressed_roles=["gantry"]).start()
    stream = await peer.stream()
    assert stream.body["framework_id"] == {"value": "F-0002"}
    assert stream.body["subscribe"]["framework_info"]["id"] == {"value": "F-0002"}
    assert stream.body["subscribe"]["suppressed_roles"] == ["gantry"]
    await stream.send(SUBSCRIBED)
    await scheduler.next("reregistered")


async def test_events_split_byte_by_byte_and_joined(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    await peer.now.drip(OFFERS)
    assert await scheduler.next("resourceOffers") == ([OFFER],)
    await peer.now.send(UPDATE, {"type": "HEARTBEAT"}, OFFERS)
    assert await scheduler.next("statusUpdate") == (STATUS,)
    assert await scheduler.next("resourceOffers") == ([OFFER],)


async def test_every_event_has_its_callback(driver: SchedulerDriver, peer: Any, scheduler: Any) -> None:
    agent, executor = {"value": "S0"}, {"value": "gantry.1"}
    await peer.now.send(
        {"type": "RESCIND", "rescind": {"offer_id": {"value": "O5"}}},
        {"type": "INVERSE_OFFERS", "inverse_offers": {"inverse_offers": [{"id": {"value": "O9"}}]}},
        {"type": "RESCIND_INVERSE_OFFER", "rescind_inverse_offer": {"inverse_offer_id": {"value": "O9"}}},
        {"type": "MESSAGE", "message": {"agent_id": agent, "executor_id": executor, "data": "cGluZw=="}},
        {"type": "FAILURE", "failure": {"agent_id": agent, "executor_id": executor, "status": 1792}},
        {"type": "FAILURE", "failure": {"agent_id": agent, "executor_id": executor}},
        {"type": "FAILURE", "failure": {"agent_id": agent}},
        {"type": "SOMETHING_NEW", "something_new": {}},
        OFFERS,
    )
    assert await scheduler.next("offerRescinded") == ({"value": "O5"},)
    assert await scheduler.next("inverseOffers") == ([{"id": {"value": "O9"}}],)
    assert await scheduler.next("inverseOfferRescinded") == ({"value": "O9"},)
    assert await scheduler.next("frameworkMessage") == (executor, agent, "cGluZw==")
    assert await scheduler.next("executorLost") == (executor, agent, 1792)
    assert await scheduler.next("executorLost") == (executor, agent, None)
    assert await scheduler.next("slaveLost") == (agent,)
    await scheduler.next("resourceOffers")


async def test_calls_keep_their_order_on_one_connection(driver: SchedulerDriver, peer: Any) -> None:
    launch = {"type": "LAUNCH", "launch": {"task_infos": [{"name": "web-0"}]}}
    policy = {"grace_period": {"nanoseconds": 5}}
    driver.acceptOffers(["O5", {"value": "O6"}], [launch], filters={"refuse_seconds": 0})
    driver.declineOffer("O7", filters={"refuse_seconds": 3600})
    driver.acceptOffers("O8", [])
    driver.killTask("t.1", agent_id="S0", kill_policy=policy)
    driver.acknowledgeStatusUpdate(STATUS)
    driver.acknowledgeStatusUpdate({k: v for k, v in STATUS.items() if k != "uuid"})  # a reconciliation's
    driver.reconcileTasks([{"task_id": "t.1", "agent_id": "S0"}, {"task_id": {"value": "t.2"}}])
    driver.reconcileTasks([])
    driver.suppressOffers()
    driver.reviveOffers(["gantry"])
    driver.sendFrameworkMessage("gantry.1", "S0", "cGluZw==")
    driver.shutdownExecutor("gantry.1", "S0")
    calls = [await peer.call() for _ in range(11)]
    assert all(call.pop("framework_id") == {"value": "F-0002"} for call in calls)
    filters = {"refuse_seconds": 0}
    acknowledge = {key: STATUS[key] for key in ("agent_id", "task_id", "uuid")}
    asked = [{"task_id": {"value": "t.1"}, "agent_id": {"value": "S0"}}, {"task_id": {"value": "t.2"}}]
    message = {"agent_id": {"value": "S0"}, "executor_id": {"value": "gantry.1"}, "data": "cGluZw=="}
    kill = {"task_id": {"value": "t.1"}, "agent_id": {"value": "S0"}, "kill_policy": policy}
    offer_ids = [{"value": "O5"}, {"value": "O6"}]
    assert calls == [
        {"type": "ACCEPT", "accept": {"offer_ids": offer_ids, "operations": [launch], "filters": filters}},
        {"type": "DECLINE", "decline": {"offer_ids": [{"value": "O7"}], "filters": {"refuse_seconds": 3600}}},
        {"type": "DECLINE", "decline": {"offer_ids": [{"value": "O8"}]}},
        {"type": "KILL", "kill": kill},
        {"type": "ACKNOWLEDGE", "acknowledge": acknowledge},
        {"type": "RECONCILE", "reconcile": {"tasks": asked}},
        {"type": "RECONCILE", "reconcile": {"tasks": []}},
        {"type": "SUPPRESS"},
        {"type": "REVIVE", "revive": {"roles": ["gantry"]}},
        {"type": "MESSAGE", "message": message},
        {"type": "SHUTDOWN", "shutdown": {key: message[key] for key in ("agent_id", "executor_id")}},
    ]
    assert len(peer.call_connections) == 1
    assert "Mesos-Stream-Id" not in peer.headers[0]
    assert all(headers["Mesos-Stream-Id"] == "stream" for headers in peer.headers[1:])


async def test_calls_do_not_wait_for_answers(driver: SchedulerDriver, peer: Any, scheduler: Any) -> None:
    """While one call is unanswered, events come in and further calls can be made."""
    peer.hold = asyncio.Event()
    scheduler.then["resourceOffers"] = lambda one, offers: one.declineOffer([offer["id"] for offer in offers])
    driver.reviveOffers()
    assert (await peer.call())["type"] == "REVIVE"
    await peer.now.send(OFFERS)
    await scheduler.next("resourceOffers")
    driver.reconcileTasks([])
    peer.hold.set()
    assert [(await peer.call())["type"] for _ in range(2)] == ["DECLINE", "RECONCILE"]


async def test_calls_from_within_registered(make: Make, peer: Any, scheduler: Any) -> None:
    scheduler.then["registered"] = lambda one, *_: one.reconcileTasks([])
    await make().start()
    await (await peer.stream()).send(SUBSCRIBED)
    assert (await peer.call())["type"] == "RECONCILE"


async def test_calls_while_not_connected_fail_loudly(make: Make, peer: Any) -> None:
    one = make()
    for call in (
        lambda: one.acceptOffers("O1", [{"type": "LAUNCH"}]),
        lambda: one.declineOffer("O1"),
        lambda: one.launchTasks("O1", [{}]),
        lambda: one.killTask("t"),
        lambda: one.reconcileTasks([]),
        lambda: one.reviveOffers(),
        lambda: one.suppressOffers(),
        lambda: one.acknowledgeStatusUpdate(STATUS),
        lambda: one.sendFrameworkMessage("e", "a", ""),
        lambda: one.shutdownExecutor("e", "a"),
    ):
        with pytest.raises(NotConnected):
            call()
    await one.start()
    stream = await peer.stream()  # SUBSCRIBE was answered with 200: that is not yet registered
    with pytest.raises(NotConnected):
        one.reviveOffers()
    assert not one.connected
    stream.end()
    assert peer.calls.empty()


async def test_a_role_that_is_not_ours_is_refused_here(driver: SchedulerDriver) -> None:
    with pytest.raises(ValueError, match="not a role of this framework: spark"):
        driver.reviveOffers(["gantry", "spark"])
