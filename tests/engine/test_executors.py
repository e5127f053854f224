"""Executor instances: which one a pod goes to, when a new one is made, and when an old one is no longer used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core.state import Offer

MakeOffer = Callable[..., Offer]
Desk = Any
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
