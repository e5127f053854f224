"""The shell: commits, and the loop around the core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from scheduler.framework import feed, records
from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.step import step
from scheduler.framework.engine import BACKLOG, Engine, Halted, load
from scheduler.framework.mesos import Mesos
from scheduler.framework.publishing import Publisher
from scheduler.framework.saving import Saver
from scheduler.store import Key, Store, StoreError, StoreFailed
from shared.wire import Report
from tests.engine.mesosdoor import (
    NOW,
    OVERHEAD,
    ROLE,
    TEMPLATE,
    Driver,
    Json,
    offer_json,
    task,
)
from tests.waiting import eventually

# ---- commits


def pod_object(number: int = 1, **meta: Any) -> Json:
    base = {
        "name": f"p{number}",
        "namespace": "n",
        "uid": f"u{number}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    container = {"name": "main", "image": "x", "resources": {"requests": {"cpu": "500m"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**base, **meta},
        "spec": {"containers": [container]},
        "status": {"phase": "Pending"},
    }


async def put(store: Store, obj: Json) -> None:
    await store.commit((Key("pods", "n", obj["metadata"]["name"]), lambda _: obj))


def binding(number: int) -> list[fx.Effect]:
    pod = ev.Pod(f"u{number}", "n", f"p{number}")
    return [fx.SavePod(pod, fx.Bound(f"u{number}.1", "node-a")), fx.SaveTask(task(number), binds=True)]


async def test_only_pods_that_can_be_bound_are(store: Store) -> None:
    await put(store, pod_object(1))
    await put(store, pod_object(2, deletionTimestamp="2026-01-01T00:00:00Z"))
    await put(store, pod_object(3, uid="another"))
    saver = Saver(store, {}, version="0", max_pods=110)
    effects = [one for number in (1, 2, 3, 4) for one in binding(number)]
    refused, pods = await saver.save(fx.in_order(effects), NOW)
    assert refused == {"u2.1", "u3.1", "u4.1"}
    assert pods["u1"].obj["spec"]["nodeName"] == "node-a"
    assert [entry.key.name for entry in store.list(records.TASKS)[0]] == ["u1.1"]


async def test_a_pod_of_the_same_name_is_not_removed(store: Store) -> None:
    await put(store, pod_object(1, uid="newer"))
    saver = Saver(store, {}, version="0", max_pods=110)
    await saver.save([fx.RemovePod(ev.Pod("u1", "n", "p1"))], NOW)
    assert store.get(Key("pods", "n", "p1")) is not None
    await saver.save([fx.RemovePod(ev.Pod("newer", "n", "p1"))], NOW)
    assert store.get(Key("pods", "n", "p1")) is None


async def test_finalizers_keep_the_object(store: Store) -> None:
    marks = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
    await put(store, pod_object(1, finalizers=["example.com/x"], **marks))
    await Saver(store, {}, version="0", max_pods=110).save([fx.RemovePod(ev.Pod("u1", "n", "p1"))], NOW)
    kept = store.get(Key("pods", "n", "p1"))
    assert kept is not None
    assert kept.obj["metadata"]["deletionGracePeriodSeconds"] == 0


# ---- the loop


class Failing:
    """A store that takes no commits any more."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, *changes: Any, patient: bool = False) -> Any:
        raise StoreFailed("disk full")


@contextlib.asynccontextmanager
async def running(store: Any, driver: Driver) -> AsyncIterator[tuple[Engine, Mesos, asyncio.Task[None]]]:
    state, versions, secret, infos = await load(store, Policy(executor_version="v", roles=(ROLE,)))
    mesos = Mesos(TEMPLATE, OVERHEAD, lambda event: engine.put(event))
    mesos.driver = driver  # type: ignore[assignment]
    mesos.executor_infos.update(infos)
    saver = Saver(store, mesos.executor_infos, version="0", max_pods=110)
    engine = Engine(store, state, mesos, saver, Publisher(store), secret=secret)
    tasks = [
        asyncio.create_task(engine.run()),
        asyncio.create_task(feed.follow_pods(store, versions.pods, engine.put, lambda: engine.state.pods)),
    ]
    try:
        yield engine, mesos, tasks[0]
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.wait(tasks)


async def test_a_pod_is_revived_for_bound_and_launched(store: Store) -> None:
    driver = Driver()
    async with running(store, driver) as (_, mesos, _):
        mesos.registered(driver, {"value": "F1"}, {})  # type: ignore[arg-type]
        await driver.wait("suppressOffers")
        await put(store, pod_object())
        await driver.wait("reviveOffers")
        mesos.resourceOffers(driver, [offer_json()])  # type: ignore[arg-type]
        ids, operations, _ = await driver.wait("acceptOffers")
        assert ids == ["O1"]
        (info,) = operations[0]["launch"]["task_infos"]
        assert info["task_id"] == {"value": "u1.1"}
        saved = store.get(records.task_key("u1.1"))
        assert saved is not None
        assert saved.obj["state"] == "STAGED"
        update = {
            "task_id": info["task_id"],
            "agent_id": {"value": "S0"},
            "uuid": "u",
            "source": "SOURCE_EXECUTOR",
        }
        told = Report({"phase": "Running"}, "10.0.0.1:4000").encode()
        mesos.statusUpdate(driver, {**update, "state": "TASK_RUNNING", "data": told})  # type: ignore[arg-type]
        await driver.wait("acknowledgeStatusUpdate")
        pod = store.get(Key("pods", "n", "p1"))
        assert pod is not None
        assert pod.obj["status"]["phase"] == "Running"
    again = Driver()
    async with running(store, again) as (engine, mesos, _):
        where = engine.where_is("u1")
        assert where is not None
        assert where[0] == "10.0.0.1:4000"
        mesos.reregistered(type("D", (), {"framework_id": "F1"})(), {})
        assert await again.wait("reconcileTasks") == ([{"task_id": "u1.1", "agent_id": "S0"}],)


async def test_nothing_is_said_when_it_cannot_be_saved(store: Store) -> None:
    driver = Driver()
    async with running(store, driver) as (engine, mesos, _):
        mesos.registered(driver, {"value": "F1"}, {})  # type: ignore[arg-type]
        await driver.wait("suppressOffers")
        engine.stop()
    await put(store, pod_object())
    silent = Driver()
    async with running(Failing(store), silent) as (_, mesos, deciding):
        mesos.reregistered(type("D", (), {"framework_id": "F1"})(), {})
        mesos.resourceOffers(silent, [offer_json()])  # type: ignore[arg-type]
        await asyncio.wait([deciding], timeout=60)
        assert isinstance(deciding.exception(), StoreFailed)
        assert not silent.of("acceptOffers")


class Slow(Failing):
    """A store whose commits of launches end when they are let."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.saving, self.let = asyncio.Event(), asyncio.Event()

    async def commit(self, *changes: Any, patient: bool = False) -> Any:
        if any(key.resource == records.TASKS for key, _ in changes):
            self.saving.set()
            await self.let.wait()
        return await self._store.commit(*changes, patient=patient)


async def test_nothing_is_decided_while_it_is_uncertain_who_leads(store: Store) -> None:
    driver = Driver()
    async with running(store, driver) as (engine, mesos, deciding):
        mesos.registered(driver, {"value": "F1"}, {})  # type: ignore[arg-type]
        await driver.wait("suppressOffers")
        await put(store, pod_object())
        await driver.wait("reviveOffers")
        engine.pause(True)
        mesos.resourceOffers(driver, [offer_json()])  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert not driver.of("acceptOffers")
        assert store.get(records.task_key("u1.1")) is None
        engine.pause(False)
        await driver.wait("acceptOffers")
        engine.pause(True)
        engine.stop()  # an end in order needs no certainty
        await asyncio.wait([deciding], timeout=60)
        assert deciding.done()


async def test_what_is_saved_when_it_becomes_uncertain_is_not_said_yet(store: Store) -> None:
    driver, slow = Driver(), Slow(store)
    async with running(slow, driver) as (engine, mesos, _):
        mesos.registered(driver, {"value": "F1"}, {})  # type: ignore[arg-type]
        await driver.wait("suppressOffers")
        await put(store, pod_object())
        await driver.wait("reviveOffers")
        mesos.resourceOffers(driver, [offer_json()])  # type: ignore[arg-type]
        await slow.saving.wait()
        engine.pause(True)
        slow.let.set()
        await eventually(lambda: store.get(records.task_key("u1.1")))
        await asyncio.sleep(0.05)
        assert not driver.of("acceptOffers")
        engine.pause(False)
        await driver.wait("acceptOffers")


async def test_a_flood_of_events_is_held_back_until_the_engine_has_caught_up(store: Store) -> None:
    driver = Driver()
    async with running(store, driver) as (engine, mesos, _):
        mesos.registered(driver, {"value": "F1"}, {})  # type: ignore[arg-type]
        for _ in range(BACKLOG):
            engine.put(ev.Tick())
        assert driver.of("pauseEvents") == [()]
        await driver.wait("resumeEvents")
        assert len(driver.of("pauseEvents")) == 1


async def test_an_error_of_the_master_halts(store: Store) -> None:
    driver = Driver()
    async with running(store, driver) as (_, mesos, deciding):
        mesos.error(driver, "Framework has been removed")  # type: ignore[arg-type]
        await asyncio.wait([deciding], timeout=60)
        assert isinstance(deciding.exception(), Halted)


async def test_tasks_without_a_framework_id_stop_the_start(store: Store) -> None:
    await store.commit((records.task_key("u1.1"), lambda _: records.task_object(task())))
    with pytest.raises(StoreError, match="no framework id"):
        await load(store, Policy())


async def test_events_are_counted_in_one_object(store: Store) -> None:
    publisher = Publisher(store, clock=lambda: NOW)
    event = fx.Publish(
        "u1", "n", "p1", "Warning", "FailedScheduling", "0/1 nodes are available: 1 Too many pods."
    )
    for one in (event, event, replace(event, message="other"), event):
        publisher.put(one)
    await publisher.flush()
    assert sorted(entry.obj["count"] for entry in store.list("events", "n")[0]) == [1, 3]


async def test_a_damaged_pod_is_not_killed(store: Store) -> None:
    """Its task is known, its object cannot be read: nobody asked for its end."""
    await store.commit((records.FRAMEWORK, lambda _: {"frameworkId": "F"}))
    for uid, name in (("u1", "damaged"), ("u2", "deleted")):
        one = replace(task(), id=f"{uid}.1", uid=uid, namespace="n", name=name, state=TaskState.RUNNING)
        await store.commit((records.task_key(one.id), lambda _, one=one: records.task_object(one)))
    store._quarantined[Key("pods", "n", "damaged")] = "its checksum is wrong"  # type: ignore[attr-defined]
    state, *_ = await load(store, Policy())
    step(state, [ev.Loaded()], NOW, "r")
    assert state.tasks["u1.1"].kill is None
    assert state.tasks["u2.1"].kill is not None
