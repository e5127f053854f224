"""The shell: JSON of Mesos to the core's words and back, commits, and the loop around the core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.framework import feed, records
from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.claims import Use, Volume
from scheduler.framework.core.entities import AgentInfo, Executor, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.step import step
from scheduler.framework.core.vectors import Vector
from scheduler.framework.core.verdict import Fate, judge
from scheduler.framework.engine import BACKLOG, Engine, Halted, load
from scheduler.framework.mesos import ExecutorTemplate, Mesos, Payload
from scheduler.framework.publishing import Publisher
from scheduler.framework.reading import agent_from_json, offer_from_json, report_from_json
from scheduler.framework.saving import Saver
from scheduler.store import Key, Store, StoreError, StoreFailed, open_store
from shared.mesos.scheduler_driver import NotConnected
from shared.wire import Launch, PodEvent, Report, Supply, Wanted, digest_of

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


# ---- JSON to the core's words


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


# ---- calls


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


def accept(*numbers: int, offers: tuple[str, ...] = ("O1",)) -> fx.Accept:
    executor = Executor("gantry.v.1", "S0", "v")
    launches = tuple(fx.Launch(task(one), executor, Vector(500, 32_000), (31000 + one,)) for one in numbers)
    return fx.Accept("S0", offers, launches, 0.0, ROLE)


def payloads(*numbers: int) -> dict[str, Payload]:
    pod = {"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 7}}
    return {f"u{one}.1": Payload(pod, "secret") for one in numbers}


def test_an_accept_names_the_resources_of_its_offers() -> None:
    mesos, driver, _ = door()
    mesos.resourceOffers(driver, [offer_json("O1"), offer_json("O2", scalar("cpus", 1.0))])  # type: ignore[arg-type]
    call = accept(1, 2, offers=("O1", "O2"))
    mesos.prepare([call])
    assert mesos.perform(call, payloads(1, 2)) == []
    ((ids, operations, filters),) = driver.of("acceptOffers")
    assert (ids, filters) == (["O1", "O2"], {"refuse_seconds": 0.0})
    first, second = operations[0]["launch"]["task_infos"]
    assert first["executor"] == second["executor"] == mesos.executor_infos["gantry.v.1"]
    assert first["executor"]["resources"] == [scalar("cpus", 0.1), scalar("mem", 64.0)]
    assert first["resources"] == [scalar("cpus", 0.5), scalar("mem", 32.0), ports(31001, 31001)]
    assert first["kill_policy"] == {"grace_period": {"nanoseconds": 7_000_000_000}}
    assert first["labels"]["labels"][0] == {"key": "pod", "value": "p1"}
    launch = Launch.decode(first["data"])
    assert (launch.node_name, launch.node_token) == ("node-a", "secret")


def test_an_executor_hears_of_the_objects_of_its_own_pods() -> None:
    mesos, driver, _ = door()
    objects = {"secrets": {"s": {"data": {"k": "eA=="}}}}
    mesos.objects_of = lambda task, executor: objects if (task, executor) == ("u1.1", "E1") else None
    sender = (driver, {"value": "E1"}, {"value": "S0"})
    mesos.frameworkMessage(*sender, Wanted("u1.1", digest_of({})).encode())  # type: ignore[arg-type]
    mesos.frameworkMessage(*sender, Wanted("u1.1", digest_of(objects)).encode())  # type: ignore[arg-type]
    mesos.frameworkMessage(*sender, Wanted("u2.1", "").encode())  # type: ignore[arg-type]
    mesos.frameworkMessage(driver, {"value": "E2"}, {"value": "S0"}, Wanted("u1.1", "").encode())  # type: ignore[arg-type]
    mesos.frameworkMessage(*sender, "nonsense")  # type: ignore[arg-type]
    [(executor, agent, message)] = driver.of("sendFrameworkMessage")
    assert (executor, agent, Supply.decode(message)) == ("E1", "S0", Supply("u1.1", objects))


def test_two_new_executors_of_one_accept_share_nothing() -> None:
    mesos, driver, _ = door()
    reserved = scalar("cpus", 0.15, reservations=[{"type": "STATIC", "role": ROLE}])
    mesos.resourceOffers(driver, [offer_json("O1", reserved, scalar("cpus", 1.15), scalar("mem", 192.0))])  # type: ignore[arg-type]
    shared, own = Executor("gantry.v.1", "S0", "v", ROLE), Executor("gantry.v.2", "S0", "v", ROLE, "u2")
    amounts = Vector(550, 32_000)
    launches = (fx.Launch(task(1), shared, amounts, ()), fx.Launch(task(2), own, amounts, ()))
    call = fx.Accept("S0", ("O1",), launches, 0.0, ROLE)
    mesos.prepare([call])
    mesos.perform(call, payloads(1, 2))
    ((_, operations, _),) = driver.of("acceptOffers")
    infos = operations[0]["launch"]["task_infos"]
    assert [one["executor"]["executor_id"]["value"] for one in infos] == ["gantry.v.1", "gantry.v.2"]
    used = [r for one in infos for r in (*one["resources"], *one["executor"]["resources"])]
    cpus = dict.fromkeys((True, False), 0)
    for one in used:
        if one["name"] == "cpus":
            cpus["reservations" in one] += round(one["scalar"]["value"] * 1000)
    assert cpus == {True: 150, False: 1150}, "all that was offered, and not a thousandth twice"


def test_a_revocable_launch_is_revocable_all_over() -> None:
    """Task and executor: the master refuses them together otherwise ("mix revocable and non-revocable")."""
    mesos, driver, _ = door()
    spare = scalar("cpus", 1.0, revocable={}), scalar("mem", 128.0, revocable={})
    offers = [offer_json("O1"), offer_json("O2", *spare)]
    mesos.resourceOffers(driver, offers)  # type: ignore[arg-type]
    assert offer_from_json(offers[1]).amounts == Vector()
    assert offer_from_json(offers[1]).spare == Vector(1000, 128_000)
    executor = Executor("gantry.v.1", "S0", "v", ROLE, revocable=True)
    launches = (fx.Launch(task(1), executor, Vector(500, 32_000), (31001,)),)
    call = fx.Accept("S0", ("O1", "O2"), launches, 0.0, ROLE)
    mesos.prepare([call])
    mesos.perform(call, payloads(1))
    ((_, operations, _),) = driver.of("acceptOffers")
    (info,) = operations[0]["launch"]["task_infos"]
    assert info["executor"]["resources"] == [
        scalar("cpus", 0.1, revocable={}),
        scalar("mem", 64.0, revocable={}),
    ]
    assert info["resources"] == [
        scalar("cpus", 0.5, revocable={}),
        scalar("mem", 32.0, revocable={}),
        ports(31001, 31001),
    ]


def test_a_launch_that_was_not_saved_is_not_sent() -> None:
    mesos, driver, _ = door()
    mesos.resourceOffers(driver, [offer_json()])  # type: ignore[arg-type]
    call = accept(1, 2)
    mesos.prepare([call])
    mesos.perform(call, payloads(2))
    ((_, operations, _),) = driver.of("acceptOffers")
    assert [one["task_id"]["value"] for one in operations[0]["launch"]["task_infos"]] == ["u2.1"]


def test_an_offer_rescinded_meanwhile_voids_the_launch_only() -> None:
    mesos, driver, _ = door()
    mesos.resourceOffers(driver, [offer_json("O1"), offer_json("O2")])  # type: ignore[arg-type]
    mesos.offerRescinded(driver, {"value": "O1"})  # type: ignore[arg-type]
    call = accept(1, offers=("O1", "O2"))
    mesos.prepare([call])
    (told,) = mesos.perform(call, payloads(1))
    assert isinstance(told, ev.TaskReported)
    assert (told.task_id, told.state, told.reason) == ("u1.1", TaskState.DROPPED, "INVALID_OFFERS")
    assert not driver.of("acceptOffers")
    assert driver.of("declineOffer") == [([{"value": "O2"}], {"refuse_seconds": 0.0})]


@pytest.mark.parametrize("what", ["pod", "executor", "port", "volume"])
def test_offers_that_lack_what_was_reckoned_with_end_nothing(what: str) -> None:
    """That would be a bug; it costs the launch, shows in the metrics, and the scheduler goes on."""
    mesos, driver, _ = door()
    cpus = 0.05 if what == "executor" else 0.3
    resources = [scalar("cpus", cpus), scalar("mem", 8192.0)]
    mesos.resourceOffers(driver, [offer_json("O1", *resources)])  # type: ignore[arg-type]
    executor = Executor("gantry.v.1", "S0", "v", ROLE)
    lost = Volume("v1", "c1", "n", "c", 1000, "node-a", ROLE)
    launch = fx.Launch(
        task(1),
        executor,
        Vector(500 if what == "pod" else 0, 32_000),
        (31001,) if what == "port" else (),
        (Use(lost, create=False),) if what == "volume" else (),
    )
    call = fx.Accept("S0", ("O1",), (launch,), 0.0, ROLE)
    mesos.prepare([call])
    (told,) = mesos.perform(call, payloads(1))
    assert isinstance(told, ev.TaskReported)
    assert (told.task_id, told.state, told.reason) == ("u1.1", TaskState.DROPPED, "OFFERS_MISCOUNTED")
    assert not driver.of("acceptOffers")
    assert driver.of("declineOffer") == [(["O1"], {"refuse_seconds": 0.0})]
    assert sum(mesos.meter.anomalies.values()) == 1
    verdict = judge(task(1), told, "Never")
    assert (verdict.fate, verdict.agent_strikes) == (Fate.RELAUNCH, 1), "later, and elsewhere if it can be"


def test_a_launch_into_a_lost_connection_is_known_to_be_unsent() -> None:
    mesos, driver, _ = door()
    mesos.resourceOffers(driver, [offer_json()])  # type: ignore[arg-type]
    call = accept(1)
    mesos.prepare([call])
    driver.connected = False
    (told,) = mesos.perform(call, payloads(1))
    assert isinstance(told, ev.TaskReported)
    assert told.reason == "NOT_SENT"
    assert mesos.perform(fx.Acknowledge("S0", "t", "u"), {}) == []


def test_the_other_calls() -> None:
    mesos, driver, _ = door()
    for effect in (
        fx.Acknowledge("S0", "t", "u"),
        fx.Decline(("O1", "O2"), 3600.0),
        fx.KillTask("t", "S0", 5.0),
        fx.KillTask("ghost", "", None),
        fx.ShutdownExecutor("e", "S0"),
        fx.Revive(("gantry",)),
        fx.Suppress(("gantry",)),
        fx.Reconcile((("t", "S0"),)),
    ):
        mesos.perform(effect, {})
    grace = {"grace_period": {"nanoseconds": 5_000_000_000}}
    assert driver.calls == [
        ("acknowledgeStatusUpdate", {"agent_id": {"value": "S0"}, "task_id": {"value": "t"}, "uuid": "u"}),
        ("declineOffer", ["O1", "O2"], {"refuse_seconds": 3600.0}),
        ("killTask", "t", "S0", grace),
        ("killTask", "ghost", None, None),
        ("shutdownExecutor", "e", "S0"),
        ("reviveOffers", [ROLE]),
        ("suppressOffers", [ROLE]),
        ("reconcileTasks", [{"task_id": "t", "agent_id": "S0"}]),
    ]


# ---- commits


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = open_store(f"sqlite:{tmp_path}/store.db")
    await made.open()
    yield made
    await made.close()


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
        await asyncio.sleep(0.05)
        assert store.get(records.task_key("u1.1")) is not None
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
