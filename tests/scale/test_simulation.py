"""One simulated agent by itself, its record, and the schedule of its faults."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from local.simulation import main
from local.simulation.agent import Machine, SimulatedAgent
from local.simulation.faults import Kind, schedule
from local.simulation.record import Record, read
from shared.mesos.resources import Resources
from shared.wire import Launch, Report

FRAMEWORK = {"id": {"value": "f"}, "name": "gantry", "user": "root", "roles": ["r"]}
UID = "11111111-2222-3333-4444-555555555555"


class Bench:
    """An agent that is registered; what it sends is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = Record(path)
        machine = Machine("agent", 5051, Resources.parse("cpus:4;mem:1024"))
        self.agent = SimulatedAgent(machine, self.record, asyncio.get_running_loop().call_later)
        self.sent: list[dict[str, Any]] = []
        self.heard = asyncio.Event()
        self.tell({"type": "REGISTERED", "agent_id": "a-1"})

    def tell(self, message: dict[str, Any]) -> None:
        self.agent.handle(message, self._hear)

    def _hear(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self.heard.set()

    def launch(self, attempt: int = 1, *, launch_executor: bool = True) -> None:
        pod = {
            "metadata": {"uid": UID, "name": "p"},
            "spec": {"containers": [{"name": "main", "image": "i"}]},
        }
        executor = {"executor_id": {"value": "e"}, "framework_id": {"value": "f"}}
        task = {
            "name": "p",
            "task_id": {"value": f"{UID}.{attempt}"},
            "agent_id": {"value": "a-1"},
            "resources": [],
            "executor": executor,
            "data": Launch(pod, "agent", "token").encode(),
        }
        run = {"tasks": [task], "executor": executor, "launch_executor": launch_executor}
        self.tell({"type": "RUN", "framework": FRAMEWORK, "runs": [run]})

    def acknowledge(self) -> None:
        last = self.updates()[-1]
        message = {"type": "ACKNOWLEDGE", "framework_id": "f", "task_id": last["task_id"]["value"]}
        self.tell({**message, "uuid": last["uuid"]})

    def updates(self) -> list[dict[str, Any]]:
        return [one["status"] for one in self.sent if one["type"] == "UPDATE"]

    def states(self) -> list[str]:
        return [one["state"] for one in self.updates()]


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path / "record")
    with made.record:
        yield made
        made.agent.close()


def replay(bench: Bench) -> Any:
    bench.record.flush()
    return read(bench.path)


async def test_a_launch_runs_at_once_with_a_status_that_the_scheduler_can_read(bench: Bench) -> None:
    bench.launch()
    assert bench.states() == ["TASK_RUNNING"]
    report = Report.decode(bench.updates()[0]["data"])
    assert report.status["phase"] == "Running"
    assert report.status["containerStatuses"][0]["name"] == "main"
    assert {one["type"]: one["status"] for one in report.status["conditions"]} == {
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "True",
    }
    assert replay(bench).live == {UID: {f"{UID}.1"}}


async def test_a_kill_ends_it_and_the_last_acknowledgement_forgets_it(bench: Bench) -> None:
    bench.launch()
    bench.tell({"type": "KILL", "framework_id": "f", "task_id": f"{UID}.1"})
    assert bench.states() == ["TASK_RUNNING"], "one update in flight a task"
    bench.acknowledge()
    assert bench.states() == ["TASK_RUNNING", "TASK_KILLED"]
    bench.acknowledge()
    assert bench.agent.hello()["tasks"] == []
    assert replay(bench).live == {}


async def test_an_unknown_executor_or_task_is_answered_with_dropped(bench: Bench) -> None:
    bench.launch(launch_executor=False)
    bench.tell({"type": "KILL", "framework_id": "f", "task_id": "unknown"})
    assert bench.states() == ["TASK_DROPPED", "TASK_DROPPED"]
    assert replay(bench).started == 0


async def test_away_and_back_it_brings_its_tasks_and_what_is_not_acknowledged(bench: Bench) -> None:
    bench.launch()
    bench.agent.disconnected()
    hello = bench.agent.hello()
    assert (hello["type"], hello["info"]["id"]) == ("REREGISTER", {"value": "a-1"})
    assert [one["task_id"]["value"] for one in hello["tasks"]] == [f"{UID}.1"]
    assert [one["executor_id"]["value"] for one in hello["executors"]] == ["e"]
    unknown = {"framework": FRAMEWORK, "task_ids": ["lost.1"]}
    bench.tell({"type": "REREGISTERED", "agent_id": "a-1", "reconciliations": [unknown]})
    assert sorted(bench.states()) == ["TASK_DROPPED", "TASK_RUNNING", "TASK_RUNNING"]


async def test_reservations_are_kept_and_a_drain_kills(bench: Bench) -> None:
    bench.launch()
    bench.acknowledge()
    bench.tell({"type": "CHECKPOINT_RESOURCES", "resources": [{"name": "disk"}]})
    assert bench.agent.hello()["checkpointed"] == [{"name": "disk"}]
    bench.tell({"type": "DRAIN", "config": {}})
    assert bench.states() == ["TASK_RUNNING", "TASK_KILLED"]
    bench.agent.disconnected()
    bench.agent.die("agent lost")
    assert bench.agent.hello()["checkpointed"] == []


async def test_a_dead_machine_has_no_tasks_and_no_id(bench: Bench) -> None:
    bench.launch()
    bench.agent.disconnected()
    bench.agent.die("agent lost")
    assert bench.agent.hello()["type"] == "REGISTER"
    history = replay(bench)
    assert (history.live, dict(history.ended)) == ({}, {"agent lost": 1})


async def test_a_dead_executor_takes_its_tasks_with_it(bench: Bench) -> None:
    bench.launch()
    bench.acknowledge()
    bench.agent.lose_executors()
    assert "EXITED_EXECUTOR" in [one["type"] for one in bench.sent]
    last = bench.updates()[-1]
    assert (last["state"], last["reason"]) == ("TASK_FAILED", "REASON_EXECUTOR_TERMINATED")
    bench.launch(2, launch_executor=False)
    assert bench.states()[-1] == "TASK_DROPPED"


async def test_the_record_knows_a_pod_that_runs_twice(bench: Bench) -> None:
    bench.launch(1)
    bench.launch(2)
    assert replay(bench).doubled == [(f"{UID}.1", f"{UID}.2")]


async def test_late_updates_come_later(bench: Bench) -> None:
    bench.agent.lateness = 0.01
    bench.launch()
    assert bench.states() == []
    await asyncio.wait_for(bench.heard.wait(), 10)
    assert bench.states() == ["TASK_RUNNING"]


async def test_data_that_is_no_pod_still_runs(bench: Bench) -> None:
    executor = {"executor_id": {"value": "e"}}
    task = {
        "name": "p",
        "task_id": {"value": "t.1"},
        "agent_id": {"value": "a-1"},
        "resources": [],
        "executor": executor,
        "data": base64.b64encode(json.dumps(["no pod"]).encode()).decode(),
    }
    run = {"tasks": [task], "executor": executor, "launch_executor": True}
    bench.tell({"type": "RUN", "framework": FRAMEWORK, "runs": [run]})
    assert bench.states() == ["TASK_RUNNING"]
    assert "data" not in bench.updates()[0]


def test_a_seed_is_a_schedule() -> None:
    first = schedule(7, agents=50, rate=20, seconds=30)
    assert first == schedule(7, agents=50, rate=20, seconds=30) != schedule(8, agents=50, rate=20, seconds=30)
    assert {one.kind for one in first} == set(Kind)
    assert [one.at for one in first] == sorted(one.at for one in first)
    assert all(0 <= one.at < 30 and 0 <= one.agent < 50 for one in first)
    assert schedule(7, agents=50, rate=0, seconds=30) == []


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--agents", "0"], "not a number of agents"),
        (["--fault-rate", "-1"], "not a number of faults"),
        (["--resources", "cpus:x"], "cpus"),
        (["--fault-time", "soon"], "soon"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--master", "127.0.0.1:5050", *flags])
    assert exited.value.code == 2
    assert word in capsys.readouterr().err
