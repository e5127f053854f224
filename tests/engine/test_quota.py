"""Quota that operators gave a role: a pod that waits says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.nodes import limits_from_json
from tests.engine.desk import Desk


def told(desk: Desk, effects: list[fx.Effect]) -> list[str]:
    return [one.message for one in [*effects, *desk.later(2.0)] if isinstance(one, fx.Publish)]


def test_offers_that_are_too_small_may_be_so_by_quota(desk: Desk, offer: Callable[..., Any]) -> None:
    desk.subscribe()
    (role,) = desk.policy.roles
    desk.frame(ev.QuotaListed({role: "cpus 1, mem 512", "other": "cpus 2"}))
    desk.create("a")
    desk.watch()
    (message, *_) = told(desk, desk.offer(offer("O1", cpus=50)))
    assert "Insufficient cpu" in message
    assert message.endswith(
        f"Mesos role {role} has a quota limit of cpus 1, mem 512, its other tasks included."
    )
    desk.frame(ev.QuotaListed({"other": "cpus 2"}))
    desk.offer(offer("O2", cpus=50))
    again = told(desk, desk.later(desk.policy.report_again))
    assert again
    assert not any("quota" in one for one in again)


def test_other_reasons_have_nothing_to_do_with_it(desk: Desk, offer: Callable[..., Any]) -> None:
    desk.subscribe()
    desk.frame(ev.QuotaListed(dict.fromkeys(desk.policy.roles, "cpus 1")))
    desk.create("a", nodeSelector={"disk": "ssd"})
    desk.watch()
    messages = told(desk, desk.offer(offer("O1")))
    assert messages
    assert not any("quota" in one for one in messages)


def test_limits_of_new_masters_and_old_ones() -> None:
    config = {"role": "a", "limits": {"mem": {"value": 512.0}, "cpus": {"value": 0.5}}}
    guarantee = [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 2.0}}]
    info = {"role": "b", "guarantee": guarantee}
    assert limits_from_json({"configs": [config, {"role": "c"}], "infos": [info]}) == {
        "a": "cpus 0.5, mem 512"
    }
    assert limits_from_json({"infos": [info]}) == {"b": "cpus 2"}
    assert limits_from_json({}) == {}
