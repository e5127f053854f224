"""Executors from start to end: timeouts, grace, deaths, what is left on the machine."""

import os
import signal
import tarfile
from pathlib import Path

import pytest


async def test_one_that_never_registers(cluster):
    await cluster.start(agent=("--executor_registration_timeout", "500ms"))
    scheduler = await cluster.subscribe()
    await scheduler.launch("hang", environment={"SILENT": "1"})
    failure = await scheduler.next("FAILURE")
    assert failure["status"] == 9
    status = await scheduler.update("TASK_FAILED")
    assert status["reason"] == "REASON_EXECUTOR_REGISTRATION_TIMEOUT"
    assert status["message"] == "Executor did not register within 500ms"
    assert "container_status" not in status


async def test_one_that_is_killed(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("fork")
    status = await scheduler.update("TASK_RUNNING")
    child = (await cluster.seen(lambda line: line["dir"] == "child"))["body"]
    os.kill(status["container_status"]["executor_pid"], signal.SIGKILL)
    failure = await scheduler.next("FAILURE")
    assert failure == {"agent_id": task["agent_id"], "executor_id": {"value": "gantry.a1b2c3.1"}, "status": 9}
    status = await scheduler.update("TASK_FAILED")
    assert (status["source"], status["reason"]) == ("SOURCE_AGENT", "REASON_EXECUTOR_TERMINATED")
    assert cluster.ended(child)


async def test_shutdown_asks_first(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("hang")
    await scheduler.update("TASK_RUNNING")
    where = {"agent_id": task["agent_id"], "executor_id": task["executor"]["executor_id"]}
    assert await scheduler.call("SHUTDOWN", where) == (202, "")
    assert (await scheduler.next("FAILURE"))["status"] == 0
    await scheduler.update("TASK_FAILED")
    assert any(line["body"] == {"type": "SHUTDOWN"} for line in cluster.wire())


async def test_shutdown_insists_after_the_grace_period(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    grace = {"shutdown_grace_period": {"nanoseconds": 200_000_000}}
    task = await scheduler.launch("hang", environment={"DEAF": "1"}, executor=grace)
    await scheduler.update("TASK_RUNNING")
    where = {"agent_id": task["agent_id"], "executor_id": task["executor"]["executor_id"]}
    await scheduler.call("SHUTDOWN", where)
    assert (await scheduler.next("FAILURE"))["status"] == 9
    await scheduler.update("TASK_FAILED")


async def test_kill_before_the_executor_registers(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("hang", environment={"SILENT": "1"})
    await cluster.seen(lambda line: line["dir"] == "env")
    await scheduler.call("KILL", {"task_id": task["task_id"]})
    status = await scheduler.update("TASK_KILLED")
    assert status["message"] == "Killed before delivery to the executor"
    assert status["reason"] == "REASON_TASK_KILLED_DURING_LAUNCH"
    assert status["source"] == "SOURCE_AGENT"


async def test_an_executor_id_is_taken_until_its_updates_are_acknowledged(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    scheduler.acknowledge = False
    await scheduler.launch("exit")
    await scheduler.next("FAILURE")
    again = await scheduler.launch("hang")
    status = await scheduler.update("TASK_DROPPED", again["task_id"]["value"])
    assert status["message"] == "Master wants to launch executor, but one already exists"
    assert status["reason"] == "REASON_EXECUTOR_TERMINATED"


@pytest.mark.parametrize(
    ("command", "status"), [("exit 5", 5 << 8), ("kill -TERM $$", 15), ("/no/such/program", 127 << 8)]
)
async def test_wait_statuses(cluster, command, status):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await scheduler.launch("hang", executor={"command": {"value": command}})
    assert (await scheduler.next("FAILURE"))["status"] == status
    assert (await scheduler.update("TASK_FAILED"))["message"] == "Executor terminated"


async def test_a_program_without_a_shell(cluster, tmp_path):
    await cluster.start()
    scheduler = await cluster.subscribe()
    command = {"shell": False, "value": "/bin/echo", "arguments": ["echo", "a  b", "$HOME"]}
    await scheduler.launch("hang", executor={"command": command})
    assert (await scheduler.next("FAILURE"))["status"] == 0
    assert (cluster.sandbox() / "stdout").read_text() == "a  b $HOME\n"


async def test_uris_are_fetched(cluster, tmp_path):
    await cluster.start()
    scheduler = await cluster.subscribe()
    (tmp_path / "tool").write_text("#!/bin/sh\ncat inner plain.tar\n")
    (tmp_path / "inner").write_text("from the archive\n")
    (tmp_path / "plain.tar").write_text("as it is\n")
    with tarfile.open(tmp_path / "bundle.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "inner", "inner")
    uris = [
        {"value": str(tmp_path / "tool"), "executable": True, "output_file": "bin/tool"},
        {"value": f"file://{tmp_path}/bundle.tar.gz"},
        {"value": str(tmp_path / "plain.tar"), "extract": False},
    ]
    await scheduler.launch("hang", executor={"command": {"value": "./bin/tool", "uris": uris}})
    assert (await scheduler.next("FAILURE"))["status"] == 0
    assert (cluster.sandbox() / "stdout").read_text() == "from the archive\nas it is\n"


async def test_a_uri_that_cannot_be_fetched(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    command = {"value": "true", "uris": [{"value": "file:///no/such/file"}]}
    await scheduler.launch("hang", executor={"command": command})
    assert (await scheduler.next("FAILURE"))["status"] == -1
    status = await scheduler.update("TASK_FAILED")
    assert status["reason"] == "REASON_CONTAINER_LAUNCH_FAILED"
    assert "Failed to launch container: Failed to fetch 'file:///no/such/file'" in status["message"]


async def test_a_user_that_does_not_exist(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe(user="nobody-of-that-name")
    await scheduler.launch("hang")
    status = await scheduler.update("TASK_FAILED")
    assert status["reason"] == "REASON_CONTAINER_LAUNCH_FAILED"
    assert "Failed to get the user 'nobody-of-that-name'" in status["message"]


@pytest.mark.root
async def test_another_user(cluster, needs_cgroups, tmp_path):
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    await cluster.start()
    scheduler = await cluster.subscribe(user="nobody")
    await scheduler.launch("hang", executor={"command": {"value": "id -un > who"}})
    assert (await scheduler.next("FAILURE"))["status"] == 0
    assert (cluster.sandbox() / "who").read_text() == "nobody\n"


async def test_task_groups(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    offer = await scheduler.offer()
    disk = {"name": "disk", "type": "SCALAR", "scalar": {"value": 1}}
    tasks = [scheduler.task(offer, what) for what in ("hang", "sleep 0")]
    executor = tasks[0]["executor"]
    executor["resources"] = [*executor["resources"], disk]
    executor["framework_id"] = {"value": scheduler.framework_id}
    for task in tasks:
        del task["executor"]
    group = {"executor": executor, "task_group": {"tasks": tasks}}
    operation = {"type": "LAUNCH_GROUP", "launch_group": group}
    await scheduler.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": [operation]})
    await scheduler.update("TASK_FINISHED", tasks[1]["task_id"]["value"])
    event = (
        await cluster.seen(lambda line: line["body"].__class__ is dict and "launch_group" in line["body"])
    )["body"]
    ids = [task["task_id"] for task in event["launch_group"]["task_group"]["tasks"]]
    assert ids == [task["task_id"] for task in tasks]


@pytest.mark.root
async def test_limits_follow_the_tasks(cluster, needs_cgroups):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await scheduler.launch("hang")
    status = await scheduler.update("TASK_RUNNING")
    container_id = status["container_status"]["container_id"]["value"]
    cpu, memory = cluster.cgroup("cpu", container_id), cluster.cgroup("memory", container_id)

    def limits() -> tuple[int, int, int]:
        names = (cpu / "cpu.shares", memory / "memory.soft_limit_in_bytes", memory / "memory.limit_in_bytes")
        shares, soft, hard = (int(path.read_text()) for path in names)
        return shares, soft >> 20, hard >> 20

    assert limits() == (204, 64, 64)
    offer = await scheduler.offer(0.2)
    big = scheduler.task(offer, "sleep 0")
    big["resources"][1]["scalar"]["value"] = 256
    scheduler.acknowledge = False
    await scheduler.accept(offer, big)
    starting = await scheduler.update("TASK_STARTING", big["task_id"]["value"])
    # The task has ended before we acknowledge anything: its limits are given back, the hard one is not.
    await cluster.until(lambda: limits() == (204, 64, 320))
    scheduler.acknowledge = True
    await scheduler.ack(starting)
    await scheduler.update("TASK_FINISHED", big["task_id"]["value"])


@pytest.mark.root
async def test_nested_cgroups_go_with_the_executor(cluster, needs_cgroups):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await scheduler.launch("fork")
    status = await scheduler.update("TASK_RUNNING")
    container_id = status["container_status"]["container_id"]["value"]
    child = (await cluster.seen(lambda line: line["dir"] == "child"))["body"]
    for subsystem in ("cpu", "memory", "freezer"):
        nested = cluster.cgroup(subsystem, container_id) / "pod" / "app"
        nested.mkdir(parents=True)
        (nested / "cgroup.procs").write_text(str(child))
    (cluster.cgroup("freezer", container_id) / "pod" / "freezer.state").write_text("FROZEN")
    os.kill(status["container_status"]["executor_pid"], signal.SIGKILL)
    await scheduler.update("TASK_FAILED")
    assert cluster.ended(child)
    for subsystem in ("cpu", "cpuacct", "memory", "freezer"):
        assert not cluster.cgroup(subsystem, container_id).exists()


@pytest.mark.root
async def test_more_isolation(cluster, needs_cgroups):
    if not Path("/sys/fs/cgroup/pids/cgroup.procs").exists():
        pytest.skip("no pids cgroup")
    await cluster.start(agent=("--isolation", "cgroups/cpu,cgroups/mem,cgroups/pids"))
    scheduler = await cluster.subscribe()
    await scheduler.launch("hang")
    status = await scheduler.update("TASK_RUNNING")
    container_id = status["container_status"]["container_id"]["value"]
    pid = str(status["container_status"]["executor_pid"])
    assert pid in (cluster.cgroup("pids", container_id) / "cgroup.procs").read_text().split()


@pytest.mark.root
async def test_out_of_memory(cluster, needs_cgroups):
    await cluster.start()
    scheduler = await cluster.subscribe()
    await scheduler.launch("eat 300")
    status = await scheduler.update("TASK_FAILED")
    assert status["reason"] == "REASON_CONTAINER_LIMITATION_MEMORY"
    assert status["message"].startswith("Memory limit exceeded: Requested: 64MB Maximum Used: 64MB\n")


async def test_plain_sessions(cluster):
    await cluster.start(agent=("--launcher", "posix"))
    scheduler = await cluster.subscribe()
    await scheduler.launch("fork")
    status = await scheduler.update("TASK_RUNNING")
    child = (await cluster.seen(lambda line: line["dir"] == "child"))["body"]
    where = {"agent_id": status["agent_id"], "executor_id": status["executor_id"]}
    grandparent = status["container_status"]["executor_pid"]
    assert not cluster.cgroup("freezer").exists()
    await scheduler.call("SHUTDOWN", where)
    await scheduler.update("TASK_FAILED")
    assert cluster.ended(grandparent)
    # The child left the session and outlived its parent: sessions cannot hold it, which is why cgroups are better.
    if not cluster.ended(child):
        os.kill(child, signal.SIGKILL)


async def test_usr1_ends_everything(cluster):
    await cluster.start()
    scheduler = await cluster.subscribe()
    task = await scheduler.launch("hang")
    status = await scheduler.update("TASK_RUNNING")
    cluster.agent.send_signal(signal.SIGUSR1)
    lost = await scheduler.update("TASK_LOST")
    assert (lost["task_id"], lost["reason"]) == (task["task_id"], "REASON_AGENT_REMOVED")
    assert lost["message"] == "Agent 127.0.0.1 removed: the agent unregistered"
    assert await cluster.agent.process.wait() == 0
    assert cluster.ended(status["container_status"]["executor_pid"])
    await cluster.agent.start()
    assert (await scheduler.offer())["agent_id"] != task["agent_id"]
