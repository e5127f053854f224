"""`gantry uninstall` of a framework with volumes, against real processes: nothing of it is left on any agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.processes.local import Local

pytestmark = [pytest.mark.xdist_group("uninstall")]

ROOT = Path(__file__).resolve().parents[3]
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


def claim(local: Local, *names: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    for name in names:
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
        local.call("POST", CLAIMS, body)


def use(local: Local, pod: str, name: str, **spec: Any) -> None:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]
    mounts = [{"name": "v", "mountPath": "/data"}]
    containers = [{"name": "main", "image": "localhost/x", "volumeMounts": mounts}]
    local.create(pod, containers=containers, volumes=volumes, **spec)


def on_disk(local: Local) -> list[str]:
    return sorted(path.name for path in local.directory.glob("agent-*/volumes/roles/*/*"))


def reserved(local: Local) -> list[Any]:
    """All that the master says is reserved, or a volume."""
    agents = local.post("/api/v1", {"type": "GET_AGENTS"})["get_agents"]["agents"]
    return [one for agent in agents for one in agent["total_resources"] if one.get("reservations")]


def start(local: Local, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gantry", "uninstall", "--master", f"127.0.0.1:{local.mesos}"]
    command += ["--store", "sqlite:state.db", "--yes", *flags]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=local.directory, env=environ
    )
    local.processes["uninstall"] = process
    return process


def run(local: Local, *flags: str) -> tuple[int, str]:
    """Its exit code, and the last line of what it complained of."""
    process = start(local, *flags)
    _, said = process.communicate(timeout=120)
    del local.processes["uninstall"]
    return process.returncode, said.strip().splitlines()[-1] if said.strip() else ""


@pytest.fixture
def used(local: Local) -> Local:
    """Three volumes on two agents, two of them in use; the scheduler has stopped."""
    local.start("agent-1", "agent-2")
    claim(local, "a", "b", "c")
    use(local, "one", "a", nodeName="agent-1")
    use(local, "two", "b", nodeName="agent-1")
    use(local, "three", "c", nodeName="agent-2")
    local.all_running(3)
    local.until("the claims", lambda: all(one["status"]["phase"] == "Bound" for one in local.items(CLAIMS)))
    local.call("DELETE", "/api/v1/namespaces/default/pods/two")
    local.until("a volume without a user", lambda: len(local.items()) == 2)
    assert len(on_disk(local)) == 3
    local.kill("scheduler", signal.SIGTERM)
    return local


def test_volumes_are_destroyed_and_their_disk_unreserved(used: Local) -> None:
    assert len(reserved(used)) == 3
    assert run(used)[0] == 0
    assert not reserved(used)
    used.until("the data to be gone", lambda: not on_disk(used))
    used.until("the executors to end", lambda: not used.running())
    assert not list(used.directory.glob("state.db*"))
    (ended,) = used.post("/api/v1", {"type": "GET_FRAMEWORKS"})["get_frameworks"]["completed_frameworks"]
    assert ended["framework_info"]["name"] == "gantry"


def test_killed_on_the_way_it_goes_on_the_next_time(used: Local) -> None:
    process = start(used)
    used.until("the first to go", lambda: len(reserved(used)) < 3 or process.poll() is not None)
    process.kill()
    process.communicate()
    if list(used.directory.glob("state.db*")):  # it may have been quicker than us
        assert run(used)[0] == 0
    assert not reserved(used)
    used.until("the data to be gone", lambda: not on_disk(used))


def test_what_is_on_an_agent_that_is_away_is_refused_or_abandoned(used: Local) -> None:
    used.kill("agent-2")
    used.until(
        "the master to notice",
        lambda: any(
            not one.get("active")
            for one in used.post("/api/v1", {"type": "GET_AGENTS"})["get_agents"]["agents"]
        ),
    )
    code, said = run(used)
    assert code == 1
    assert "on agent agent-2 (" in said
    assert "--abandon-volumes; the state is kept" in said
    assert "agent-1" not in said
    assert len(reserved(used)) == 3, "nothing was touched"
    assert len(used.running()) == 2
    assert list(used.directory.glob("state.db*"))
    assert run(used, "--abandon-volumes")[0] == 0
    (left,) = reserved(used)
    assert left["disk"]["persistence"]["id"] in on_disk(used)
    assert not list(used.directory.glob("state.db*"))


def test_volumes_of_a_framework_that_somebody_ended_are_given_back_too(used: Local) -> None:
    frameworks = used.post("/api/v1", {"type": "GET_FRAMEWORKS"})["get_frameworks"]["frameworks"]
    used.operate("TEARDOWN", framework_id=frameworks[0]["framework_info"]["id"])
    assert run(used)[0] == 0
    assert not reserved(used)
    used.until("the data to be gone", lambda: not on_disk(used))


def test_where_the_master_shows_no_agents_their_offers_are_the_proof(local: Local) -> None:
    """Operators' calls need a credential that nobody gave us."""
    credentials = local.directory / "credentials.json"
    credentials.write_text(json.dumps({"credentials": [{"principal": "operator", "secret": "x"}]}))
    local.start_master("--authenticate_http_readwrite", "--credentials", str(credentials))
    local.start_agent("agent-1")
    local.start_scheduler()
    claim(local, "a", "b")
    use(local, "one", "a")
    use(local, "two", "b")
    local.all_running(2)
    local.call("DELETE", "/api/v1/namespaces/default/pods/two")
    local.until("a volume without a user", lambda: len(local.items()) == 1)
    assert len(on_disk(local)) == 2
    local.kill("scheduler", signal.SIGTERM)
    assert run(local)[0] == 0
    local.until("the data to be gone", lambda: not on_disk(local))
    assert not list(local.directory.glob("state.db*"))
