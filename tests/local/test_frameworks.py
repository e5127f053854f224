"""The life of frameworks, roles and offers against real processes."""

import pytest


async def removed(cluster, framework_id):
    _, reply = await cluster.operator({"type": "GET_FRAMEWORKS"})
    done = reply["get_frameworks"].get("completed_frameworks", [])
    return framework_id in [f["framework_info"]["id"]["value"] for f in done]


async def test_without_failover_timeout_a_broken_stream_is_the_end(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe(failover_timeout=0.0)
    await scheduler.launch("hang")
    status = await scheduler.update("TASK_RUNNING")
    await scheduler.close()
    await cluster.until(lambda: cluster.ended(status["container_status"]["executor_pid"]))
    assert any(line["body"] == {"type": "SHUTDOWN"} for line in cluster.wire())
    again = await cluster.scheduler().subscribe(id={"value": scheduler.framework_id})
    assert (await again.next("ERROR"))["message"] == "Framework has been removed"
    await again.until_closed()


async def test_the_failover_timeout_runs_out(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe(failover_timeout=0.2)
    await scheduler.close()
    await cluster.until_async(lambda: removed(cluster, scheduler.framework_id))


async def test_in_time(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe(failover_timeout=600.0)
    task = await scheduler.launch("hang")
    await scheduler.update("TASK_RUNNING")
    await scheduler.close()
    again = await cluster.subscribe(id={"value": scheduler.framework_id})
    await again.call("KILL", {"task_id": task["task_id"]})
    await again.update("TASK_KILLED")


async def test_user_and_checkpoint_stay_as_they_were(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await cluster.subscribe(id={"value": scheduler.framework_id}, user="nobody", checkpoint=False, name="new")
    _, reply = await cluster.operator({"type": "GET_FRAMEWORKS"})
    (framework,) = reply["get_frameworks"]["frameworks"]
    info = framework["framework_info"]
    assert (info["user"], info["checkpoint"], info["name"]) == ("root", True, "new")


async def test_another_principal_is_refused(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    other = await cluster.scheduler().subscribe(id={"value": scheduler.framework_id}, principal="thief")
    assert (await other.next("ERROR"))["message"] == "Changing framework's principal is not allowed."
    assert not scheduler.closed


async def test_roles_of_the_master(cluster):
    await cluster.start(master=("--roles", "a,b"))
    scheduler = await cluster.scheduler().subscribe(roles=["a", "c"])
    assert (await scheduler.next("ERROR"))["message"] == "Roles { c } are not present in the master's --roles"
    good = await cluster.subscribe(roles=["a", "b"])
    assert (await good.offer())["allocation_info"]["role"] in ("a", "b")


async def test_suppressed_from_the_start_and_revived(cluster):
    await cluster.start()
    quiet = await cluster.subscribe(suppressed_roles=["gantry"])
    other = await cluster.subscribe(roles=["other"])
    offer = await other.offer()
    assert not quiet.offers
    await other.call("DECLINE", {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 3600}})
    await quiet.call("REVIVE", {"roles": ["gantry"]})
    assert (await quiet.offer())["allocation_info"] == {"role": "gantry"}


async def test_update_framework(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    _, reply = await cluster.operator({"type": "GET_FRAMEWORKS"})
    info = reply["get_frameworks"]["frameworks"][0]["framework_info"]
    body = {"framework_info": {**info, "roles": ["new"]}, "suppressed_roles": []}
    assert await scheduler.call("UPDATE_FRAMEWORK", body) == (200, "")
    assert await scheduler.next("RESCIND") == {"offer_id": offer["id"]}
    assert (await scheduler.offer())["allocation_info"] == {"role": "new"}
    status, text = await scheduler.call("UPDATE_FRAMEWORK", {"framework_info": {**info, "user": "nobody"}})
    assert (status, text) == (
        400,
        (
            "FrameworkInfo update is not valid: Updating 'FrameworkInfo.user' is unsupported; "
            "attempted to update from 'root' to 'nobody'"
        ),
    )


async def test_static_reservations(cluster):
    await cluster.start(
        agent=("--resources", "cpus(gantry):1;mem(gantry):64;cpus:1;mem:64;disk:1;ports:[1-2]")
    )
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    reserved = [r for r in offer["resources"] if r.get("reservations")]
    assert reserved
    assert all(r["reservations"] == [{"type": "STATIC", "role": "gantry"}] for r in reserved)
    task = scheduler.task(offer, "sleep 0")
    task["resources"] = reserved
    await scheduler.accept(offer, task)
    await scheduler.update("TASK_FINISHED")


async def test_offers_of_one_agent_are_used_together(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    running = await scheduler.launch("hang")
    await scheduler.update("TASK_RUNNING")
    first = await scheduler.offer()
    await scheduler.call("KILL", {"task_id": running["task_id"]})
    second = await scheduler.offer()  # what the task gave back
    task = scheduler.task(first, "sleep 0")
    task["resources"][0]["scalar"]["value"] = 3.9
    operation = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
    await scheduler.call("ACCEPT", {"offer_ids": [first["id"], second["id"]], "operations": [operation]})
    await scheduler.update("TASK_FINISHED", task["task_id"]["value"])


async def test_a_framework_that_knows_no_partitions(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe(capabilities=[], roles=[], role="gantry")
    offer = await scheduler.offer()
    good = scheduler.task(offer, "hang")
    await scheduler.accept({"id": {"value": "nonsense"}}, good)
    status = await scheduler.update("TASK_LOST")
    assert status["reason"] == "REASON_INVALID_OFFERS"
    await scheduler.call("RECONCILE", {"tasks": [{"task_id": {"value": "x"}, "agent_id": offer["agent_id"]}]})
    await scheduler.update("TASK_LOST", "x")


@pytest.mark.parametrize("kind", ["GROW_VOLUME", "SHRINK_VOLUME", "CREATE_DISK", "DESTROY_DISK"])
async def test_operations_that_are_not_done_here(cluster, kind):
    await cluster.start()
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    operation = {"type": kind, kind.lower(): {"resources": []}, "id": {"value": "op"}}
    launch = {"type": "LAUNCH", "launch": {"task_infos": [scheduler.task(offer, "sleep 0")]}}
    await scheduler.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": [operation, launch]})
    status = (await scheduler.next("UPDATE_OPERATION_STATUS"))["status"]
    assert (status["operation_id"], status["state"]) == ({"value": "op"}, "OPERATION_ERROR")
    assert f"{kind} is not supported by the embedded Mesos" in status["message"]
    await scheduler.update("TASK_FINISHED")  # the rest of the call is done


async def test_an_id_on_a_launch(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    operation = {
        "type": "LAUNCH",
        "id": {"value": "x"},
        "launch": {"task_infos": [scheduler.task(offer, "hang")]},
    }
    await scheduler.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": [operation]})
    status = await scheduler.update("TASK_ERROR")
    assert status["message"] == "The `id` field cannot be set on LAUNCH operations"
    assert status["reason"] == "REASON_TASK_INVALID"


async def test_two_agents_one_offer_each(cluster):
    await cluster.start()
    second = cluster.make("agent", "second", "--master", cluster.master.endpoint, "--hostname", "two")
    await second.start()
    scheduler = await cluster.subscribe()
    await cluster.until(lambda: len(scheduler.offers) == 2)
    first, other = scheduler.offers
    assert first["agent_id"] != other["agent_id"]
    task = scheduler.task(first, "hang")
    operation = {"type": "LAUNCH", "launch": {"task_infos": [task]}}
    await scheduler.call("ACCEPT", {"offer_ids": [first["id"], other["id"]], "operations": [operation]})
    status = await scheduler.update("TASK_DROPPED")
    assert "Aggregated offers must belong to one single agent" in status["message"]
