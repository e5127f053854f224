"""Operator replies have the fields of the recorded ones, at every level, with values of the same kind."""

import json
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]
RECORDING = Path(__file__).parent / "wire" / "operator.jsonl"
# Of a build, or of what is left out here: weights, webui, quota, histories of resources.
ABSENT = frozenset(
    (
        "git_sha",
        "git_branch",
        "reserved_resources_full",
        "unreserved_resources_full",
        "used_resources_full",
        "offered_resources_full",
        "labels",
        "offer_constraints",
        "resources",
        "discovery",
        "completed_frameworks",
    )
)
CALLS = (
    "GET_HEALTH",
    "GET_VERSION",
    "GET_AGENTS",
    "GET_FRAMEWORKS",
    "GET_EXECUTORS",
    "GET_TASKS",
    "GET_ROLES",
    "GET_MASTER",
)
PLAIN = ("/version", "/slaves", "/frameworks", "/state-summary")


def recorded(key: str, value: str) -> Any:
    for line in RECORDING.read_text().splitlines():
        entry = json.loads(line)
        if key == "call" and entry.get("call", {}).get("type") == value:
            return entry["reply"]
        if key == "get" and entry.get("get") == value:
            return entry["body"]
    raise AssertionError(f"no {value} in the recording")


def missing(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Fields of theirs that ours has not, and values of another kind."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key, value in theirs.items():
            if key in ABSENT:
                continue
            found += missing(value, ours[key], f"{path}.{key}") if key in ours else [f"{path}.{key}"]
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        return missing(theirs[0], ours[0], f"{path}[0]") if theirs and ours else []
    numbers = isinstance(theirs, int | float) and isinstance(ours, int | float)
    return [] if numbers or type(theirs) is type(ours) else [f"{path}: {type(ours).__name__}"]


@pytest.fixture
async def busy(cluster):
    """A running and two ended tasks, and an offer that is out."""
    await cluster.start(agent=("--attributes", "rack:r1;os:debian;ssd:true"))
    scheduler = await cluster.subscribe(webui_url="http://127.0.0.1:8080")
    offer = await scheduler.offer()
    labels = {"labels": {"labels": [{"key": "pod", "value": "default/web-0"}]}}
    policy = {"kill_policy": {"grace_period": {"nanoseconds": 30_000_000_000}}}
    tasks = [scheduler.task(offer, what, **labels, **policy) for what in ("fail", "sleep 0", "hang")]
    await scheduler.accept(offer, *tasks)
    for state, task in zip(("TASK_FAILED", "TASK_FINISHED"), tasks, strict=False):
        await scheduler.update(state, task["task_id"]["value"])
        scheduler._used = 0
    await scheduler.update("TASK_RUNNING", tasks[2]["task_id"]["value"])
    scheduler.offers.append(await scheduler.offer())
    return cluster


async def test_replies_have_the_recorded_fields(busy):
    problems = []
    for kind in CALLS:
        status, reply = await busy.operator({"type": kind})
        assert (status, reply["type"]) == (200, kind)
        problems += missing(recorded("call", kind), reply, kind)
    for path in PLAIN:
        problems += missing(recorded("get", path), await busy.get(path), path)

        async def alike(path=path):
            return await busy.get("/master" + path) == await busy.get(path)

        await busy.until_async(alike)  # unless something happened in between
    assert problems == []


async def test_what_the_replies_say(busy):
    _, reply = await busy.operator({"type": "GET_TASKS"})
    tasks = reply["get_tasks"]
    assert [task["state"] for task in tasks["tasks"]] == ["TASK_RUNNING"]
    assert {task["state"] for task in tasks["completed_tasks"]} == {"TASK_FAILED", "TASK_FINISHED"}
    _, reply = await busy.operator({"type": "GET_AGENTS"})
    (agent,) = reply["get_agents"]["agents"]
    assert agent["active"]
    assert {r["name"]: r["scalar"]["value"] for r in agent["allocated_resources"]} == {
        "cpus": 0.2,
        "mem": 64.0,
    }
    metrics = await busy.get("/metrics/snapshot")
    assert metrics["master/tasks_running"] == 1
    assert metrics["master/tasks_finished"] == metrics["master/tasks_failed"] == 1
    assert metrics["master/cpus_used"] == 0.2
    _, state = await busy.operator({"type": "GET_STATE"})
    assert set(state["get_state"]) == {"get_tasks", "get_executors", "get_frameworks", "get_agents"}
    full = await busy.get("/state")
    assert full["activated_slaves"] == 1
    assert [task["state"] for task in full["frameworks"][0]["tasks"]] == ["TASK_RUNNING"]


async def test_the_agent_answers_for_itself(busy):
    for kind in ("GET_HEALTH", "GET_VERSION", "GET_FRAMEWORKS", "GET_AGENT", "GET_STATE"):
        status, reply = await busy.operator({"type": kind}, of=busy.agent)
        assert (status, reply["type"]) == (200, kind)
    _, reply = await busy.operator({"type": "GET_TASKS"}, of=busy.agent)
    tasks = reply["get_tasks"]
    assert [task["state"] for task in tasks["launched_tasks"]] == ["TASK_RUNNING"]
    _, reply = await busy.operator({"type": "GET_EXECUTORS"}, of=busy.agent)
    assert reply["get_executors"]["executors"][0]["executor_info"]["executor_id"] == {
        "value": "gantry.a1b2c3.1"
    }
    state = await busy.get("/slave(1)/state", of=busy.agent)
    assert state["frameworks"][0]["executors"][0]["state"] == "running"
    assert (await busy.get("/metrics/snapshot", of=busy.agent))["slave/tasks_running"] == 1


@pytest.mark.parametrize("of", ["master", "agent"])
async def test_unknown_and_unsupported_calls(cluster, of):
    await cluster.start()
    process = getattr(cluster, of)
    status, text = await cluster.operator({"type": "UPDATE_WEIGHTS"}, of=process)
    assert (status, text) == (501, "UPDATE_WEIGHTS is not supported by the embedded Mesos")
    status, text = await cluster.operator({}, of=process)
    assert status == 400
    assert "Expecting 'type' to be present" in text


async def test_teardown_and_mark_gone(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("hang")
    await scheduler.update("TASK_RUNNING")
    status, _ = await cluster.operator(
        {"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": task["agent_id"]}}
    )
    assert status == 200
    gone = await scheduler.update("TASK_GONE_BY_OPERATOR")
    assert gone["reason"] == "REASON_AGENT_REMOVED_BY_OPERATOR"
    assert await scheduler.next("FAILURE") == {"agent_id": task["agent_id"]}
    await scheduler.call("RECONCILE", {"tasks": [{"task_id": {"value": "x"}, "agent_id": task["agent_id"]}]})
    assert (await scheduler.update("TASK_GONE_BY_OPERATOR", "x"))["message"] == "Reconciliation: Task is gone"
    assert await cluster.agent.process.wait() == 0
    call = {"type": "TEARDOWN", "teardown": {"framework_id": {"value": scheduler.framework_id}}}
    assert (await cluster.operator(call))[0] == 200
    await scheduler.until_closed()
    assert (await cluster.operator(call))[0] == 400
