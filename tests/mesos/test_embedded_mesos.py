"""Our two drivers on the embedded Mesos, whose master and agent are killed under them."""

import asyncio
import shlex
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from shared.mesos.operator import get_agents
from shared.mesos.resources import Resources
from shared.mesos.scheduler_driver import SchedulerDriver

EXECUTOR = Path(__file__).parent / "own" / "executor.py"
FRAMEWORK = {
    "user": "root",
    "name": "gantry",
    "roles": ["gantry"],
    "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}, {"type": "RESERVATION_REFINEMENT"}],
    "checkpoint": True,
    "failover_timeout": 60.0,
}
LITTLE = Resources.scalars(cpus=100, mem=32_000)

pytestmark = pytest.mark.system


class Cluster:
    """A registered driver and one running task."""

    def __init__(self, mesos: Any, scheduler: Any) -> None:
        self.mesos = mesos
        self.scheduler = scheduler
        self.waiting: list[tuple[Any, ...]] = []

    async def start(self) -> None:
        self.master, self.address = self.mesos.master()
        self.agent, self.agent_address = self.mesos.agent(self.address)
        self.driver = SchedulerDriver(self.scheduler, FRAMEWORK, self.address)
        await self.driver.start()
        await self.callback("registered")
        ((offer, *_),) = await self.callback("resourceOffers")
        self.agent_id = offer["agent_id"]["value"]
        assert Resources.from_json(offer["resources"]).contains((LITTLE + LITTLE).allocate("gantry"))
        executor = {
            "type": "CUSTOM",
            "executor_id": {"value": "own.1"},
            "command": {"value": shlex.join([sys.executable, str(EXECUTOR)])},
            "resources": LITTLE.to_json(),
        }
        task = {
            "name": "t",
            "task_id": {"value": "t.1"},
            "agent_id": offer["agent_id"],
            "resources": LITTLE.to_json(),
            "executor": executor,
        }
        self.driver.launchTasks(offer["id"], [task], {"refuse_seconds": 0})
        await self.status("TASK_RUNNING")

    async def callback(self, name: str) -> tuple[Any, ...]:
        """The arguments of the next callback of that name; others are passed over."""
        try:
            async with asyncio.timeout(90):
                while True:
                    got = await self.scheduler.seen.get()
                    if got[0] == name:
                        return tuple(got[1:])
        except TimeoutError:
            pytest.fail(f"no {name}\n{self.mesos.logs()}")

    async def status(self, state: str, **fields: str) -> dict[str, Any]:
        """The next status update of that state with these fields; all are acknowledged. Others are passed over:
        what was not acknowledged in time comes again."""
        while True:
            (status,) = await self.callback("statusUpdate")
            self.driver.acknowledgeStatusUpdate(status)
            if status["state"] == state and fields.items() <= status.items():
                return dict(status)

    def finish(self) -> None:
        self.driver.sendFrameworkMessage("own.1", self.agent_id, b64encode(b"t.1").decode())


@pytest.fixture
async def cluster(mesos: Any, scheduler: Any) -> Any:
    one = Cluster(mesos, scheduler)
    await one.start()
    yield one
    await one.driver.stop()


async def test_a_task_runs_and_is_killed(cluster: Any) -> None:
    (agent,) = await get_agents(cluster.address)
    assert agent["agent_info"]["id"]["value"] == cluster.agent_id
    policy = {"grace_period": {"nanoseconds": 5000000000}}
    cluster.driver.killTask("t.1", cluster.agent_id, policy)
    assert "5000000000" in (await cluster.status("TASK_KILLED"))["message"]
    cluster.driver.reconcileTasks([{"task_id": "t.1", "agent_id": cluster.agent_id}])
    await cluster.status("TASK_GONE")


async def test_a_master_that_is_killed_and_comes_back(cluster: Any) -> None:
    cluster.mesos.kill(cluster.master)
    await cluster.callback("disconnected")
    cluster.mesos.master(port=cluster.address.rpartition(":")[2])
    await cluster.callback("reregistered")
    # The agent re-registers a moment later; until then the answer may be TASK_UNKNOWN or nothing.
    await cluster.callback("resourceOffers")
    cluster.driver.reconcileTasks([{"task_id": "t.1", "agent_id": cluster.agent_id}])
    await cluster.status("TASK_RUNNING", reason="REASON_RECONCILIATION")
    cluster.finish()
    await cluster.status("TASK_FINISHED")


async def test_an_agent_that_is_killed_and_comes_back(cluster: Any) -> None:
    """The executor lives on, and what it had to say meanwhile arrives."""
    cluster.mesos.kill(cluster.agent)
    cluster.mesos.agent(cluster.address, port=cluster.agent_address.rpartition(":")[2])
    await cluster.status("TASK_RUNNING", message="agent was away")
    cluster.finish()
    await cluster.status("TASK_FINISHED")
