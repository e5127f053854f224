"""Beside a stock pymesos framework, with all that may go wrong in sharing: several roles, quota, revocable resources.

While pods of ours wait for what never fits, the other one gets all it wants in two rounds of offers; idle or waiting,
we hold no offer."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.engine.processes.local import Local

pytestmark = [pytest.mark.xdist_group("secured")]

ROOT = Path(__file__).resolve().parents[3]
PODS = "/api/v1/namespaces/default/pods"
SPARE = ("--resource_estimator", "cpus:4;mem:2048")


def holds_nothing(local: Local) -> bool:
    """Neither of usual resources nor of revocable ones, in no role."""
    url = f"http://127.0.0.1:{local.mesos}/master/frameworks"
    with urllib.request.urlopen(url, timeout=60) as answer:
        frameworks = json.loads(answer.read())["frameworks"]
    return not next(one for one in frameworks if one["name"] == "gantry")["offers"]


def create(local: Local, name: str, cpu: str = "", **notes: str) -> None:
    meta = {"name": name, "annotations": {f"gantry.io/{key}": value for key, value in notes.items()}}
    container: dict[str, Any] = {"name": "main", "image": "localhost/x"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
    local.call("POST", PODS, body)


@pytest.fixture
def shared(local: Local) -> Local:
    """Two agents with revocable resources; two roles of ours, one of them with a limit."""
    local.start_master()
    for name in ("agent-1", "agent-2"):
        local.start_agent(name, *SPARE)
    local.start_scheduler("--roles", "batch", "--revocable")
    local.until("the nodes", lambda: len(local.items("/api/v1/nodes")) == 2)
    limits = {"cpus": {"value": 2.0}, "mem": {"value": 1024.0}}
    local.operate("UPDATE_QUOTA", quota_configs=[{"role": "batch", "limits": limits}])
    return local


def test_the_other_gets_all_it_wants_whatever_we_wait_for(shared: Local) -> None:
    local = shared
    local.until("the idle framework to hold no offer", lambda: holds_nothing(local))
    create(local, "huge", "100")
    create(local, "limited", "3", role="batch")
    create(local, "spare", revocable="true")
    local.until("the one that fits", lambda: local.phases().get("spare") == "Running")
    for name, reason in (("huge", "Insufficient cpu"), ("limited", "quota limit of cpus 2, mem 1024")):
        local.until(
            f"{name} to say why", lambda name=name, reason=reason: reason in local.get(f"{PODS}/{name}")
        )
    local.until("the waiting framework to hold no offer", lambda: holds_nothing(local))
    lines = local.greedy(12.8)
    running = {"event": "update", "state": "TASK_RUNNING"}
    local.until("its 16 tasks to run", lambda: lines().count(running) == 16)
    rounds = [one for one in lines() if one["event"] == "offers"]
    assert 0 in [one["left"] for one in rounds[:2]], rounds
    create(local, "small", "100m", role="batch")
    local.until("ours to run in what is left", lambda: local.phases().get("small") == "Running")
    local.until("the waiting framework to hold no offer", lambda: holds_nothing(local))
    for name in ("huge", "limited"):
        assert local.phases()[name] == "Pending"
        local.call("DELETE", f"{PODS}/{name}")
    local.until("the idle framework to hold no offer", lambda: holds_nothing(local))
    local.assert_each_runs_once()
