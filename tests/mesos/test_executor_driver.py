"""The executor driver against a scripted agent, which says what Mesos 1.12 was recorded saying."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from shared.mesos.executor_driver import ExecutorDriver, NotConnected
from tests.mesos.words import AGENT_INFO, EXECUTOR_INFO, EXECUTOR_SUBSCRIBED, FRAMEWORK_INFO

TASK = {"name": "web-0", "task_id": {"value": "t.1"}, "agent_id": {"value": "S0"}, "data": "c2xlZXAgMg=="}
LAUNCH = {"type": "LAUNCH", "launch": {"task": TASK}}

Make = Callable[..., ExecutorDriver]


@pytest.fixture
async def driver(make_executor: Make, peer: Any, executor: Any) -> ExecutorDriver:
    """Registered with `peer`, whose stream is `peer.now`, and with one task."""
    one = make_executor()
    await one.start()
    peer.now = await peer.stream()
    await peer.now.send(EXECUTOR_SUBSCRIBED, LAUNCH)
    await executor.next("registered")
    await executor.next("launchTask")
    return one


def acknowledged(update: dict[str, Any]) -> dict[str, Any]:
    status = update["status"]
    return {"type": "ACKNOWLEDGED", "acknowledged": {"task_id": status["task_id"], "uuid": status["uuid"]}}


async def test_registration_and_launch(make_executor: Make, peer: Any, executor: Any) -> None:
    await make_executor().start()
    stream = await peer.stream()
    assert stream.body == {
        "type": "SUBSCRIBE",
        "framework_id": {"value": "F-0002"},
        "executor_id": {"value": "gantry.1"},
        "subscribe": {"unacknowledged_tasks": [], "unacknowledged_updates": []},
    }
    await stream.drip(EXECUTOR_SUBSCRIBED)
    assert await executor.next("registered") == (EXECUTOR_INFO, FRAMEWORK_INFO, AGENT_INFO)
    policy = {"grace_period": {"nanoseconds": 5000000000}}
    await stream.send(
        LAUNCH,
        LAUNCH,  # the same task again: dropped
        {"type": "MESSAGE", "message": {"data": "cGluZw=="}},
        {"type": "HEARTBEAT"},
        {"type": "KILL", "kill": {"task_id": {"value": "t.1"}, "kill_policy": policy}},
        {"type": "KILL", "kill": {"task_id": {"value": "t.1"}}},
        {
            "type": "LAUNCH_GROUP",
            "launch_group": {"task_group": {"tasks": [{**TASK, "task_id": {"value": "t.2"}}]}},
        },
        {"type": "SHUTDOWN"},
        {"type": "SHUTDOWN"},
    )
    assert await executor.next("launchTask") == (TASK,)
    assert await executor.next("frameworkMessage") == ("cGluZw==",)
    assert await executor.next("killTask") == ({"value": "t.1"}, policy)
    assert await executor.next("killTask") == ({"value": "t.1"}, None)
    assert await executor.next("launchTaskGroup") == ([{**TASK, "task_id": {"value": "t.2"}}],)
    assert await executor.next("shutdown") == ()
    stream.cut()
    await executor.next("disconnected")  # and not a second shutdown


async def test_an_update_is_filled_in(driver: ExecutorDriver, peer: Any) -> None:
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_STARTING"})
    driver.sendStatusUpdate(
        {"task_id": {"value": "t.1"}, "state": "TASK_RUNNING", "healthy": True, "data": "e30="}
    )
    driver.sendFrameworkMessage("cGluZw==")
    first, second, message = [await peer.call() for _ in range(3)]
    status = first["update"]["status"]
    assert first["type"] == "UPDATE"
    assert first["framework_id"] == {"value": "F-0002"}
    assert status["source"] == "SOURCE_EXECUTOR"
    assert status["agent_id"] == {"value": "S0"}
    assert status["executor_id"] == first["executor_id"] == {"value": "gantry.1"}
    assert status["task_id"] == {"value": "t.1"}
    assert status["timestamp"] > 0
    assert len(status["uuid"]) == 24
    assert second["update"]["status"]["uuid"] != status["uuid"]
    assert second["update"]["status"]["healthy"] is True
    assert message["message"] == {"data": "cGluZw=="}
    assert len(peer.call_connections) == 1


async def test_what_is_not_acknowledged_comes_with_the_next_subscribe(
    driver: ExecutorDriver, peer: Any, executor: Any
) -> None:
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_STARTING"})
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    starting, running = [(await peer.call())["update"] for _ in range(2)]
    await peer.now.send(acknowledged(starting))
    await peer.now.send({"type": "MESSAGE", "message": {"data": ""}})
    await executor.next("frameworkMessage")
    peer.now.cut()
    await executor.next("disconnected")
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_FINISHED"})  # while the agent is away
    stream = await peer.stream()
    body = stream.body["subscribe"]
    assert body["unacknowledged_tasks"] == [TASK]  # an acknowledged STARTING does not make the task known
    states = [update["status"]["state"] for update in body["unacknowledged_updates"]]
    if states == ["TASK_RUNNING"]:  # FINISHED came after SUBSCRIBE had left: it follows
        await stream.send(EXECUTOR_SUBSCRIBED)
        finished = (await peer.call())["update"]
    else:
        assert states == ["TASK_RUNNING", "TASK_FINISHED"]
        await stream.send(EXECUTOR_SUBSCRIBED)
        finished = body["unacknowledged_updates"][1]
    assert body["unacknowledged_updates"][0] == running
    await executor.next("reregistered")
    await stream.send(acknowledged(running), acknowledged(finished))
    await asyncio.wait_for(driver._all_acknowledged.wait(), 60)
    stream.cut()
    assert (await peer.stream()).body["subscribe"] == {
        "unacknowledged_tasks": [],
        "unacknowledged_updates": [],
    }


async def test_updates_between_subscribe_and_subscribed_follow_in_order(
    make_executor: Make, peer: Any
) -> None:
    one = make_executor()
    await one.start()
    stream = await peer.stream()
    one.sendStatusUpdate({"task_id": "t.1", "state": "TASK_STARTING"})
    one.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    with pytest.raises(NotConnected):
        one.sendFrameworkMessage("")
    await stream.send(EXECUTOR_SUBSCRIBED)
    states = [(await peer.call())["update"]["status"]["state"] for _ in range(2)]
    assert states == ["TASK_STARTING", "TASK_RUNNING"]
    assert stream.body["subscribe"]["unacknowledged_updates"] == []


async def test_an_agent_restart_with_503_first(driver: ExecutorDriver, peer: Any, executor: Any) -> None:
    async def recovering(_: web.Request) -> web.Response:
        return web.Response(status=503, text="Agent has not finished recovery")

    peer.answers.extend([recovering] * 3)
    peer.now.cut()
    await executor.next("disconnected")
    stream = await peer.stream()
    assert stream.body["subscribe"]["unacknowledged_tasks"] == [TASK]
    await stream.send(EXECUTOR_SUBSCRIBED)
    assert await executor.next("reregistered") == (AGENT_INFO,)
    assert len(peer.subscribes) == 5


async def test_an_agent_that_is_down_is_waited_for(driver: ExecutorDriver, peer: Any, executor: Any) -> None:
    await peer.close()
    await executor.next("disconnected")
    await peer.listen(peer.port)
    await (await peer.stream()).send(EXECUTOR_SUBSCRIBED)
    await executor.next("reregistered")


async def test_an_agent_that_stays_away_means_shutdown(make_executor: Make, peer: Any, executor: Any) -> None:
    one = make_executor(MESOS_RECOVERY_TIMEOUT="50ms")
    await one.start()
    stream = await peer.stream()
    await stream.send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    await peer.close()
    await executor.next("disconnected")
    await executor.next("shutdown")
    assert await asyncio.wait_for(one.join(), 60) is None


async def test_without_checkpointing_a_disconnection_is_shutdown(
    make_executor: Make, peer: Any, executor: Any
) -> None:
    one = make_executor(MESOS_CHECKPOINT="0")
    await one.start()
    stream = await peer.stream()
    await stream.send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    stream.end()
    await executor.next("disconnected")
    await executor.next("shutdown")
    await asyncio.wait_for(one.join(), 60)
    assert len(peer.subscribes) == 1


async def test_an_unknown_executor_is_an_error(make_executor: Make, peer: Any, executor: Any) -> None:
    async def unknown(_: web.Request) -> web.Response:
        return web.Response(status=400, text="Executor cannot be found")

    peer.answers.append(unknown)
    one = make_executor()
    await one.start()
    (message,) = await executor.next("error")
    assert message == "the agent refused the subscription: HTTP 400: Executor cannot be found"
    assert await asyncio.wait_for(one.join(), 60) == message


async def test_a_token_that_is_not_accepted_is_tried_again(
    make_executor: Make, peer: Any, executor: Any
) -> None:
    """The agent may have restarted with a wrong key, and will again with the right one: no pod should notice."""

    async def unauthorized(_: web.Request) -> web.Response:
        return web.Response(status=401)

    peer.answers.extend([unauthorized] * 2)
    one = make_executor(MESOS_EXECUTOR_AUTHENTICATION_TOKEN="jwt-secret")
    await one.start()
    stream = await peer.stream()
    assert one.trouble == f"cannot subscribe to the agent at {peer.address}: HTTP 401"
    await stream.send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    assert one.trouble is None


async def test_the_token_is_taken_out_of_the_environment(peer: Any, executor: Any) -> None:
    environ = {
        "MESOS_AGENT_ENDPOINT": peer.address,
        "MESOS_FRAMEWORK_ID": "F",
        "MESOS_EXECUTOR_ID": "E",
        "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "jwt-secret",
    }
    driver = ExecutorDriver(executor, environ)
    assert "MESOS_EXECUTOR_AUTHENTICATION_TOKEN" not in environ
    assert "jwt-secret" not in repr(driver)


async def test_an_error_event_is_final(driver: ExecutorDriver, peer: Any, executor: Any) -> None:
    await peer.now.send({"type": "ERROR", "error": {"message": "no"}})
    assert await executor.next("error") == ("no",)
    await asyncio.wait_for(driver.join(), 60)
    assert len(peer.subscribes) == 1


async def test_a_refused_update_is_an_error(driver: ExecutorDriver, peer: Any, executor: Any) -> None:
    peer.refusals.append(("UPDATE", 400, "Expecting 'uuid' to be present"))
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    (message,) = await executor.next("error")
    assert "Expecting 'uuid'" in message


async def test_stop_waits_for_the_acknowledgement(driver: ExecutorDriver, peer: Any, executor: Any) -> None:
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_FINISHED"})
    stopping = asyncio.create_task(driver.stop(timeout=30))
    update = (await peer.call())["update"]
    assert not stopping.done()
    await peer.now.send(acknowledged(update))
    await asyncio.wait_for(stopping, 60)
    assert not driver.updates
    assert not driver.tasks
    assert executor.nothing()


async def test_stop_over_a_reconnection(driver: ExecutorDriver, peer: Any) -> None:
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_KILLED"})
    await peer.call()
    stopping = asyncio.create_task(driver.stop(timeout=30))
    peer.now.cut()
    stream = await peer.stream()
    await stream.send(EXECUTOR_SUBSCRIBED)
    await stream.send(acknowledged(stream.body["subscribe"]["unacknowledged_updates"][0]))
    await asyncio.wait_for(stopping, 60)
    assert not driver.updates


async def test_the_agents_token_is_sent(make_executor: Make, peer: Any, executor: Any) -> None:
    one = make_executor(MESOS_EXECUTOR_AUTHENTICATION_TOKEN="jwt")
    await one.start()
    await (await peer.stream()).send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    one.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    await peer.call()
    assert [headers["Authorization"] for headers in peer.headers] == ["Bearer jwt"] * 2


async def test_updates_that_must_not_be_sent(driver: ExecutorDriver) -> None:
    with pytest.raises(ValueError, match="must not send TASK_STAGING"):
        driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_STAGING"})
    with pytest.raises(ValueError, match="needs task_id and state"):
        driver.sendStatusUpdate({"state": "TASK_RUNNING"})


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"MESOS_AGENT_ENDPOINT": ""}, "MESOS_AGENT_ENDPOINT is not set"),
        ({"MESOS_FRAMEWORK_ID": ""}, "MESOS_FRAMEWORK_ID is not set"),
        ({"MESOS_RECOVERY_TIMEOUT": "soon"}, "MESOS_RECOVERY_TIMEOUT: not a duration"),
        ({"MESOS_SSL_ENABLED": "perhaps"}, "MESOS_SSL_ENABLED: expecting true, 1, false or 0"),
        ({"MESOS_SSL_ENABLED": "1", "LIBPROCESS_SSL_CA_FILE": "/no/ca"}, "CA file '/no/ca': No such file"),
        ({"MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "a\r\nb"}, "AUTHENTICATION_TOKEN: not a token$"),
    ],
)
async def test_an_environment_that_cannot_work(
    make_executor: Make, environ: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_executor(**environ)
