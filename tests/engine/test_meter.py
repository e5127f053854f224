"""What is counted of the engine's doings, and shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from scheduler.framework.core import effects as fx
from scheduler.framework.core.entities import Executor, Task
from scheduler.framework.core.vectors import Vector
from scheduler.framework.mesos import ExecutorTemplate, Mesos, Payload
from scheduler.framework.meter import Histogram
from scheduler.mesosmetrics import MesosCollector
from shared.mesos.scheduler_driver import SchedulerDriver

FRAMEWORK = {"user": "root", "name": "gantry", "roles": ["r"], "failover_timeout": 60.0}


def shown(mesos: Mesos | None) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(MesosCollector(lambda: mesos))
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


class Silent(SchedulerDriver):
    """Subscribed, and what it sends goes nowhere."""

    def __init__(self, mesos: Mesos) -> None:
        super().__init__(mesos, FRAMEWORK, "127.0.0.1:1")
        self._registered = True
        self.framework_id = "F"
        self._subscription = SimpleNamespace(send=lambda body: None, closed=False)  # type: ignore[assignment]


@pytest.fixture
async def mesos() -> Mesos:
    made = Mesos(ExecutorTemplate({"value": "x"}), Vector(cpus=100, mem=64_000), lambda event: None)
    made.driver = Silent(made)
    return made


def offer(name: str) -> dict[str, Any]:
    facts = {"type": "SCALAR", "allocation_info": {"role": "r"}}
    amounts = {"cpus": 4.0, "mem": 1024.0}
    resources = [{"name": kind, "scalar": {"value": value}, **facts} for kind, value in amounts.items()]
    ids = {"id": {"value": name}, "agent_id": {"value": "A1"}, "allocation_info": {"role": "r"}}
    return {**ids, "hostname": "h", "resources": resources}


async def test_calls_offers_and_launches_are_counted(mesos: Mesos) -> None:
    driver = mesos.driver
    assert driver is not None
    mesos.resourceOffers(driver, [offer(f"O{number}") for number in range(6)])
    mesos.offerRescinded(driver, {"value": "O5"})
    mesos.offerRescinded(driver, {"value": "unknown"})
    task = Task("u.1", "u", "n", "p", 1, "A1", "h", "e")
    launch = fx.Launch(task, Executor("e", "A1", "v", "r"), Vector(cpus=100, mem=32_000), (), waited=0.3)
    accept = fx.Accept("A1", ("O0", "O1"), (launch,), 0.0, "r")
    mesos.prepare([accept])
    for effect in (accept, fx.Decline(("O2",), 60.0), fx.Revive(("r",)), fx.Reconcile(())):
        assert mesos.perform(effect, {"u.1": Payload({"spec": {}}, "token")}) == []
    mesos.disconnected(driver)
    found = shown(mesos)
    outcomes = ("received", "accepted", "declined", "rescinded", "void")
    assert [found[f'gantry_offers_total{{outcome="{one}"}}'] for one in outcomes] == [6, 2, 1, 1, 2]
    calls = ("accept", "decline", "revive", "reconcile")
    assert [found[f'gantry_mesos_calls_total{{type="{one}"}}'] for one in calls] == [1, 1, 1, 1]
    assert found["gantry_launches_total"] == 1
    assert found['gantry_placement_seconds_bucket{le="0.25"}'] == 0
    assert found['gantry_placement_seconds_bucket{le="0.5"}'] == 1
    assert found["gantry_placement_seconds_sum"] == 0.3
    assert found['gantry_mesos_connection_failures_total{reason="credentials"}'] == 0


def test_who_does_not_lead_shows_nothing() -> None:
    assert shown(None) == {}


def test_a_histogram_counts_up_to_each_bound() -> None:
    one = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 9.0):
        one.observe(seconds)
    assert one.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    with one.timed():
        pass
    assert one.buckets()[-1] == ("+Inf", 5.0)
