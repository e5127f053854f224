"""Offers as Mesos sends them, and `Mesos` on a driver that writes down what it is asked to send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import Task
from scheduler.framework.core.vectors import Vector
from scheduler.framework.mesos import ExecutorTemplate, Mesos
from shared.mesos.scheduler_driver import NotConnected

Json = dict[str, Any]
ROLE = "gantry"
NOW = 1_800_000_000.0


def scalar(name: str, value: float, **more: Any) -> Json:
    return {
        "name": name,
        "type": "SCALAR",
        "scalar": {"value": value},
        "allocation_info": {"role": ROLE},
        **more,
    }


def ports(begin: int, end: int) -> Json:
    ranges = {"range": [{"begin": begin, "end": end}]}
    return {"name": "ports", "type": "RANGES", "ranges": ranges, "allocation_info": {"role": ROLE}}


def offer_json(offer_id: str = "O1", *resources: Json, executors: tuple[str, ...] = ()) -> Json:
    """As Mesos 1.12 sent it, shortened."""
    return {
        "id": {"value": offer_id},
        "framework_id": {"value": "F1"},
        "agent_id": {"value": "S0"},
        "hostname": "node-a",
        "url": {
            "scheme": "http",
            "address": {"hostname": "node-a", "ip": "10.0.0.1", "port": 5051},
            "path": "/",
        },
        "resources": list(resources) or [ports(31000, 32000), scalar("cpus", 4.0), scalar("mem", 8192.0)],
        "attributes": [{"name": "rack", "type": "TEXT", "text": {"value": "r1"}}],
        **({"executor_ids": [{"value": one} for one in executors]} if executors else {}),
        "allocation_info": {"role": ROLE},
    }


class Driver:
    """Writes down what it is asked to send."""

    framework_id = "F1"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.connected = True
        self.said = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if not self.connected:
                raise NotConnected(f"{name} was not sent")
            self.calls.append((name, *args))
            self.said.set()

        return call

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    async def wait(self, name: str) -> tuple[Any, ...]:
        async with asyncio.timeout(60):
            while not self.of(name):
                self.said.clear()
                await self.said.wait()
        return self.of(name)[0]


OVERHEAD = Vector(100, 64_000)
TEMPLATE = ExecutorTemplate({"shell": True, "value": "run"})


def task(number: int = 1, **more: Any) -> Task:
    facts: Json = {"agent_id": "S0", "node": "node-a", "executor_id": "gantry.v.1", **more}
    return Task(id=f"u{number}.1", uid=f"u{number}", namespace="n", name=f"p{number}", attempt=1, **facts)


def door() -> tuple[Mesos, Driver, list[ev.Event]]:
    heard: list[ev.Event] = []
    driver = Driver()
    mesos = Mesos(TEMPLATE, OVERHEAD, heard.append)
    mesos.driver = driver  # type: ignore[assignment]
    return mesos, driver, heard
