"""Nodes that go: NoExecute taints, maintenance, drains, and tasks that come back; each rule as a short story."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import AgentInfo, Taint
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.vectors import Vector
from tests.engine.desk import Desk, MakeOffer, only

EVICT = Taint("sick", "", "NoExecute")
HOUR = 3600.0


def reasons(effects: list[fx.Effect]) -> list[str]:
    return [one.reason for one in only(effects, fx.Publish)]


def tolerating(key: str, seconds: int | None = None) -> list[dict[str, Any]]:
    one: dict[str, Any] = {"key": key, "operator": "Exists"}
    return [one if seconds is None else {**one, "tolerationSeconds": seconds, "effect": "NoExecute"}]


def annotated(desk: Desk, uid: str, **notes: str) -> None:
    marks = {f"gantry.io/{name.replace('_', '-')}": value for name, value in notes.items()}
    obj = desk.pods[uid]
    desk.put({**obj, "metadata": {**obj["metadata"], "annotations": marks}})
    desk.watch()


def running(desk: Desk, offer: MakeOffer, **spec: Any) -> Desk:
    """Pod `a` runs on agent A1 as task a.1; node host-a1."""
    desk.subscribe()
    desk.create("a", **spec)
    desk.watch()
    desk.offer(offer("O1"))
    desk.tell("a.1", "RUNNING", pod_status={"phase": "Running"}, server="10.0.0.1:4000")
    desk.watch()
    desk.said.clear()
    return desk


def taint(desk: Desk, *taints: Taint) -> list[fx.Effect]:
    effects = desk.frame(ev.NodeChanged(replace(desk.state.nodes["host-a1"], taints=taints)))
    return [*effects, *desk.later(0.0), *desk.watch()]


# ---- NoExecute taints


def test_a_taint_that_is_not_tolerated_evicts_at_once(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer, terminationGracePeriodSeconds=7)
    effects = taint(desk, EVICT)
    assert only(effects, fx.KillTask) == [fx.KillTask("a.1", "A1", 7.0)]
    assert "TaintManagerEviction" in reasons(effects)
    assert desk.pods["a"]["metadata"]["deletionGracePeriodSeconds"] == 7
    desk.tell("a.1", "KILLED")
    assert "a" not in desk.pods


def test_a_toleration_delays_an_eviction(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer, tolerations=tolerating("sick", 60))
    taint(desk, EVICT)
    desk.tell("a.1", "RUNNING")  # further updates do not begin the time anew
    desk.later(59.0)
    assert "deletionTimestamp" not in desk.pods["a"]["metadata"]
    desk.later(1.0)
    assert "deletionTimestamp" in desk.pods["a"]["metadata"]


@pytest.mark.parametrize("cured", ["the taint goes", "a toleration comes"])
def test_an_eviction_is_taken_back(desk: Desk, offer: MakeOffer, cured: str) -> None:
    running(desk, offer, tolerations=tolerating("sick", 60))
    taint(desk, EVICT)
    desk.later(30.0)
    if cured == "the taint goes":
        taint(desk)
    else:
        desk.put({**desk.pods["a"], "spec": {**desk.pods["a"]["spec"], "tolerations": tolerating("sick")}})
        desk.watch()
    desk.later(HOUR)
    assert "deletionTimestamp" not in desk.pods["a"]["metadata"]


def test_taints_with_other_effects_evict_nobody(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    taint(desk, replace(EVICT, effect="NoSchedule"))
    desk.later(HOUR)
    assert "deletionTimestamp" not in desk.pods["a"]["metadata"]


def test_a_restarted_scheduler_still_evicts(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    desk.nodes["host-a1"] = replace(desk.nodes["host-a1"], taints=(EVICT,))
    desk.start()
    desk.later(0.0)
    assert "deletionTimestamp" in desk.pods["a"]["metadata"]


# ---- maintenance


def ask(desk: Desk, after: float, agent: str = "A1", lasts: float = 600.0) -> list[fx.Effect]:
    return desk.frame(ev.InverseOffersReceived((ev.InverseOffer("I1", agent, desk.now + after, lasts),)))


def twice(desk: Desk, offer: MakeOffer) -> None:
    """As `running`; the pod says that for a move it may run twice."""
    running(desk, offer)
    annotated(desk, "a", on_maintenance="start-first")


def test_what_may_run_twice_is_started_elsewhere_before_it_is_ended(desk: Desk, offer: MakeOffer) -> None:
    twice(desk, offer)
    effects = ask(desk, after=600.0)
    assert [one.accept for one in only(effects, fx.AnswerInverse)] == [True]
    assert reasons(effects) == ["MaintenanceMove"]
    assert only(effects, fx.Revive)
    window = {"unavailable_at": desk.now + 600.0, "unavailable_for": 600.0}
    assert not only(desk.offer(offer("O2", executors=tuple(desk.executors), **window)), fx.Accept)
    assert "FailedScheduling" in reasons(desk.later(2.0))
    assert desk.phase("a") == "Running", "it waits for another node, and runs"
    effects = desk.offer(offer("O3", "A2"))
    assert [one.task.id for one in only(effects, fx.Accept)[0].launches] == ["a.2"]
    assert not only(effects, fx.KillTask)
    assert desk.phase("a") == "Running"
    desk.tell("a.2", "STARTING")
    assert not only(desk.said, fx.KillTask), "the old one runs until the new one does"
    effects = desk.tell("a.2", "RUNNING")
    assert only(effects, fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]
    desk.tell("a.1", "KILLED")
    assert set(desk.tasks) == {"a.2"}
    assert desk.phase("a") == "Running"
    assert desk.pods["a"]["spec"]["nodeName"] == "host-a2"


def test_a_move_survives_a_restart(desk: Desk, offer: MakeOffer) -> None:
    twice(desk, offer)
    ask(desk, after=600.0)
    desk.start()
    desk.subscribe()
    desk.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="RECONCILIATION")
    assert only(desk.offer(offer("O2", "A2")), fx.Accept)
    desk.start()
    desk.subscribe()
    assert only(desk.tell("a.2", "RUNNING"), fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]


def test_a_move_that_fails_is_tried_again_and_the_old_runs_on(desk: Desk, offer: MakeOffer) -> None:
    twice(desk, offer)
    ask(desk, after=600.0)
    desk.offer(offer("O2", "A2"))
    desk.tell("a.2", "DROPPED", uuid="", source="MASTER", reason="INVALID_OFFERS")
    assert not only(desk.said, fx.KillTask)
    (accept,) = only(desk.offer(offer("O3", "A3")), fx.Accept)
    assert accept.launches[0].task.id == "a.3"


def test_a_pod_that_is_deleted_while_it_moves_ends_in_both_places(desk: Desk, offer: MakeOffer) -> None:
    twice(desk, offer)
    ask(desk, after=600.0)
    desk.offer(offer("O2", "A2"))
    desk.watch()
    desk.delete("a")
    killed = {one.task_id for one in only(desk.watch(), fx.KillTask)}
    assert killed == {"a.1", "a.2"}
    desk.tell("a.2", "KILLED")
    desk.watch()
    desk.tell("a.1", "KILLED")
    assert not desk.pods
    assert not desk.tasks


def test_maintenance_that_is_cancelled_moves_nothing(desk: Desk, offer: MakeOffer) -> None:
    twice(desk, offer)
    ask(desk, after=600.0)
    desk.offer(offer("O2"))  # the agent's offers say no more of it
    assert desk.nodes["host-a1"].own == ()
    assert not desk.state.pending
    assert not desk.tasks["a.1"].moving


def schedule(desk: Desk, *windows: tuple[float, float | None], asked_at: float = 0.0) -> list[fx.Effect]:
    """The master's list of agents, then its schedule for A1's machine."""
    agent = AgentInfo("A1", "Host-A1", 5051, total=Vector(4000, 8_192_000, 0), ip="10.0.0.1")
    planned = dict.fromkeys([("host-a1", "10.0.0.1")], windows[0]) if windows else {}
    return desk.frame(ev.AgentsListed((agent,)), ev.MaintenanceListed(planned, asked_at or desk.now))


def test_a_cancellation_is_seen_though_nothing_is_offered(desk: Desk, offer: MakeOffer) -> None:
    """Suppressed, no offer says that the window is gone; the master's schedule does."""
    twice(desk, offer)
    ask(desk, after=24 * HOUR)
    assert not desk.state.offers
    schedule(desk, asked_at=desk.now - 1.0)
    assert desk.nodes["host-a1"].window, "the schedule was asked for before the inverse offer came"
    desk.now += 15.0
    schedule(desk)
    assert desk.nodes["host-a1"].window is None
    assert desk.nodes["host-a1"].own == ()
    assert not only(desk.later(24 * HOUR), fx.Publish), "and nothing moves"


def test_a_window_is_learnt_from_the_schedule(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    assert only(schedule(desk, (desk.now + 600.0, 600.0)), fx.KillTask)
    assert desk.nodes["host-a1"].window == (desk.now + 600.0, desk.now + 1200.0)


def test_a_schedule_of_another_machine_says_nothing(desk: Desk, offer: MakeOffer) -> None:
    """Mesos compares hostname and address; so do we."""
    running(desk, offer)
    schedule(desk)
    desk.frame(ev.MaintenanceListed({("host-a1", "10.0.0.2"): (desk.now + 600.0, None)}, desk.now))
    assert desk.nodes["host-a1"].window is None


def test_a_window_that_is_over_and_still_in_the_schedule_says_nothing(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    schedule(desk, (desk.now - 600.0, 300.0))
    effects = [one for _ in range(3) for one in schedule(desk, (desk.now - 600.0, 300.0))]
    assert not only(effects, fx.SaveNode)
    assert desk.nodes["host-a1"].own == ()


def test_a_window_that_is_told_every_second_sets_one_timer(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    start = desk.now + 24 * HOUR
    for _ in range(1000):
        schedule(desk, (start, 600.0))
    assert len(desk.state.timers) < 50


def test_a_window_far_away_only_makes_its_node_less_liked(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    effects = ask(desk, after=24 * HOUR)
    assert [one.accept for one in only(effects, fx.AnswerInverse)] == [True]
    assert not desk.state.pending
    assert [one.effect for one in desk.nodes["host-a1"].own] == ["PreferNoSchedule"]
    effects = desk.later(23 * HOUR)
    assert reasons(effects) == ["MaintenanceMove"]
    assert [one.effect for one in desk.nodes["host-a1"].own] == ["NoSchedule"]
    assert not desk.later(1.1 * HOUR) or desk.nodes["host-a1"].window, "it lasts 600 s"
    desk.later(HOUR)
    assert desk.nodes["host-a1"].window is None
    assert desk.nodes["host-a1"].own == ()


@pytest.mark.parametrize(
    ("spec", "notes", "why"),
    [
        ({"restartPolicy": "Never"}, {}, "a job"),
        ({"restartPolicy": "OnFailure"}, {}, "a job"),
        ({}, {"on_maintenance": "stay"}, "asks to stay"),
        ({"nodeName": "host-a1"}, {}, "asks for this node"),
        ({"tolerations": [{"operator": "Exists"}]}, {}, "tolerates"),
    ],
)
def test_what_stays_is_said_and_declined(
    desk: Desk, offer: MakeOffer, spec: dict[str, Any], notes: dict[str, str], why: str
) -> None:
    if "nodeName" in spec:
        desk.subscribe()
        desk.offer(offer("O0"))
    running(desk, offer, **spec)
    annotated(desk, "a", **notes)
    effects = ask(desk, after=600.0)
    assert only(effects, fx.AnswerInverse) == [fx.AnswerInverse(("I1",), False, 60.0)]
    (event,) = only(effects, fx.Publish)
    assert event.reason == "MaintenanceBlocked"
    assert why in event.message
    assert not only(desk.later(700.0), fx.KillTask)


@pytest.mark.parametrize("how", ["by default", "annotation", "claim", "StatefulSet"])
def test_what_must_not_run_twice_is_ended_before_it_starts_elsewhere(
    desk: Desk, offer: MakeOffer, how: str
) -> None:
    volumes = [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}]
    desk.create_claim("d")
    running(desk, offer, **({"volumes": volumes} if how == "claim" else {}))
    if how == "annotation":
        annotated(desk, "a", on_maintenance="stop-first")
    if how in {"claim", "StatefulSet"}:
        annotated(desk, "a", on_maintenance="start-first")  # which these may not ask for
    if how == "StatefulSet":
        meta = {**desk.pods["a"]["metadata"], "ownerReferences": [{"kind": "StatefulSet"}]}
        desk.put({**desk.pods["a"], "metadata": meta})
        desk.watch()
    effects = ask(desk, after=600.0)
    assert [one.accept for one in only(effects, fx.AnswerInverse)] == [True]
    assert only(effects, fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]
    assert not only(desk.offer(offer("O2", "A2")), fx.Accept), "not while it may still run"
    desk.tell("a.1", "KILLED")
    assert desk.pods["a"]["status"]["reason"] == "NodeMaintenance"
    assert desk.state.agents["A1"].strikes == 0, "nothing was wrong with the agent"
    accepts = only(desk.offer(offer("O3", "A2")), fx.Accept)
    if how == "claim":
        assert not accepts, "its data is on the other agent"
        return
    assert [(one.task.id, one.task.failures) for one in accepts[0].launches] == [("a.2", 0)]


def many(desk: Desk, offer: MakeOffer, count: int) -> list[str]:
    """So many pods run on A1, one of them with a grace of 300 s; they are p00, p01…"""
    desk.subscribe()
    names = [f"p{number:02}" for number in range(count)]
    for name in names:
        desk.create(name, terminationGracePeriodSeconds=300 if name == names[-1] else 30)
    desk.watch()
    desk.offer(offer("O1"))
    for name in names:
        desk.tell(f"{name}.1", "RUNNING")
    desk.said.clear()
    return names


def ended(desk: Desk) -> list[str]:
    """The tasks that were killed since this was last asked."""
    found = [one.task_id for one in only(desk.said, fx.KillTask)]
    desk.said.clear()
    return found


def test_few_pods_move_at_once_the_next_when_one_runs_elsewhere(desk: Desk, offer: MakeOffer) -> None:
    desk.policy = replace(desk.policy, maintenance_moves=2)
    desk.start()
    names = many(desk, offer, 4)
    ask(desk, after=HOUR)
    assert ended(desk) == ["p00.1", "p01.1"]
    ask(desk, after=HOUR)
    for state in ("KILLED", "STARTING"):
        desk.tell("p00.1", state) if state == "KILLED" else desk.tell("p00.2", state)
        desk.offer(offer(f"O-{state}", "A2"))
        assert ended(desk) == [], f"{state} is not running elsewhere"
    desk.tell("p00.2", "RUNNING")
    assert ended(desk) == ["p02.1"]
    desk.tell("p01.1", "KILLED")
    desk.watch()
    desk.delete("p01")
    desk.watch()
    assert ended(desk) == ["p03.1"], "a pod that is deleted moves no more"
    assert set(names) - {"p01"} == set(desk.pods)


def test_the_window_does_not_wait_for_pods_that_find_no_place(desk: Desk, offer: MakeOffer) -> None:
    """Two minutes and its own grace before, each moves whose turn has not come."""
    desk.policy = replace(desk.policy, maintenance_moves=1)
    desk.start()
    many(desk, offer, 4)
    ask(desk, after=HOUR)
    assert ended(desk) == ["p00.1"]
    desk.tell("p00.1", "KILLED")
    desk.later(HOUR - 421.0)
    assert ended(desk) == []
    desk.later(1.0)
    assert ended(desk) == ["p03.1"], "300 s of grace"
    desk.later(270.0)
    assert set(ended(desk)) == {"p01.1", "p02.1", "p03.1"}, "the last one again: kills are repeated"


def test_a_restarted_scheduler_knows_which_pods_move(desk: Desk, offer: MakeOffer) -> None:
    desk.policy = replace(desk.policy, maintenance_moves=2)
    desk.start()
    many(desk, offer, 4)
    ask(desk, after=HOUR)
    ended(desk)
    desk.start()
    desk.subscribe()
    assert ended(desk) == ["p00.1", "p01.1"], "and no more than these"


def test_a_cancellation_ends_the_moves_that_have_not_begun(desk: Desk, offer: MakeOffer) -> None:
    desk.policy = replace(desk.policy, maintenance_moves=1)
    desk.start()
    many(desk, offer, 3)
    ask(desk, after=HOUR)
    schedule(desk, asked_at=desk.now + 1.0)
    desk.tell("p00.1", "KILLED")
    desk.offer(offer("O2"))
    desk.tell("p00.2", "RUNNING")
    desk.later(2 * HOUR)
    assert set(ended(desk)) == {"p00.1"}


def test_an_empty_agent_may_go(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.offer(offer("O1"))
    assert [one.accept for one in only(ask(desk, after=5.0), fx.AnswerInverse)] == [True]


# ---- drains


def info(**more: Any) -> AgentInfo:
    return AgentInfo("A1", "host-a1", 5051, total=Vector(4000, 8_192_000, 0), **more)


def test_a_draining_node_takes_nothing_and_is_not_lost(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    desk.frame(ev.AgentsListed((info(active=False, draining=True),)))
    desk.now += 100.0
    desk.frame(ev.AgentsListed((info(active=False, draining=True),)))
    node = desk.nodes["host-a1"]
    assert node.ready
    assert [(one.key, one.effect) for one in node.own] == [("gantry.io/draining", "NoSchedule")]
    desk.tell("a.1", "KILLED", reason="AGENT_DRAINING")
    assert desk.phase("a") == "Pending"
    desk.later(2.0)
    (message,) = {one.message for one in only(desk.said, fx.Publish) if one.reason == "FailedScheduling"}
    assert message == "0/1 nodes are available: 1 node(s) had untolerated taint {gantry.io/draining: }."
    desk.frame(ev.AgentsListed((info(),)))
    assert desk.nodes["host-a1"].own == ()


# ---- tasks that come back


def replaced(desk: Desk, offer: MakeOffer) -> None:
    """a.1 was away for too long, a.2 runs on A2."""
    desk.tell("a.1", "UNREACHABLE", uuid="", source="MASTER", reason="AGENT_REMOVED")
    desk.later(300.0)
    desk.offer(offer("O2", "A2"))
    desk.tell("a.2", "RUNNING")
    desk.watch()


def back(desk: Desk) -> list[fx.Effect]:
    return desk.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="AGENT_REREGISTERED")


def test_the_newer_wins(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    replaced(desk, offer)
    assert only(back(desk), fx.KillTask) == [fx.KillTask("a.1", "A1", 0.0)]


def test_the_older_wins_when_its_pod_says_so(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    annotated(desk, "a", on_return="keep-oldest")
    replaced(desk, offer)
    assert only(back(desk), fx.KillTask) == [fx.KillTask("a.2", "A2", 30.0)]
    assert desk.pods["a"]["spec"]["nodeName"] == "host-a1"
    assert desk.phase("a") == "Running"
    desk.tell("a.2", "KILLED")
    assert set(desk.tasks) == {"a.1"}
    assert not desk.state.pending
    desk.tell("a.1", "RUNNING", pod_status={"phase": "Running"}, server="10.0.0.1:4000")
    assert desk.phase("a") == "Running"


def test_the_older_stays_kept_over_a_restart(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    annotated(desk, "a", on_return="keep-oldest")
    replaced(desk, offer)
    back(desk)
    desk.start()
    assert only(desk.subscribe(), fx.KillTask) == [fx.KillTask("a.2", "A2", 30.0)]
    desk.tell("a.2", "KILLED")
    desk.tell("a.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED")
    assert "a" in desk.state.pending, "it speaks for the pod"
    (accept,) = only(desk.offer(offer("O5", "A3")), fx.Accept)
    assert accept.launches[0].task.id == "a.3", "no id is used twice"


def test_no_id_is_used_twice_though_the_newest_record_is_gone(desk: Desk, offer: MakeOffer) -> None:
    """The replacement ended and its record with it; the count is not lost with the process."""
    running(desk, offer)
    annotated(desk, "a", on_return="keep-oldest")
    replaced(desk, offer)
    back(desk)
    desk.tell("a.2", "KILLED")
    assert set(desk.tasks) == {"a.1"}
    desk.start()
    desk.subscribe()
    desk.tell("a.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED")
    (accept,) = only(desk.offer(offer("O5", "A3")), fx.Accept)
    assert accept.launches[0].task.id == "a.3"


def test_a_pod_with_an_identity_is_not_replaced_before_it_is_dead(desk: Desk, offer: MakeOffer) -> None:
    running(desk, offer)
    meta = {**desk.pods["a"]["metadata"], "ownerReferences": [{"kind": "StatefulSet"}]}
    desk.put({**desk.pods["a"], "metadata": meta})
    desk.watch()
    desk.tell("a.1", "UNREACHABLE", uuid="", source="MASTER", reason="AGENT_REMOVED")
    desk.later(10 * HOUR)
    assert not desk.state.pending
    desk.tell("a.1", "GONE", uuid="", source="MASTER", reason="AGENT_REMOVED_BY_OPERATOR")
    assert "a" in desk.state.pending
    assert desk.tasks["a.1"].state is TaskState.GONE
