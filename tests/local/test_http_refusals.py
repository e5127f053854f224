"""Statuses and words for calls that are not calls."""

import json

import pytest

JSON = {"Content-Type": "application/json"}


def post(cluster, path, of="master", **kwargs):
    return cluster.session.post(f"http://{getattr(cluster, of).endpoint}{path}", **kwargs)


@pytest.mark.parametrize(
    ("of", "path"), [("master", "/api/v1/scheduler"), ("agent", "/slave(1)/api/v1/executor")]
)
async def test_what_both_apis_refuse(cluster, of, path):
    await cluster.start()
    endpoint = f"http://{getattr(cluster, of).endpoint}"
    async with cluster.session.get(endpoint + path) as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        assert (
            await reply.text() == "405 Method Not Allowed. Expecting one of { 'POST' }, but received 'GET'."
        )
    async with cluster.session.get(endpoint + "/nowhere") as reply:
        assert reply.status == 404
    async with post(cluster, path, of, data=b"{}", headers={"Content-Type": "text/plain"}) as reply:
        assert reply.status == 415
        assert (await reply.text()).startswith("Expecting 'Content-Type' of application/json")
    async with post(cluster, path, of, data=b"", headers={"Content-Type": "application/x-protobuf"}) as reply:
        assert reply.status == 415
    async with post(cluster, path, of, data=b"[]", headers=JSON) as reply:
        assert reply.status == 400
        assert await reply.text() == "Failed to convert JSON into Call protobuf: Expecting a JSON object"
    async with post(cluster, path, of, data=b"{nonsense", headers=JSON) as reply:
        assert reply.status == 400
        assert (await reply.text()).startswith(
            "Failed to parse body into JSON: syntax error at line 1 near: "
        )


SUBSCRIBE = {"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "root", "name": "x"}}}
FRAMEWORK_ID = {"framework_id": {"value": "f"}}


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (
            {"type": "SUBSCRIBE"},
            400,
            "Failed to validate scheduler::Call: Expecting 'subscribe' to be present",
        ),
        (
            {"type": "SUBSCRIBE", "subscribe": {"framework_info": {"name": "x"}}},
            400,
            "Failed to convert JSON into Call protobuf: Missing required fields: subscribe.framework_info.user",
        ),
        (
            {**SUBSCRIBE, **FRAMEWORK_ID},
            400,
            "Failed to validate scheduler::Call: 'framework_id' differs from 'subscribe.framework_info.id'",
        ),
        (
            {"type": "REVIVE"},
            400,
            "Failed to validate scheduler::Call: Expecting 'framework_id' to be present",
        ),
        ({**FRAMEWORK_ID, "type": "REVIVE"}, 400, "Framework cannot be found"),
        (
            {**FRAMEWORK_ID, "type": "KILL"},
            400,
            "Failed to validate scheduler::Call: Expecting 'kill' to be present",
        ),
        (
            {**FRAMEWORK_ID, "type": "KILL", "kill": {"task_id": "t"}},
            400,
            "Failed to convert JSON into Call protobuf: Not expecting a JSON string for field 'task_id'",
        ),
        (
            {
                **FRAMEWORK_ID,
                "type": "ACKNOWLEDGE",
                "acknowledge": {"agent_id": {"value": "a"}, "task_id": {"value": "t"}, "uuid": "AAAA"},
            },
            400,
            "Failed to validate scheduler::Call: Failed to parse UUID: expecting 16 bytes but got 3",
        ),
    ],
)
async def test_scheduler_calls(cluster, call, status, text):
    await cluster.master.start()
    async with post(cluster, "/api/v1/scheduler", data=json.dumps(call), headers=JSON) as reply:
        assert (reply.status, await reply.text()) == (status, text)


async def test_subscribe_needs_a_peer_that_takes_json(cluster):
    await cluster.master.start()
    headers = {**JSON, "Accept": "application/x-protobuf"}
    async with post(cluster, "/api/v1/scheduler", data=json.dumps(SUBSCRIBE), headers=headers) as reply:
        assert reply.status == 406
        assert "Expecting 'Accept' to allow 'application/json'" in await reply.text()


async def test_calls_after_the_stream_broke(cluster):
    await cluster.master.start()
    scheduler = await cluster.subscribe()
    await scheduler.close()

    async def refused():
        return await scheduler.call("REVIVE")

    status, text = await refused()
    while status == 202:  # until the master has noticed
        status, text = await refused()
    assert (status, text) == (403, "Framework is not subscribed")


UUID = "AAAAAAAAAAAAAAAAAAAAAA=="
IDS = {"framework_id": {"value": "f"}, "executor_id": {"value": "e"}}


def status(**changes):
    body = {"task_id": {"value": "t"}, "state": "TASK_RUNNING", "source": "SOURCE_EXECUTOR", "uuid": UUID}
    return {**IDS, "type": "UPDATE", "update": {"status": {**body, **changes}}}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"type": "SUBSCRIBE"}, "Expecting 'executor_id' to be present"),
        ({**IDS, "type": "SUBSCRIBE"}, "Expecting 'subscribe' to be present"),
        ({**IDS, "type": "WALTZ"}, "Expecting 'type' to be present"),
        ({**IDS, "type": "MESSAGE"}, "Expecting 'message' to be present"),
        (status(uuid="AAAA"), "Failed to parse UUID: expecting 16 bytes but got 3"),
        (
            status(source="SOURCE_MASTER"),
            "Received Call from executor e of framework f with invalid source, expecting 'SOURCE_EXECUTOR'",
        ),
        (
            status(executor_id={"value": "other"}),
            "ExecutorID in Call: e does not match ExecutorID in TaskStatus: other",
        ),
        (
            status(state="TASK_STAGING"),
            "Received TASK_STAGING from executor e of framework f which is not allowed",
        ),
    ],
)
async def test_executor_calls(cluster, call, text):
    await cluster.start()
    async with post(cluster, "/api/v1/executor", "agent", data=json.dumps(call), headers=JSON) as reply:
        assert (reply.status, await reply.text()) == (400, f"Failed to validate Executor::Call: {text}")


async def test_executors_nobody_knows(cluster):
    await cluster.start()
    async with post(cluster, "/api/v1/executor", "agent", data=json.dumps(status()), headers=JSON) as reply:
        assert (reply.status, await reply.text()) == (400, "Framework cannot be found")
    scheduler = await cluster.subscribe()
    await scheduler.launch("hang", environment={"SILENT": "1"})
    await cluster.seen(lambda line: line["dir"] == "env")
    call = {**status(), "framework_id": {"value": scheduler.framework_id}}
    async with post(cluster, "/api/v1/executor", "agent", data=json.dumps(call), headers=JSON) as reply:
        assert (reply.status, await reply.text()) == (400, "Executor cannot be found")
    call = {**call, "executor_id": {"value": "gantry.a1b2c3.1"}}
    async with post(cluster, "/api/v1/executor", "agent", data=json.dumps(call), headers=JSON) as reply:
        assert (reply.status, await reply.text()) == (403, "Executor is not subscribed")


async def test_redirects(cluster, tmp_path):
    await cluster.master.start()
    leader = cluster.master.endpoint
    follower = cluster.make("master", "follower", "--leader", leader)
    await follower.start()
    expected = {
        "/redirect": f"//{leader}",
        "/master/redirect": f"//{leader}",
        "/api/v1/scheduler": f"//{leader}/master/api/v1/scheduler",
        "/master/api/v1": f"//{leader}/master/api/v1",
        "/state": f"//{leader}/master/state",
    }
    for path, location in expected.items():
        async with cluster.session.get(f"http://{follower.endpoint}{path}", allow_redirects=False) as reply:
            assert (reply.status, reply.headers["Location"]) == (307, location)
    async with cluster.session.get(f"http://{leader}/redirect", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (307, f"//{leader}")
    async with cluster.session.get(f"http://{follower.endpoint}/version") as reply:
        assert reply.status == 200
    agent = cluster.make("agent", "agent", "--master", follower.endpoint)
    await agent.start()
    scheduler = await cluster.subscribe()
    assert await scheduler.offer()
