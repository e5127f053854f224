"""Single rules of the core, each as a short story about pods, offers and updates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from tests.engine.desk import Desk, MakeOffer, only


def kinds(effects: list[fx.Effect]) -> list[str]:
    return [type(one).__name__ for one in effects if not isinstance(one, (*fx.SAVES, fx.Publish))]


# ---- offers


def test_an_idle_framework_declines_for_long_and_suppresses(desk: Desk, offer: MakeOffer) -> None:
    assert kinds(desk.subscribe()) == ["Suppress"]
    effects = desk.offer(offer("O1"), offer("O2", "A2"))
    assert only(effects, fx.Decline) == [fx.Decline(("O1", "O2"), 3600.0)]


def test_a_new_pod_revives_in_the_frame_that_hears_of_it(desk: Desk) -> None:
    desk.subscribe()
    desk.create("a")
    assert kinds(desk.watch()) == ["Revive"]
    desk.create("b")
    assert kinds(desk.watch()) == [], "the first REVIVE brings the offers of both"


def test_offers_of_one_agent_are_used_together(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("big", containers=[{"resources": {"requests": {"cpu": "1500m"}}}])
    desk.watch()
    effects = desk.offer(offer("O1", cpus=1000), offer("O2", cpus=1000))
    (accept,) = only(effects, fx.Accept)
    assert accept.offer_ids == ("O1", "O2")
    assert [one.task.id for one in accept.launches] == ["big.1"]


def test_many_pods_go_into_one_accept_and_the_rest_is_hidden(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    for number in range(30):
        desk.create(f"p{number:02}")
    desk.watch()
    (accept,) = only(desk.offer(offer("O1", cpus=4000)), fx.Accept)
    assert len(accept.launches) == 30
    assert accept.refuse == 3600.0
    assert len({one.executor.id for one in accept.launches}) == 1


def test_the_remainder_comes_back_at_once_while_pods_wait(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    for name in ("a", "b", "c"):
        desk.create(name)
    desk.watch()
    (accept,) = only(desk.offer(offer("O1", cpus=350)), fx.Accept)
    assert [one.task.uid for one in accept.launches] == ["a", "b"], "the executor's 0.1 cpus count"
    assert accept.refuse == 0.0
    (again,) = only(desk.offer(offer("O2", cpus=150, executors=(accept.launches[0].executor.id,))), fx.Accept)
    assert [one.task.uid for one in again.launches] == ["c"], "and only once"


def test_a_rescinded_offer_is_not_used(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    effects = desk.frame(ev.OffersReceived((offer("O1"),)), ev.OfferRescinded("O1"))
    assert not only(effects, fx.Accept)


def test_offers_of_the_former_connection_are_void(desk: Desk, offer: MakeOffer) -> None:
    desk.create("a")
    desk.watch()
    effects = desk.frame(ev.Subscribed("F1"), ev.OffersReceived((offer("O1"),)), ev.Subscribed("F1"))
    assert not only(effects, fx.Accept)
    assert not only(effects, fx.Decline)


def test_invalid_offers_cost_the_pod_nothing(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1"))
    effects = desk.tell("a.1", "DROPPED", uuid="", source="MASTER", reason="INVALID_OFFERS")
    assert only(effects, fx.Revive)
    assert not only(effects, fx.Acknowledge)
    (accept,) = only(desk.offer(offer("O2")), fx.Accept)
    assert accept.launches[0].task.id == "a.2"
    assert accept.launches[0].task.failures == 0


def test_a_binding_is_saved_with_the_launch(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    effects = desk.offer(offer("O1"))
    at = {type(one): index for index, one in enumerate(effects)}
    assert at[fx.SaveTask] < at[fx.Accept]
    assert desk.pods["a"]["spec"]["nodeName"] == "host-a1"
    assert desk.tasks["a.1"].agent_id == "A1"


def test_a_pod_that_was_deleted_before_the_save_is_not_launched(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.create("b")
    desk.watch()
    desk.delete("a")  # the engine has not heard of it yet
    desk.offer(offer("O1"))
    (accept,) = only(desk.said, fx.Accept)
    assert [one.task.uid for one in accept.launches] == ["b"]
    desk.watch()
    assert set(desk.tasks) == set(desk.state.tasks) == {"b.1"}


# ---- executors


def test_an_executor_is_used_again_and_replaced_when_dead(running: Desk, offer: MakeOffer) -> None:
    first = running.tasks["a.1"].executor_id
    running.create("b")
    running.watch()
    running.offer(offer("O2", executors=(first,)))
    assert running.tasks["b.1"].executor_id == first
    running.frame(ev.ExecutorLost("A1", first))
    running.create("c")
    running.watch()
    running.offer(offer("O3"))
    assert running.tasks["c.1"].executor_id != first
    assert running.tasks["c.1"].executor_id.startswith("gantry.0.")


def test_an_executor_that_the_master_does_not_list_is_dead(running: Desk, offer: MakeOffer) -> None:
    first = running.tasks["a.1"].executor_id
    running.tell("a.1", "FINISHED")
    running.create("b")
    running.watch()
    running.offer(offer("O2"))
    assert running.tasks["b.1"].executor_id != first
    assert first not in running.executors


@pytest.mark.parametrize("restart", ["Always", "OnFailure"])
def test_a_dead_executor_restarts_its_pods_without_penalty(
    running: Desk, restart: str, offer: MakeOffer
) -> None:
    running.put({**running.pods["a"], "spec": {**running.pods["a"]["spec"], "restartPolicy": restart}})
    running.watch()
    effects = running.tell("a.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED")
    assert kinds(effects)[0] == "Acknowledge"
    assert running.phase("a") == "Pending"
    assert "nodeName" not in running.pods["a"]["spec"]
    running.offer(offer("O2"))
    assert running.tasks["a.2"].failures == 0
    assert "a.1" not in running.tasks


def test_a_pod_that_must_not_restart_fails_with_its_executor(running: Desk) -> None:
    running.put({**running.pods["a"], "spec": {**running.pods["a"]["spec"], "restartPolicy": "Never"}})
    running.watch()
    running.tell("a.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED", message="Executor terminated")
    assert running.pods["a"]["status"]["phase"] == "Failed"
    assert running.pods["a"]["status"]["reason"] == "ExecutorTerminated"
    assert running.tasks["a.1"].over, "the record stays with the pod, for its logs"
    running.delete("a")
    running.watch()
    assert not running.tasks


def test_a_drain_is_not_the_pods_fault(running: Desk) -> None:
    running.tell("a.1", "KILLED", reason="AGENT_DRAINING")
    assert running.phase("a") == "Pending"
    assert "a" in running.state.pending


def test_an_agent_that_drops_launches_is_left_alone_longer_and_longer(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    tried = []
    for number in range(1, 5):
        waits = 0.0
        while not only(desk.offer(offer(f"O{number}-{waits}")), fx.Accept):
            waits += 0.5
            desk.later(0.5)
        tried.append(waits)
        desk.tell(f"a.{number}", "DROPPED", source="AGENT", reason="AGENT_DRAINING")
    assert tried == [0.0, 0.0, 1.0, 2.0]


def test_one_dead_executor_is_one_strike(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    for name in ("a", "b", "c"):
        desk.create(name)
    desk.watch()
    desk.offer(offer("O1"))
    for name in ("a", "b", "c"):
        desk.now += 0.01
        desk.tell(f"{name}.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED")
    (accept,) = only(desk.offer(offer("O2")), fx.Accept)
    assert len(accept.launches) == 3


# ---- updates


def test_an_update_is_acknowledged_after_it_is_saved(running: Desk) -> None:
    effects = running.tell("a.1", "FINISHED", uuid="u9", pod_status={"phase": "Succeeded"})
    assert running.phase("a") == "Succeeded"
    ack = effects.index(fx.Acknowledge("A1", "a.1", "u9"))
    assert all(effects.index(one) < ack for one in effects if isinstance(one, fx.SAVES))


def test_the_same_update_again_is_acknowledged_and_writes_nothing(running: Desk) -> None:
    effects = running.tell("a.1", "RUNNING")
    assert kinds(effects) == ["Acknowledge"]
    assert not only(effects, fx.SaveTask)


def test_an_illegal_move_is_counted_and_changes_nothing(running: Desk) -> None:
    effects = running.tell("a.1", "STARTING")
    assert kinds(effects) == ["Acknowledge"]
    assert running.state.counters["illegal task transitions"] == 1


def test_a_task_nobody_knows_is_killed(running: Desk) -> None:
    effects = running.tell("ghost.1", "RUNNING", agent_id="A1")
    assert only(effects, fx.KillTask) == [fx.KillTask("ghost.1", "A1", None)]
    assert kinds(running.tell("ghost.1", "KILLED")) == ["Acknowledge"]


def test_a_pods_own_failure_waits_longer_each_time(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    for number, delay in ((1, 10.0), (2, 20.0), (3, 40.0)):
        assert only(desk.offer(offer(f"O{number}")), fx.Accept)
        desk.tell(f"a.{number}", "FAILED", reason="")
        assert not only(desk.offer(offer(f"P{number}")), fx.Accept)
        assert not only(desk.later(delay - 1), fx.Revive)
        assert only(desk.later(1.5), fx.Revive)


def test_the_executors_word_on_failure_is_final(running: Desk) -> None:
    told = {"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": []}
    running.tell("a.1", "FAILED", pod_status=told)
    assert running.phase("a") == "Failed"
    assert running.pods["a"]["status"]["reason"] == "DeadlineExceeded"
    running.watch()
    assert not running.state.pending


# ---- kills


def test_a_deletion_kills_until_the_task_ends(running: Desk) -> None:
    running.delete("a", grace=7)
    assert only(running.watch(), fx.KillTask) == [fx.KillTask("a.1", "A1", 7.0)]
    assert running.tasks["a.1"].kill.grace == 7.0
    assert not only(running.later(4.0), fx.KillTask)
    assert only(running.later(1.5), fx.KillTask), "KILL is not remembered by Mesos"
    assert not only(running.later(5.0), fx.KillTask)
    assert only(running.later(5.5), fx.KillTask)
    running.tell("a.1", "KILLED")
    assert "a" not in running.pods
    assert not running.tasks
    assert not only(running.later(3600.0), fx.KillTask)


def test_a_shorter_grace_is_sent_at_once(running: Desk) -> None:
    running.delete("a", grace=30)
    running.watch()
    running.delete("a", grace=1)
    assert only(running.watch(), fx.KillTask) == [fx.KillTask("a.1", "A1", 1.0)]


def test_a_pod_removed_by_force_is_killed_all_the_same(running: Desk) -> None:
    running.delete("a", grace=0)
    assert only(running.watch(), fx.KillTask) == [fx.KillTask("a.1", "A1", 0.0)]
    running.tell("a.1", "KILLED")
    assert not running.tasks


def test_a_wanted_kill_survives_a_restart(running: Desk) -> None:
    running.delete("a")
    running.watch()
    running.start()
    running.tell("a.1", "RUNNING")
    assert only(running.subscribe(), fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]


def test_a_pending_pod_with_a_chosen_node_is_removed_when_deleted(desk: Desk) -> None:
    desk.subscribe()
    desk.create("a", nodeName="nowhere")
    desk.watch()
    desk.delete("a")
    desk.watch()
    assert "a" not in desk.pods


def test_a_staged_pod_is_killed_before_it_runs(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1"))
    desk.delete("a")
    assert only(desk.watch(), fx.KillTask)
    desk.tell("a.1", "GONE", uuid="", source="MASTER", reason="RECONCILIATION")
    assert "a" not in desk.pods


# ---- absence


def unreachable(desk: Desk) -> None:
    desk.tell("a.1", "UNREACHABLE", uuid="", source="MASTER", reason="AGENT_REMOVED")
    desk.watch()


def test_unreachable_is_not_dead(running: Desk) -> None:
    unreachable(running)
    assert running.phase("a") == "Running"
    assert running.pods["a"]["status"]["reason"] == "NodeLost"
    assert not running.state.pending
    running.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="AGENT_REREGISTERED")
    assert "reason" not in running.pods["a"]["status"]


def test_after_300_seconds_it_is_replaced_and_the_newer_wins(running: Desk, offer: MakeOffer) -> None:
    unreachable(running)
    running.later(299.0)
    assert not running.state.pending
    assert only(running.later(1.0), fx.Revive)
    running.offer(offer("O2", "A2"))
    assert running.tasks["a.1"].superseded
    back = running.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="AGENT_REREGISTERED")
    assert only(back, fx.KillTask) == [fx.KillTask("a.1", "A1", 0.0)]
    running.tell("a.1", "KILLED")
    assert set(running.tasks) == {"a.2"}


def test_one_that_returns_before_its_replacement_is_kept(running: Desk, offer: MakeOffer) -> None:
    unreachable(running)
    running.later(300.0)
    running.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="AGENT_REREGISTERED")
    assert not running.state.pending
    assert not only(running.offer(offer("O2", "A2")), fx.Accept)


def test_what_was_said_of_its_replacement_is_taken_back_when_it_returns(running: Desk) -> None:
    """Nothing offers enough for the replacement: the pod is unschedulable, and yet it runs."""
    unreachable(running)
    running.later(300.0)
    running.watch()
    running.later(30.0)
    running.watch()
    running.later(1.0)
    conditions = {one["type"]: one["status"] for one in running.pods["a"]["status"]["conditions"]}
    assert conditions["PodScheduled"] == "False"
    assert running.phase("a") == "Running", "as far as anybody knows"
    running.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="AGENT_REREGISTERED")
    conditions = {one["type"]: one["status"] for one in running.pods["a"]["status"]["conditions"]}
    assert conditions["PodScheduled"] == "True"
    assert running.phase("a") == "Running"


@pytest.mark.parametrize(("seconds", "replaced"), [(10, True), (None, False)])
def test_a_toleration_says_how_long(running: Desk, seconds: int | None, replaced: bool) -> None:
    toleration: dict[str, Any] = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
    }
    if seconds is not None:
        toleration["tolerationSeconds"] = seconds
    running.put({**running.pods["a"], "spec": {**running.pods["a"]["spec"], "tolerations": [toleration]}})
    running.watch()
    unreachable(running)
    running.later(3000.0 if seconds is None else seconds + 1)
    assert bool(running.state.pending) is replaced


def test_deletion_of_an_unreachable_pod_waits_for_its_return(running: Desk) -> None:
    unreachable(running)
    running.delete("a")
    assert not only(running.watch(), fx.KillTask), "nobody could hear it"
    running.later(3600.0)
    assert "a" in running.pods
    back = running.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="AGENT_REREGISTERED")
    assert only(back, fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]


def test_deletion_of_a_task_that_mesos_forgot_ends(running: Desk) -> None:
    running.delete("a")
    running.watch()
    running.tell("a.1", "UNKNOWN", uuid="", source="MASTER", reason="RECONCILIATION", agent_id="")
    assert "a" in running.pods
    running.later(300.0)
    assert "a" not in running.pods
    assert not running.tasks


def test_the_replacement_waits_until_a_returned_task_is_dead(running: Desk, offer: MakeOffer) -> None:
    unreachable(running)
    running.later(300.0)
    running.offer(offer("O2", "A2"))
    running.tell("a.1", "RUNNING", uuid="", source="MASTER")
    running.tell("a.2", "DROPPED", uuid="", source="MASTER", reason="INVALID_OFFERS")
    assert not only(running.offer(offer("O3", "A3")), fx.Accept)
    assert only(running.tell("a.1", "KILLED"), fx.Revive)
    assert only(running.offer(offer("O4", "A3")), fx.Accept)


# ---- reconciliation


def test_tasks_are_asked_about_until_answered(running: Desk) -> None:
    running.start()
    assert only(running.subscribe(), fx.Reconcile) == [fx.Reconcile((("a.1", "A1"),))]
    question = fx.Reconcile((("a.1", "A1"),))
    asked = [running.now for _ in range(100) if question in running.later(1.0)]
    gaps = [round(b - a) for a, b in pairwise(asked)]
    assert gaps == [10, 20, 40]
    running.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="RECONCILIATION")
    assert not any(question in running.later(1.0) for _ in range(400))


def test_everything_is_asked_for_once_subscribed_and_now_and_then(desk: Desk) -> None:
    desk.subscribe()
    assert only(desk.later(6.0), fx.Reconcile) == [fx.Reconcile(())]
    assert not only(desk.later(500.0), fx.Reconcile)
    assert only(desk.later(101.0), fx.Reconcile) == [fx.Reconcile(())]


def test_an_overdue_launch_is_asked_about(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1"))
    desk.later(10.0)
    assert only(desk.later(51.0), fx.Reconcile) == [fx.Reconcile((("a.1", "A1"),))]
    desk.tell("a.1", "GONE", uuid="", source="MASTER", reason="RECONCILIATION")
    assert "a" in desk.state.pending


# ---- identity


def test_the_framework_id_is_saved_before_anything_is_launched(desk: Desk) -> None:
    assert fx.SaveFramework("F1") in desk.subscribe()


def test_a_new_framework_id_is_refused(running: Desk) -> None:
    effects = running.frame(ev.Subscribed("F2"))
    assert only(effects, fx.Halt)
    assert not only(effects, fx.SaveFramework)
    assert not running.state.connected or running.framework_id == "F1"


def test_an_error_ends_the_framework(desk: Desk) -> None:
    desk.subscribe()
    assert desk.frame(ev.MasterError("Framework failed over"))[-1] == fx.Halt("Framework failed over")


def test_an_executor_that_the_offer_does_not_list_is_paid_for(running: Desk, offer: MakeOffer) -> None:
    """Its end may be known to the master and not yet to us: then it takes its share of the offer once more."""
    running.create("u2")
    running.watch()
    assert running.tasks["a.1"].started_at
    assert not only(running.offer(offer("O2", cpus=150)), fx.Accept), "100 for the pod, 100 for the executor"
    (accept,) = only(running.offer(offer("O3", cpus=200)), fx.Accept)
    assert [one.task.uid for one in accept.launches] == ["u2"]
