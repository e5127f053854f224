"""The core's effects as calls of a driver, and what becomes of those that cannot be made."""

from __future__ import annotations

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.claims import Use, Volume
from scheduler.framework.core.entities import Executor
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.vectors import Vector
from scheduler.framework.core.verdict import Fate, judge
from scheduler.framework.mesos import Payload
from scheduler.framework.reading import offer_from_json
from shared.wire import Launch, Supply, Wanted, digest_of
from tests.engine.mesosdoor import (
    ROLE,
    door,
    offer_json,
    ports,
    scalar,
    task,
)


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
