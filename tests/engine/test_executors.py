"""Executor instances: which one a pod goes to, when a new one is made, and when an old one is no longer used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import AgentInfo
from scheduler.framework.core.vectors import Vector
from tests.engine.desk import Desk, MakeOffer

IDLE = 900.0


def launch(desk: Desk, offer: MakeOffer, uid: str, *listed: str) -> fx.Launch:
    """The pod's launch, on an agent whose offers list these executors."""
    desk.create(uid)
    desk.watch()
    effects = desk.offer(offer(f"O-{uid}", executors=listed))
    (accept,) = (one for one in effects if isinstance(one, fx.Accept))
    return next(one for one in accept.launches if one.task.uid == uid)


@pytest.fixture
def first(desk: Desk, offer: MakeOffer) -> str:
    """The executor that pod `a` runs on."""
    desk.subscribe()
    executor_id = launch(desk, offer, "a").executor.id
    desk.tell("a.1", "RUNNING", pod_status={"phase": "Running"})
    return str(executor_id)


@pytest.mark.parametrize(("seconds", "used"), [(IDLE / 2, True), (IDLE / 2 + 1, False)])
def test_an_empty_executor_is_used_for_half_of_its_time(
    desk: Desk, offer: MakeOffer, first: str, seconds: float, used: bool
) -> None:
    """It leaves by itself at the end of that time; in the second half a launch might meet it leaving."""
    desk.later(10_000.0)
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    desk.later(seconds)
    assert (launch(desk, offer, "b", first).executor.id == first) is used


def test_an_executor_with_pods_is_used_however_old(desk: Desk, offer: MakeOffer, first: str) -> None:
    desk.later(10 * IDLE)
    assert launch(desk, offer, "b", first).executor.id == first


def test_after_a_restart_nobody_knows_since_when_an_executor_is_empty(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    desk.start()
    desk.subscribe()
    assert launch(desk, offer, "b", first).executor.id != first


def test_what_ended_before_it_reached_the_executor_does_not_make_it_young(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    desk.later(IDLE / 2)
    assert launch(desk, offer, "b", first).executor.id == first
    desk.tell("b.1", "DROPPED", source="MASTER", reason="INVALID_OFFERS")
    desk.watch()
    desk.later(1.0)
    (accept,) = (one for one in desk.offer(offer("O2", executors=(first,))) if isinstance(one, fx.Accept))
    assert accept.launches[0].executor.id != first


def test_a_launch_that_meets_a_leaving_executor_is_made_again_at_once(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    launch(desk, offer, "b", first)
    desk.tell("b.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED")
    desk.watch()
    (accept,) = (one for one in desk.offer(offer("O2")) if isinstance(one, fx.Accept))
    assert accept.launches[0].task.id == "b.2"
    assert accept.launches[0].executor.id != first
    assert desk.tasks["b.2"].failures == 0


def test_a_new_version_starts_beside_the_old_one_and_restarts_no_pod(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    desk.policy = replace(desk.policy, executor_version="new")
    desk.start()
    desk.subscribe()
    second = launch(desk, offer, "b", first).executor
    assert second.version == "new"
    assert set(desk.executors) == {first, second.id}
    assert not [one for one in desk.said if isinstance(one, fx.KillTask)]
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    desk.offer(offer("O3", executors=(second.id,)))
    assert set(desk.executors) == {second.id}, "the old one left when it was empty"


# ---- told to leave


def told(effects: list[fx.Effect]) -> list[str]:
    return [one.executor_id for one in effects if isinstance(one, fx.ShutdownExecutor)]


def drain(desk: Desk, *, on: bool = True) -> list[fx.Effect]:
    info = AgentInfo("A1", "host-a1", 5051, active=not on, draining=on, total=Vector(4000, 8_192_000, 0))
    return desk.frame(ev.AgentsListed((info,)))


def test_a_draining_agent_gets_rid_of_its_executor_when_its_last_pod_has_gone(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    """As long as an executor is there the drain is not over, and the agent drops what it gets."""
    assert told(drain(desk)) == []
    desk.tell("a.1", "KILLED", reason="AGENT_DRAINING")
    assert told(drain(desk)) == [first]
    assert told(drain(desk)) == [], "it needs a moment"
    desk.now += 30.0
    assert told(drain(desk)) == [first], "nobody says whether it was heard"
    drain(desk, on=False)
    (accept,) = (one for one in desk.offer(offer("O2", executors=(first,))) if isinstance(one, fx.Accept))
    assert accept.launches[0].executor.id != first, "it is about to leave"
    desk.frame(ev.ExecutorLost("A1", first))
    assert first not in desk.executors


def test_a_launch_dropped_after_a_reactivation_is_not_dropped_for_a_quarter_of_an_hour(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    """The drain came and went unseen, the executor is idle and the agent still drains."""
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    launch(desk, offer, "b", first)
    assert told(desk.tell("b.1", "DROPPED", source="AGENT", reason="AGENT_DRAINING")) == [first]


def test_an_executor_with_pods_is_never_told_to_leave(desk: Desk, offer: MakeOffer, first: str) -> None:
    launch(desk, offer, "b", first)
    assert told(desk.tell("b.1", "DROPPED", source="AGENT", reason="AGENT_DRAINING")) == []
    assert told(drain(desk)) == []


# ---- dead without a word


def test_an_executor_that_ran_and_is_listed_no_more_takes_no_pod(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    """The end of its pods is still on its way; a launch into it would be dropped."""
    second = launch(desk, offer, "b").executor.id
    assert second != first
    assert launch(desk, offer, "c", second).executor.id == second
    asked = [one for _ in range(6) for one in desk.later(1.0) if isinstance(one, fx.Reconcile) and one.tasks]
    assert ("a.1", "A1") in {task for one in asked for task in one.tasks}, "what became of its pods is asked"


def test_an_executor_that_is_listed_again_takes_pods(desk: Desk, offer: MakeOffer, first: str) -> None:
    desk.offer(offer("O2"))
    assert launch(desk, offer, "b", first).executor.id == first


def test_an_executor_that_just_starts_is_not_listed_yet(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    executor_id = launch(desk, offer, "a").executor.id
    assert launch(desk, offer, "b").executor.id == executor_id


def test_the_executors_of_an_agent_that_never_comes_back_are_forgotten(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    desk.offer(offer("O2", "A2", hostname="host-a1"))
    again = AgentInfo("A2", "host-a1", 5051, total=Vector(4000, 8_192_000, 0))
    desk.frame(ev.AgentsListed((again,)))
    assert first in desk.executors, "its pod's end is not known yet"
    desk.tell("a.1", "GONE", uuid="", source="MASTER", reason="RECONCILIATION")
    desk.frame(ev.AgentsListed((again,)))
    assert first not in desk.executors


def test_the_executor_that_was_reckoned_with_is_the_one_that_is_used(
    desk: Desk, offer: MakeOffer, first: str
) -> None:
    """A turn of several frames: in the first one the executor is young enough, in the second no longer. To start
    another one there would take more than was reckoned, and offered."""
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    desk.watch()
    desk.policy = replace(desk.policy, frame_pods=1)
    desk.state.policy = desk.policy
    names = ["b", "c"]
    for name in names:
        desk.create(name, nodeName=f"host-{'a2' if name == 'b' else 'a1'}")
    desk.offer(offer("O2", "A2"))
    desk.watch()
    desk.now += IDLE / 2 - 0.001
    both = desk.offer(offer("O3", "A2"), offer("O4", cpus=100, mem=64_000, executors=(first,)))
    assert [one.agent_id for one in both if isinstance(one, fx.Accept)] == ["A2"]
    (accept,) = (one for one in desk.later(0.01) if isinstance(one, fx.Accept))
    assert (accept.agent_id, accept.launches[0].executor.id) == ("A1", first)
