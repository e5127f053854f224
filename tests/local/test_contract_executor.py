"""An executor sees of the embedded agent what it saw of a real one: environment, cgroups, events, replies."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]
RECORDING = Path(__file__).parent / "wire" / "executor.jsonl"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NUMBER = re.compile(r"-(\d{4}|S\d+)\b")
PORT = re.compile(r"127\.0\.0\.1:\d+")
OWN = ("MESOS_", "LIBPROCESS_", "PATH")
INFO = {
    "webui_url": "http://127.0.0.1:8080",
    "labels": {"labels": [{"key": "DCOS_SERVICE_NAME", "value": "gantry"}]},
}


def masked(value: Any, key: str = "") -> Any:
    if key in ("uuid", "port"):
        return "*"
    if isinstance(value, dict):
        return {k: masked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, str):
        return PORT.sub("127.0.0.1:*", NUMBER.sub("-*", UUID.sub("*", value)))
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def recorded() -> list[Json]:
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


def first_events(lines: list[Json]) -> dict[str, Json]:
    """The first event of each type."""
    result: dict[str, Json] = {}
    for line in lines:
        if line["dir"] == "event":
            result.setdefault(line["body"]["type"], masked(line["body"]))
    return result


async def run(cluster, command: str) -> Any:
    """What the recorded executor went through, up to its SHUTDOWN."""
    scheduler = await cluster.subscribe(**INFO)
    environment = {"WIRE_EXEC_LOG": "executor.jsonl"}
    labels = {"labels": {"labels": [{"key": "pod", "value": "default/web-0"}]}}
    policy = {"kill_policy": {"grace_period": {"nanoseconds": 30_000_000_000}}}
    offer = await scheduler.offer()
    tasks = [
        scheduler.task(offer, what, environment=environment, **labels, **policy)
        for what in ("sleep 0.1", "fail", "hang")
    ]
    await scheduler.accept(offer, *tasks)
    await scheduler.update("TASK_FINISHED")
    where = {"agent_id": offer["agent_id"], "executor_id": {"value": "gantry.a1b2c3.1"}}
    await scheduler.call("MESSAGE", {**where, "data": "cGluZw=="})
    assert await scheduler.next("MESSAGE") == {**where, "data": "cGluZw=="}
    kill = {"task_id": tasks[2]["task_id"], "kill_policy": {"grace_period": {"nanoseconds": 5_000_000_000}}}
    await scheduler.call("KILL", {**kill, "agent_id": offer["agent_id"]})
    await scheduler.update("TASK_KILLED")
    return scheduler


@pytest.mark.root
async def test_the_first_event_of_each_type_is_as_recorded(cluster, needs_cgroups, executor_command):
    await cluster.start(agent=("--attributes", "rack:r1;os:debian;ssd:true"))
    scheduler = await run(cluster, executor_command)
    await scheduler.call("TEARDOWN")
    await cluster.seen(lambda line: line["dir"] == "event" and line["body"]["type"] == "SHUTDOWN")
    theirs = json.loads(
        json.dumps(first_events(recorded())).replace(
            "python3 executor.py", json.dumps(executor_command)[1:-1]
        )
    )
    # The data of the first task is how long it sleeps, which the replay shortens.
    ours = first_events(cluster.wire())
    for events in (ours, theirs):
        assert events["LAUNCH"]["launch"]["task"].pop("data")
        events["ACKNOWLEDGED"].pop("task_id", None)
    assert ours == theirs


@pytest.mark.root
async def test_environment_directory_and_cgroups_are_as_recorded(cluster, needs_cgroups):
    await cluster.start(agent=("--recovery_timeout", "2mins"))
    scheduler = await cluster.subscribe()
    await scheduler.launch("hang")
    status = await scheduler.update("TASK_RUNNING")
    ours = (await cluster.seen(lambda line: line["dir"] == "env"))["body"]
    theirs = recorded()[0]
    work_dir = str(cluster.agent.work_dir)
    mine = {
        k: masked(v.replace(work_dir, "/var/lib/mesos/agent"))
        for k, v in ours["env"].items()
        if k.startswith(OWN)
    }
    assert mine == masked(theirs["env"])
    assert ours["cwd"] == ours["env"]["MESOS_SANDBOX"]
    assert ours["uid"] == theirs["uid"]
    container_id = status["container_status"]["container_id"]["value"]

    def placed(text: str, root: str) -> set[str]:
        rows = (line.split(":") for line in text.split())
        return {row[1] for row in rows if row[2].startswith(f"/{root}/")}

    assert placed(ours["cgroup"], cluster.cgroups_root) == placed(theirs["cgroup"], "mesos")
    assert f":/{cluster.cgroups_root}/{container_id}\n" in ours["cgroup"]


async def test_replies_are_as_recorded(cluster):
    await cluster.start()
    await run(cluster, "")
    replies = [line["body"] for line in cluster.wire() if line["dir"] == "reply"]
    theirs = [line for line in recorded() if line["dir"] == "reply" and "text" in line]
    assert {(r["status"], r["text"]) for r in replies} == {(r["status"], r["text"]) for r in theirs}


async def test_an_agent_restart_is_as_recorded(cluster):
    """Refused connections, then SUBSCRIBE, then SUBSCRIBED: the executor and its task go on."""
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("hang")
    await scheduler.update("TASK_RUNNING")
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    lines = await cluster.seen(lambda line: line["dir"] == "error")
    assert lines

    def subscribed() -> bool:
        return (
            sum(line["dir"] == "event" and line["body"]["type"] == "SUBSCRIBED" for line in cluster.wire())
            == 2
        )

    await cluster.until(subscribed)
    first, second = (
        line["body"]
        for line in cluster.wire()
        if line["body"].__class__ is dict and line["body"].get("type") == "SUBSCRIBED"
    )
    assert first == second
    await scheduler.offer()
    await scheduler.call("RECONCILE", {"tasks": []})
    assert (await scheduler.update("TASK_RUNNING"))["task_id"] == task["task_id"]
