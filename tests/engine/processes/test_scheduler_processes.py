"""The scheduler against the embedded Mesos, as real processes: what is killed comes back, and no pod runs twice.

The executor is `scripted_executor.py`: no image, no container, but the whole protocol.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.engine.processes.local import Local
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.system]

ROOT = Path(__file__).resolve().parents[3]
PODS = "/api/v1/namespaces/default/pods"


def test_a_pods_way_from_creation_to_deletion(local: Local) -> None:
    local.start("agent-1")
    local.create("a", "b")
    local.all_running(2)
    local.assert_each_runs_once()
    reasons = {
        (e["involvedObject"]["name"], e["reason"])
        for e in local.until("events", lambda: local.items("/api/v1/events"))
    }
    assert ("a", "Scheduled") in reasons
    local.call("DELETE", f"{PODS}/a")
    local.until("the deletion", lambda: set(local.phases()) == {"b"})
    local.assert_each_runs_once()
    (node,) = local.items("/api/v1/nodes")
    assert node["status"]["capacity"]["cpu"] == "8"
    (local.executors / "end.b").write_text("Succeeded")
    for pid in local.executor_pids():
        os.kill(pid, signal.SIGUSR1)
    local.until("the end of b", lambda: local.phases() == {"b": "Succeeded"})
    assert not local.running()


def test_a_killed_scheduler_goes_on_where_it_was(local: Local) -> None:
    local.start("agent-1", "agent-2")
    names = [f"p{number}" for number in range(24)]
    for number, name in enumerate(names):
        local.create(name)
        if number % 8 == 5:  # in the midst of binding, launching, saving
            local.kill("scheduler")
            local.start_scheduler()
    local.all_running(len(names))
    local.assert_each_runs_once()
    before = local.running()
    for name in names[:6]:
        local.call("DELETE", f"{PODS}/{name}")
    local.kill("scheduler")
    local.start_scheduler()
    local.until("the deletions", lambda: set(local.phases()) == set(names[6:]))
    local.assert_each_runs_once()
    assert local.running().items() <= before.items(), "nothing else was started again"


def test_a_stopped_scheduler_leaves_its_pods_running(local: Local) -> None:
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    before = local.running()
    assert local.kill("scheduler", signal.SIGTERM) == 0
    assert local.running() == before
    local.start_scheduler()
    local.all_running(1)
    assert local.running() == before


def test_pods_of_a_killed_executor_start_again(local: Local) -> None:
    local.start("agent-1")
    local.create("a", "b")
    local.create("once", restartPolicy="Never")
    local.all_running(3)
    first = local.running()
    (pid,) = local.executor_pids()
    os.kill(pid, signal.SIGKILL)
    wanted = {"a": "Running", "b": "Running", "once": "Failed"}
    local.until("the second start", lambda: len(local.running()) == 2 and local.phases() == wanted)
    assert not set(first.values().__iter__().__next__()) & {
        t for ids in local.running().values() for t in ids
    }


def test_a_master_may_go_and_come_back(local: Local) -> None:
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    before = local.running()
    local.kill("master")
    local.until("the loss to be seen", lambda: "mesos" in local.unready())
    local.start_master()
    local.until("the connection", lambda: local.get("/readyz") == "ok")
    local.create("b")
    local.all_running(2)
    local.assert_each_runs_once()
    assert before.items() <= local.running().items()


# ---- how it ends when it cannot go on


def test_a_framework_taken_over_or_removed_has_its_own_exit_code(local: Local) -> None:
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    framework = _post(local, "/api/v1", {"type": "GET_FRAMEWORKS"})["get_frameworks"]["frameworks"][0][
        "framework_info"
    ]
    connection = http.client.HTTPConnection("127.0.0.1", local.mesos, timeout=60)
    try:
        stream = _take_over(connection, framework)
        assert local.processes.pop("scheduler").wait(PATIENCE) == 5
        assert local.last_line() == f"{ENDED}: Framework failed over; its state is kept"
        teardown = {"type": "TEARDOWN", "framework_id": framework["id"]}
        _post(local, "/api/v1/scheduler", teardown, {"Mesos-Stream-Id": stream})
    finally:
        connection.close()
    process = local.spawn_scheduler()
    assert process.wait(PATIENCE) == 5
    assert local.last_line() == f"{ENDED}: Framework has been removed; its state is kept"


ENDED = "gantry: error: Mesos ended the framework"


def _take_over(connection: http.client.HTTPConnection, framework: dict[str, Any]) -> str:
    """Subscribes as another scheduler of the same framework; the stream id."""
    body = {"type": "SUBSCRIBE", "framework_id": framework["id"], "subscribe": {"framework_info": framework}}
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    connection.request("POST", "/api/v1/scheduler", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200
    return str(answer.headers["Mesos-Stream-Id"])


def _post(local: Local, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    plain = {"Content-Type": "application/json", "Accept": "application/json"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{local.mesos}{path}", data, {**plain, **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"{}")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--master", "nowhere"), 2, "--master 'nowhere': expected HOST:PORT"),
        (("--listen", "8080"), 2, "--listen '8080': expected HOST:PORT"),
        (("--executor-cpus", "0.001"), 2, "--executor-cpus: must be at least 0.01"),
        (("--token-file", "missing"), 2, "--token-file missing: cannot be read: No such file or directory"),
        (("--no-such-flag",), 2, "unrecognized arguments: --no-such-flag"),
        (("--mesos-secret-file", "x"), 2, "--mesos-principal and --mesos-secret-file belong together"),
        (("--failover-timeout", "0"), 2, "--failover-timeout: must be above 0"),
        (("--listen", "0.0.0.0:0"), 3, "give --token-file"),
        (("--store", "zk://localhost"), 2, "not a ZooKeeper URL"),
        (("--store", "mysql:x"), 4, "unknown kind 'mysql'"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, flags: tuple[str, ...], code: int, said: str) -> None:
    from scheduler.config import UsageError, parse

    argv = [
        "--master",
        "127.0.0.1:1",
        "--store",
        f"sqlite:{tmp_path}/s.db",
        "--listen",
        "127.0.0.1:0",
        "--executor-command",
        "true",
        *flags,
    ]
    if code == 2:
        with pytest.raises(UsageError, match=r".*") as refused:
            parse(argv)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
        return
    command = [sys.executable, "-m", "gantry", "scheduler", *argv]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code
    assert said in done.stderr.strip().splitlines()[-1]


def test_a_port_and_a_store_in_use(local: Local) -> None:
    local.start("agent-1")
    base = [sys.executable, "-m", "gantry", "scheduler", "--master", f"127.0.0.1:{local.mesos}"]
    base += ["--executor-command", "true"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*flags: str) -> tuple[int, str]:
        done = subprocess.run(
            [*base, *flags],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=local.directory,
            env=environ,
        )
        return done.returncode, done.stderr.strip().splitlines()[-1]

    code, line = run("--store", "sqlite:state.db", "--listen", "127.0.0.1:0")
    assert (code, line.startswith("gantry: error: ")) == (4, True)
    code, line = run("--store", "sqlite:other.db", "--listen", f"127.0.0.1:{local.api}")
    assert code == 3
    assert "the port is in use" in line


def test_when_all_dies_at_once_all_comes_back(local: Local) -> None:
    local.start("agent-1")
    local.create("a", "b")
    local.all_running(2)
    first = local.running()
    for name in ("scheduler", "agent-1", "master"):
        local.kill(name)
    for pid in local.executor_pids():
        os.kill(pid, signal.SIGKILL)
    local.start_master()
    local.start_agent("agent-1")
    local.start_scheduler()
    local.until("the second start", lambda: set(local.running()) == set(first))
    local.all_running(2)
    local.assert_each_runs_once()


def test_an_agent_may_restart_and_no_pod_notices(local: Local) -> None:
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    before = local.running()
    local.kill("agent-1")
    local.start_agent("agent-1")
    local.create("b")
    local.all_running(2)
    local.assert_each_runs_once()
    assert before.items() <= local.running().items()
    local.call("DELETE", f"{PODS}/a")
    local.until("the deletion", lambda: set(local.phases()) == {"b"})


# ---- beside other frameworks


def offered(local: Local) -> dict[str, dict[str, float]]:
    """What each framework holds offers of now, by its name, as the master has it."""
    url = f"http://127.0.0.1:{local.mesos}/master/state"
    with urllib.request.urlopen(url, timeout=60) as answer:
        frameworks = json.loads(answer.read())["frameworks"]
    return {one["name"]: one["offered_resources"] for one in frameworks}


def holds_nothing(local: Local) -> bool:
    return offered(local)["gantry"].get("cpus", 0) == 0


def test_another_framework_gets_all_it_wants_while_our_pods_wait(local: Local) -> None:
    """80 % of the cluster, in at most two rounds of offers, although a pod of ours waits for what no agent has."""
    local.start("agent-1", "agent-2")
    local.until("the idle framework to hold no offer", lambda: holds_nothing(local))
    resources = {"requests": {"cpu": "100"}}
    huge = [{"name": "main", "image": "localhost/x", "resources": resources}]
    local.create("huge", containers=huge)
    local.until("the pod to be unschedulable", lambda: "Insufficient cpu" in local.get(f"{PODS}/huge"))
    local.until("the waiting framework to hold no offer", lambda: holds_nothing(local))
    lines = local.greedy(12.8)
    running = {"event": "update", "state": "TASK_RUNNING"}
    local.until("its 16 tasks to run", lambda: lines().count(running) == 16)
    rounds = [one for one in lines() if one["event"] == "offers"]
    assert 0 in [one["left"] for one in rounds[:2]], rounds
    local.create("small")
    local.until(
        "ours to run in what is left", lambda: local.phases() == {"huge": "Pending", "small": "Running"}
    )


def test_roles_and_executors_as_annotations_say(local: Local) -> None:
    """Of a pod or of its namespace; what the framework does not have is refused."""

    def create(name: str, **notes: str) -> dict[str, Any]:
        meta = {"name": name, "annotations": {f"gantry.io/{key}": value for key, value in notes.items()}}
        spec = {"containers": [{"name": "main", "image": "localhost/x"}]}
        return dict(
            local.call("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        )

    local.start_master()
    local.start_agent("agent-1")
    local.start_scheduler("--roles", "batch")
    create("plain")
    create("own", executor="dedicated")
    namespace = json.loads(local.get("/api/v1/namespaces/default"))
    namespace["metadata"]["annotations"] = {"gantry.io/role": "batch"}
    local.call("PUT", "/api/v1/namespaces/default", namespace)
    assert create("given")["metadata"]["annotations"] == {"gantry.io/role": "batch"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        create("refused", role="spark")
    with refused.value as answer:
        assert answer.code == 422
        assert 'Unsupported value: \\"spark\\"' in answer.read().decode()
    local.all_running(3)
    assert len(local.executor_pids()) == 3, "one for each role, one for the pod that wants its own"
    with urllib.request.urlopen(f"http://127.0.0.1:{local.mesos}/master/state", timeout=60) as state:
        (framework,) = json.loads(state.read())["frameworks"]
    assert sorted(one["role"] for one in framework["tasks"]) == ["batch", "gantry", "gantry"]


def test_an_upgrade_restarts_no_pod(local: Local) -> None:
    """Other executor flags are another version, as another Gantry would be: new pods start on a new instance."""
    local.start("agent-1")
    local.create("a", "b")
    local.all_running(2)
    before, pids = local.running(), set(local.executor_pids())
    assert local.kill("scheduler", signal.SIGTERM) == 0
    local.start_scheduler("--executor-mem", "48")
    local.create("c")
    local.all_running(3)
    assert before.items() <= local.running().items()
    assert len(set(local.executor_pids()) - pids) == 1
    local.call("DELETE", f"{PODS}/a")
    local.until("the old instance to be told", lambda: len(local.items()) == 2)
    local.assert_each_runs_once()


def test_uninstalling_ends_all_pods(local: Local) -> None:
    local.start("agent-1")
    local.create("a")
    local.all_running(1)
    command = [sys.executable, "-m", "gantry", "uninstall", "--master", f"127.0.0.1:{local.mesos}"]
    command += ["--store", "sqlite:state.db", "--yes"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    def uninstall() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=local.directory,
            env=environ,
            check=False,
        )

    refused = uninstall()
    assert (refused.returncode, "in use by another scheduler" in refused.stderr) == (4, True)
    assert local.running()
    local.kill("scheduler", signal.SIGTERM)
    done = uninstall()
    assert done.returncode == 0, done.stderr
    local.until("the executor to end", lambda: not local.running())
    assert not list(local.directory.glob("state.db*"))
    local.start_scheduler()
    assert local.items() == []
