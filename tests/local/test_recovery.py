"""Master and agent die and come back: tasks stay, nothing is lost, nothing runs twice."""

import asyncio
import json
import os
import signal

import pytest


async def running(cluster, what="hang", **changes):
    scheduler = await cluster.subscribe()
    task = await scheduler.launch(what, **changes)
    status = await scheduler.update("TASK_RUNNING")
    return scheduler, task, status


async def test_a_master_that_was_killed(cluster):
    await cluster.start()
    scheduler, task, status = await running(cluster)
    await cluster.master.kill(signal.SIGKILL)
    await scheduler.until_closed()
    await cluster.master.start()
    again = await cluster.subscribe(id={"value": scheduler.framework_id})
    assert again.framework_id == scheduler.framework_id
    offer = await again.offer()
    assert offer["agent_id"] == task["agent_id"]
    cpus = sum(r["scalar"]["value"] for r in offer["resources"] if r["name"] == "cpus")
    assert cpus == 3.8  # its task and executor are accounted for
    await again.call("RECONCILE", {"tasks": []})
    found = await again.update("TASK_RUNNING")
    assert found["container_status"] == status["container_status"]
    await again.call("KILL", {"task_id": task["task_id"]})
    await again.update("TASK_KILLED")


async def test_reconciliation_is_silent_while_agents_are_missing(cluster):
    await cluster.start()
    scheduler, task, _ = await running(cluster)
    cluster.agent.send_signal(signal.SIGSTOP)
    await cluster.master.kill(signal.SIGKILL)
    await cluster.master.start()
    again = await cluster.subscribe(id={"value": scheduler.framework_id})
    asked = [{"task_id": task["task_id"], "agent_id": task["agent_id"]}, {"task_id": {"value": "x"}}]
    await again.call("RECONCILE", {"tasks": asked})
    await again.call("RECONCILE", {"tasks": [{"task_id": {"value": "y"}, "agent_id": {"value": "nobody"}}]})
    await again.update("TASK_UNKNOWN", "y")  # an unknown agent is answered at once
    assert not [
        e for e in again.events if e["type"] == "UPDATE" and e["update"]["status"]["task_id"]["value"] != "y"
    ]
    cluster.agent.send_signal(signal.SIGCONT)
    await again.offer()
    await again.call("RECONCILE", {"tasks": asked})
    await again.update("TASK_RUNNING", task["task_id"]["value"])
    await again.update("TASK_UNKNOWN", "x")


async def test_agents_that_stay_away_after_a_master_restart(cluster):
    await cluster.start()
    scheduler, task, _ = await running(cluster)
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.master.kill(signal.SIGKILL)
    cluster.master.flags = (*cluster.master.flags, "--agent_reregister_timeout", "100ms")
    await cluster.master.start()
    again = await cluster.scheduler().subscribe(id={"value": scheduler.framework_id})

    def unreachable():
        registry = json.loads((cluster.master.work_dir / "registry.json").read_text())
        return task["agent_id"]["value"] in registry["unreachable"]

    await cluster.until(unreachable)
    await again.call("RECONCILE", {"tasks": [{"task_id": task["task_id"], "agent_id": task["agent_id"]}]})
    status = await again.update("TASK_UNREACHABLE")
    assert status["unreachable_time"]["nanoseconds"] > 0
    await cluster.agent.start()
    await again.update("TASK_RUNNING", task["task_id"]["value"])


async def test_an_update_while_the_agent_is_down(cluster):
    """The executor keeps it, the next agent delivers it."""
    await cluster.start()
    scheduler, task, _ = await running(cluster, "sleep 1")
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.seen(
        lambda line: (
            line["dir"] == "call"
            and line["body"].get("update", {}).get("status", {}).get("state") == "TASK_FINISHED"
        )
    )
    await cluster.agent.start()
    status = await scheduler.update("TASK_FINISHED")
    assert status["task_id"] == task["task_id"]
    assert status["source"] == "SOURCE_EXECUTOR"


async def test_an_update_that_was_not_acknowledged(cluster):
    """It is on disk: the agent sends it again after its restart, in order, one at a time."""
    await cluster.start()
    scheduler = await cluster.subscribe()
    scheduler.acknowledge = False
    await scheduler.launch("sleep 0")
    first = await scheduler.update("TASK_STARTING")
    await cluster.seen(
        lambda line: (
            line["body"].__class__ is dict
            and line["body"].get("update", {}).get("status", {}).get("state") == "TASK_FINISHED"
        )
    )
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    again = await scheduler.update("TASK_STARTING")
    assert again["uuid"] == first["uuid"]
    scheduler.acknowledge = True
    await scheduler.ack(again)
    await scheduler.update("TASK_RUNNING")
    await scheduler.update("TASK_FINISHED")
    states = [e["update"]["status"]["state"] for e in scheduler.events if e["type"] == "UPDATE"]
    assert states == ["TASK_STARTING", "TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]


async def test_a_scheduler_that_returns_gets_what_it_missed_at_once(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    scheduler.acknowledge = False
    await scheduler.launch("hang")
    first = await scheduler.update("TASK_STARTING")
    await scheduler.close()
    again = await cluster.subscribe(id={"value": scheduler.framework_id})
    assert (await again.update("TASK_STARTING"))["uuid"] == first["uuid"]
    await again.update("TASK_RUNNING")


async def test_a_task_on_its_way_when_the_agent_dies(cluster):
    """Never said to have started, not known to the executor: dropped."""
    await cluster.start()
    scheduler, _, status = await running(cluster)
    pid = status["container_status"]["executor_pid"]
    os.kill(pid, signal.SIGSTOP)
    late = await scheduler.launch("hang")
    meta = f"agent/meta/slaves/*/frameworks/*/executors/*/runs/*/tasks/{late['task_id']['value']}/task.info"
    await cluster.until(lambda: list(cluster.tmp_path.glob(meta)))
    # The connection holds the LAUNCH event: break it before the executor reads.
    await cluster.agent.kill(signal.SIGKILL)
    (cluster.sandbox() / "wire.jsonl").rename(cluster.sandbox() / "before.jsonl")
    await cluster.agent.start()
    os.kill(pid, signal.SIGCONT)
    dropped = await scheduler.next(
        "UPDATE",
        lambda b: b["status"]["task_id"] == late["task_id"] and b["status"]["state"] != "TASK_STAGING",
    )
    # Whether the executor had read the event decides; both are right, but never both.
    if dropped["status"]["state"] == "TASK_DROPPED":
        assert dropped["status"]["reason"] == "REASON_AGENT_RESTARTED"
        assert dropped["status"]["message"] == "Task launched during agent restart"
        assert dropped["status"]["executor_id"] == {"value": "gantry.a1b2c3.1"}
    else:
        assert dropped["status"]["state"] == "TASK_STARTING"


async def test_staged_tasks_of_a_silent_executor(cluster):
    """`mute` reads its LAUNCH and says nothing; after a restart it lists the task, so it is kept."""
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("mute")
    await cluster.seen(lambda line: line["dir"] == "event" and line["body"]["type"] == "LAUNCH")
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    await scheduler.offer()
    await scheduler.call("RECONCILE", {"tasks": []})
    assert (await scheduler.update("TASK_STAGING"))["task_id"] == task["task_id"]


async def test_an_executor_that_dies_while_the_agent_is_down(cluster):
    await cluster.start()
    scheduler, task, status = await running(cluster)
    await cluster.agent.kill(signal.SIGKILL)
    os.kill(status["container_status"]["executor_pid"], signal.SIGKILL)
    await cluster.agent.start()
    ended = await scheduler.update("TASK_FAILED")
    assert ended["task_id"] == task["task_id"]
    assert (ended["source"], ended["reason"]) == ("SOURCE_AGENT", "REASON_EXECUTOR_TERMINATED")
    await scheduler.launch("sleep 0")  # the id is free again
    await scheduler.update("TASK_FINISHED")


async def test_an_executor_that_hangs_after_the_restart(cluster):
    await cluster.start(agent=("--executor_reregistration_timeout", "300ms"))
    scheduler, task, status = await running(cluster)
    os.kill(status["container_status"]["executor_pid"], signal.SIGSTOP)
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    gone = await scheduler.update("TASK_GONE")
    assert gone["task_id"] == task["task_id"]
    assert gone["reason"] == "REASON_EXECUTOR_REREGISTRATION_TIMEOUT"
    assert gone["message"] == "Executor did not reregister within 300ms"


async def test_a_recovered_executor_is_still_watched_and_killed(cluster):
    await cluster.start()
    scheduler, _, status = await running(cluster, "fork")
    child = (await cluster.seen(lambda line: line["dir"] == "child"))["body"]
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    await scheduler.offer()
    os.kill(status["container_status"]["executor_pid"], signal.SIGKILL)
    assert (await scheduler.next("FAILURE"))["status"] == -1  # only its parent is told how it ended
    await scheduler.update("TASK_FAILED")
    if cluster.cgroup("freezer").exists():
        assert cluster.ended(child)


async def test_an_idle_executor_stays(cluster):
    """All its tasks have ended and are acknowledged: it is not one that never had any."""
    await cluster.start()
    scheduler = await cluster.subscribe()
    await scheduler.launch("sleep 0")
    first = await scheduler.update("TASK_FINISHED")
    await cluster.until(lambda: not list(cluster.tmp_path.glob("agent/meta/**/task.updates")))
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    await scheduler.launch("sleep 0")
    second = await scheduler.update("TASK_FINISHED")
    assert second["container_status"]["executor_pid"] == first["container_status"]["executor_pid"]


async def test_without_checkpoints_nothing_is_recovered(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe(checkpoint=False)
    task = await scheduler.launch("hang")
    status = await scheduler.update("TASK_RUNNING")
    pid = status["container_status"]["executor_pid"]
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.agent.start()
    dropped = await scheduler.update("TASK_DROPPED")
    assert dropped["task_id"] == task["task_id"]
    assert dropped["message"] == "Reconciliation: task unknown to the agent"
    if cluster.cgroup("freezer").exists():
        await cluster.until(lambda: cluster.ended(pid))  # an orphan, collected at start


async def test_the_agent_keeps_its_port_and_id(cluster):
    await cluster.start()
    _, task, _ = await running(cluster)
    endpoint = cluster.agent.endpoint
    await cluster.agent.kill(signal.SIGTERM)
    cluster.agent.endpoint = ""  # --port 0 again
    await cluster.agent.start()
    assert cluster.agent.endpoint == endpoint
    _, reply = await cluster.operator({"type": "GET_STATE"}, of=cluster.agent)
    launched = reply["get_state"]["get_tasks"]["launched_tasks"]
    assert [t["task_id"] for t in launched] == [task["task_id"]]


async def test_an_agent_with_other_resources_is_refused(cluster):
    await cluster.start()
    await (await cluster.subscribe()).offer()
    await cluster.agent.kill(signal.SIGTERM)
    before = cluster.agent.flags
    cluster.agent.flags = tuple(
        "cpus:1;mem:64;disk:1;ports:[1-2]" if f.startswith("cpus:") else f for f in before
    )
    with pytest.raises(AssertionError, match="incompatible agent info: --resources was"):
        await cluster.agent.start()
    assert await cluster.agent.process.wait() == 1


async def test_an_agent_that_falls_silent(cluster):
    """Its tasks are unreachable, and return with it (compared in detail in test_contract_scheduler.py)."""
    await cluster.start(master=("--agent_ping_timeout", "1secs", "--max_agent_ping_timeouts", "2"))
    scheduler, task, _ = await running(cluster)
    await cluster.agent.kill(signal.SIGKILL)
    status = await scheduler.update("TASK_UNREACHABLE")
    assert status["task_id"] == task["task_id"]
    offer = scheduler.task({"agent_id": task["agent_id"]}, "hang")
    assert offer
    await scheduler.call("KILL", {"task_id": task["task_id"], "agent_id": task["agent_id"]})
    again = await scheduler.update("TASK_UNREACHABLE")
    assert again["reason"] == "REASON_RECONCILIATION"
    await cluster.agent.start()
    back = await scheduler.update("TASK_RUNNING")
    assert back["reason"] == "REASON_AGENT_REREGISTERED"


async def test_a_kill_while_the_agent_is_away_is_remembered(cluster):
    await cluster.start()
    scheduler, task, _ = await running(cluster)
    await cluster.agent.kill(signal.SIGKILL)
    await cluster.until_async(lambda: disconnected(cluster))
    await scheduler.call("KILL", {"task_id": task["task_id"]})
    await cluster.agent.start()
    await scheduler.update("TASK_KILLED", task["task_id"]["value"])


async def disconnected(cluster) -> bool:
    _, reply = await cluster.operator({"type": "GET_AGENTS"})
    return not reply["get_agents"]["agents"][0]["active"]


async def test_random_kills(cluster):
    """Master and agent die in turn under load; every task ends exactly once, on the executor that was there."""
    await cluster.start()
    scheduler = await cluster.subscribe()
    tasks = []
    for process in (cluster.agent, cluster.master, cluster.agent):
        offer = await scheduler.offer(0.5)
        batch = [scheduler.task(offer, "sleep 0.3") for _ in range(3)]
        await scheduler.accept(offer, *batch)
        tasks += batch
        for task in batch:
            await scheduler.update("TASK_RUNNING", task["task_id"]["value"])
            scheduler._used = 0
        await process.kill(signal.SIGKILL)
        await process.start()
        if process is cluster.master:
            await scheduler.until_closed()
            events = scheduler.events
            scheduler = await cluster.subscribe(id={"value": scheduler.framework_id})
            scheduler.events[:0] = events
    wanted = {task["task_id"]["value"] for task in tasks}

    def ended() -> list[str]:
        statuses = [e["update"]["status"] for e in scheduler.events if e["type"] == "UPDATE"]
        return [s["task_id"]["value"] for s in statuses if s["state"] == "TASK_FINISHED" and "uuid" in s]

    await cluster.until(lambda: set(ended()) == wanted)
    assert cluster.wire()
    starts = [line for line in cluster.wire() if line["dir"] == "env"]
    assert len(starts) == 1  # one executor all the time
    await asyncio.sleep(0)
