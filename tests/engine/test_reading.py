"""JSON of Mesos, in the core's words."""

from __future__ import annotations

import pytest

from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import AgentInfo
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.vectors import Vector
from scheduler.framework.reading import agent_from_json, offer_from_json, report_from_json
from shared.wire import PodEvent, Report
from tests.engine.mesosdoor import (
    ROLE,
    Json,
    offer_json,
    scalar,
)


def test_an_offer() -> None:
    offer = offer_from_json(offer_json(executors=("gantry.a.1",)))
    assert (offer.id, offer.agent_id, offer.hostname, offer.port, offer.ip) == (
        "O1",
        "S0",
        "node-a",
        5051,
        "10.0.0.1",
    )
    assert offer.amounts == Vector(4000, 8_192_000)
    assert offer.ports == ((31000, 32000),)
    assert offer.attributes == (("rack", "r1"),)
    assert offer.executors == ("gantry.a.1",)


def test_an_agent_of_the_masters_list() -> None:
    agent = {
        "agent_info": {"hostname": "node-a", "port": 5051, "id": {"value": "S0"}, "attributes": []},
        "active": True,
        "version": "1.12.0",
        "pid": "slave(1)@10.0.0.1:5051",
        "total_resources": [scalar("cpus", 4.0, role="*"), scalar("mem", 8192.0, role="*")],
    }
    info = agent_from_json(agent, [ROLE])
    assert info == AgentInfo(
        "S0", "node-a", 5051, total=Vector(4000, 8_192_000), version="1.12.0", ip="10.0.0.1"
    )


def test_a_status_update() -> None:
    told = Report({"phase": "Running"}, "10.0.0.1:4000", (PodEvent("Normal", "Started", "m", "main", "t"),))
    report = report_from_json(
        {
            "task_id": {"value": "u.1"},
            "state": "TASK_RUNNING",
            "source": "SOURCE_EXECUTOR",
            "agent_id": {"value": "S0"},
            "executor_id": {"value": "e"},
            "uuid": "XrQa6UWQQGGL3c9bEldfdA==",
            "data": told.encode(),
        }
    )
    assert report.state is TaskState.RUNNING
    assert report.pod_status == {"phase": "Running"}
    assert report.server == "10.0.0.1:4000"
    assert report.events == (ev.PodEvent("Normal", "Started", "m", "main"),)


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (
            {"state": "TASK_GONE_BY_OPERATOR", "reason": "REASON_RECONCILIATION"},
            TaskState.GONE,
            "RECONCILIATION",
        ),
        ({"state": "TASK_LOST", "reason": "REASON_SLAVE_REMOVED"}, TaskState.LOST, "AGENT_REMOVED"),
        ({"state": "TASK_INVENTED"}, TaskState.ABSENT, ""),
        (
            {"state": "TASK_RUNNING", "source": "SOURCE_EXECUTOR", "data": "bm90IGpzb24="},
            TaskState.RUNNING,
            "",
        ),
    ],
)
def test_status_updates_of_all_ages(status: Json, state: TaskState, reason: str) -> None:
    report = report_from_json({"task_id": {"value": "u.1"}, **status})
    assert (report.state, report.reason, report.pod_status) == (state, reason, None)
