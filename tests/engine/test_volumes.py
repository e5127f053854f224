"""Volumes in the core: made with the first pod of a claim, used by one task at a time, gone with the claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core import volumes
from scheduler.framework.core.claims import Claim, Held, Volume, VolumeState
from tests.engine.desk import only

MOUNT = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}


def held(volume: Volume) -> Held:
    return Held(volume.role, volume.id, volume.claim_uid, volume.claim_key)


def messages(effects: list[fx.Effect]) -> list[str]:
    return [one.message for one in only(effects, fx.Publish)]


@pytest.fixture(autouse=True)
def _subscribed(desk: Any) -> None:
    desk.subscribe()


@pytest.fixture
def bound(desk: Any, offer: Callable[..., Any]) -> Volume:
    """A volume of claim data that pod a uses on agent A1."""
    desk.create_claim("data")
    desk.create("a", **MOUNT)
    desk.watch()
    desk.offer(offer("O1"))
    desk.tell("a.1", "RUNNING", pod_status={"phase": "Running"})
    desk.watch()
    (volume,) = desk.volumes.values()
    return volume


def end(desk: Any, uid: str = "a") -> None:
    """The user deletes the pod; it ends."""
    desk.delete(uid)
    desk.watch()
    desk.tell(f"{uid}.1", "KILLED")
    desk.watch()


def test_the_first_pod_makes_the_volume_where_it_goes(desk: Any, offer: Callable[..., Any]) -> None:
    desk.create_claim("data", size=64_000)
    desk.create("a", **MOUNT)
    desk.watch()
    effects = desk.offer(offer("O1"))
    (accept,) = only(effects, fx.Accept)
    (launch,) = accept.launches
    (use,) = launch.volumes
    assert use.create
    assert (use.volume.node, use.volume.claim_uid, use.volume.size) == ("host-a1", "u-data", 64_000)
    assert launch.amounts.disk == 0, "the volume is not the task's own disk as well"
    assert launch.task.volumes == (use.volume.id,)
    kinds = [type(one) for one in effects]
    assert kinds.index(fx.SaveVolume) < kinds.index(fx.Accept), "recorded before it is made"
    assert desk.claims["default/data"].phase == "Pending"
    desk.tell("a.1", "STARTING")
    assert desk.claims["default/data"].phase == "Bound"
    assert desk.volumes[use.volume.id].state is VolumeState.BOUND


def test_volumes_are_made_of_unreserved_disk_only(desk: Any, offer: Callable[..., Any]) -> None:
    desk.create_claim("data", size=64_000)
    desk.create("a", **MOUNT)
    desk.watch()
    assert not only(desk.offer(offer("O1", raw_disk=63_999)), fx.Accept)
    (accept,) = only(desk.offer(offer("O2", "A2", raw_disk=64_000)), fx.Accept)
    assert accept.agent_id == "A2"


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (None, 'persistentvolumeclaim "data" not found'),
        (Claim("u", "default", "data", 1000, deleted=True), 'persistentvolumeclaim "data" is being deleted'),
    ],
)
def test_a_pod_without_its_claim_waits_and_says_why(
    desk: Any, offer: Callable[..., Any], claim: Claim | None, reason: str
) -> None:
    desk.create("other", **MOUNT)  # keeps a deleted claim
    desk.watch()
    if claim:
        desk.put_claim(claim)
    desk.watch()
    effects = [*desk.offer(offer("O1")), *desk.later(2.0)]
    assert not only(effects, fx.Accept)
    assert reason in messages(effects)


def test_the_pod_goes_when_its_claim_comes(desk: Any, offer: Callable[..., Any]) -> None:
    desk.create("a", **MOUNT)
    desk.watch()
    desk.offer(offer("O1"))
    desk.create_claim("data")
    assert only(desk.watch(), fx.Revive), "the offer is hidden by a filter"
    assert only(desk.offer(offer("O2")), fx.Accept)


def test_two_pods_of_one_claim_never_run_at_once(desk: Any, offer: Callable[..., Any]) -> None:
    desk.create_claim("data")
    desk.create("a", **MOUNT)
    desk.create("b", **MOUNT)
    desk.watch()
    (accept,) = only(desk.offer(offer("O1")), fx.Accept)
    assert [one.task.uid for one in accept.launches] == ["a"]
    assert not only(desk.offer(offer("O2")), fx.Accept)
    desk.tell("a.1", "RUNNING")
    effects = desk.later(2.0)
    assert 'persistentvolumeclaim "data" is in use by another pod' in messages(effects)


def test_the_next_pod_goes_where_the_volume_is(desk: Any, bound: Volume, offer: Callable[..., Any]) -> None:
    end(desk)
    desk.create("b", **MOUNT)
    desk.watch()
    assert not only(desk.offer(offer("O2", "A2")), fx.Accept)
    assert not only(desk.offer(offer("O3")), fx.Accept), "the right agent, but the volume is not in the offer"
    assert any("had volume node affinity conflict" in one for one in messages(desk.later(2.0)))
    (accept,) = only(desk.offer(offer("O4", held=(held(bound),))), fx.Accept)
    (use,) = accept.launches[0].volumes
    assert (use.create, use.volume.id) == (False, bound.id)


def test_the_volume_is_found_on_an_agent_with_another_id(
    desk: Any, bound: Volume, offer: Callable[..., Any]
) -> None:
    end(desk)
    desk.create("b", **MOUNT)
    desk.watch()
    renewed = offer("O2", "A9", hostname="host-a1", held=(held(bound),))
    (accept,) = only(desk.offer(renewed), fx.Accept)
    assert (accept.agent_id, accept.launches[0].task.node) == ("A9", "host-a1")


def test_a_launch_that_failed_before_the_volume_was_made(desk: Any, offer: Callable[..., Any]) -> None:
    desk.create_claim("data")
    desk.create("a", **MOUNT)
    desk.watch()
    desk.offer(offer("O1"))
    (first,) = desk.volumes
    desk.tell("a.1", "DROPPED", source="MASTER", reason="INVALID_OFFERS")
    desk.watch()
    effects = desk.offer(offer("O2"))
    assert only(effects, fx.DropVolume) == [fx.DropVolume(first)]
    effects += desk.offer(offer("O3", "A2"))
    (accept,) = only(effects, fx.Accept)
    (use,) = accept.launches[0].volumes
    assert use.create
    assert use.volume.id != first, "the id may be on another agent all the same"


def test_a_launch_that_failed_after_the_volume_was_made(desk: Any, offer: Callable[..., Any]) -> None:
    desk.create_claim("data")
    desk.create("a", **MOUNT)
    desk.watch()
    desk.offer(offer("O1"))
    (volume,) = desk.volumes.values()
    desk.tell("a.1", "DROPPED", source="AGENT", reason="EXECUTOR_TERMINATED")
    desk.watch()
    effects = desk.offer(offer("O2", held=(held(volume),)))
    assert desk.claims["default/data"].phase == "Bound"
    desk.later(600.0)  # the agent is left alone for a while
    effects += desk.offer(offer("O3", held=(held(volume),)))
    (accept,) = only(effects, fx.Accept)
    assert accept.launches[0].volumes == (fx.Use(desk.volumes[volume.id], create=False),)


def test_a_claim_in_use_goes_after_its_pod(desk: Any, bound: Volume, offer: Callable[..., Any]) -> None:
    desk.delete_claim("data")
    assert not only(desk.watch(), fx.ReleaseClaim)
    end(desk)
    desk.watch()
    assert not desk.claims
    assert desk.volumes[bound.id].state is VolumeState.RELEASED
    (accept,) = only(desk.offer(offer("O2", held=(held(bound),))), fx.Accept)
    assert (accept.doomed, accept.launches, accept.refuse) == ((held(bound),), (), 0.0)
    assert bound.id in desk.volumes, "it may still be there"
    effects = desk.offer(offer("O3"))
    assert only(effects, fx.DropVolume) == [fx.DropVolume(bound.id)]
    assert only(effects, fx.Suppress), "nothing is wanted any more"


def test_a_finished_pod_does_not_keep_a_claim(desk: Any, bound: Volume) -> None:
    desk.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    desk.pods["a"]["spec"]["restartPolicy"] = "Never"
    desk.delete("a", 0)
    desk.delete_claim("data")
    desk.watch()
    desk.watch()
    assert not desk.claims


def test_a_claim_removed_by_force_leaves_nothing_behind(
    desk: Any, bound: Volume, offer: Callable[..., Any]
) -> None:
    desk.remove_claim(desk.claims["default/data"])
    desk.watch()
    assert desk.volumes[bound.id].state is VolumeState.RELEASED
    assert not only(desk.offer(offer("O2")), fx.DropVolume), "its task holds it"
    end(desk)
    (accept,) = only(desk.offer(offer("O3", held=(held(bound),))), fx.Accept)
    assert accept.doomed == (held(bound),)


def test_strays_are_destroyed_after_a_grace(desk: Any, offer: Callable[..., Any]) -> None:
    stray, bare = Held("", "old", "u", "default/x"), Held("", "", "u2", "default/y")
    desk.create("a", nodeName="nowhere")  # keeps offers coming
    desk.watch()
    assert not only(desk.offer(offer("O1", held=(stray, bare))), fx.Accept)
    desk.later(59.0)
    assert not only(desk.offer(offer("O2", held=(stray, bare))), fx.Accept)
    desk.later(1.0)
    (accept,) = only(desk.offer(offer("O3", held=(stray, bare))), fx.Accept)
    assert set(accept.doomed) == {stray, bare}


def test_a_node_that_is_gone_takes_its_claims_with_it_and_back(
    desk: Any, bound: Volume, offer: Callable[..., Any]
) -> None:
    end(desk)
    effects = desk.frame(ev.AgentLost("A1"))
    assert desk.claims["default/data"].phase == "Lost"
    (event,) = [one for one in only(effects, fx.Publish) if one.kind == "PersistentVolumeClaim"]
    assert (event.reason, event.name) == ("ClaimLost", "data")
    desk.create("b", **MOUNT)
    desk.watch()
    assert any("whose node host-a1 is gone" in one for one in messages(desk.later(2.0)))
    desk.offer(offer("O2", held=(held(bound),)))
    assert desk.claims["default/data"].phase == "Bound"
    assert desk.tasks["b.1"].volumes == (bound.id,)


# ---- nodes that never come back

GONE = {"agent_id": "A1", "uuid": "", "source": "MASTER", "reason": "RECONCILIATION", "agent_gone": True}


def probe(effects: list[fx.Effect]) -> list[tuple[str, str]]:
    return [
        one for call in only(effects, fx.Reconcile) for one in call.tasks if one[0].startswith(volumes.PROBE)
    ]


def remove_claim(desk: Any) -> None:
    """Its user deleted it, and nobody mounts it."""
    del desk.claims["default/data"]
    desk.frame(ev.ClaimGone("u-data"))


def test_mesos_is_asked_whether_an_agent_with_volumes_comes_back(desk: Any, bound: Volume) -> None:
    end(desk)
    asked = probe(desk.frame(ev.AgentLost("A1")))
    assert asked == [(volumes.PROBE + "A1", "A1")]
    assert asked[0] in probe(desk.later(desk.policy.implicit_every)), "and now and then again"
    effects = desk.tell(asked[0][0], "UNREACHABLE", **{**GONE, "agent_gone": False})
    assert not only(effects, fx.KillTask)
    assert bound.id in desk.volumes


def test_a_volume_to_be_destroyed_is_forgotten_with_its_agent(desk: Any, bound: Volume) -> None:
    end(desk)
    desk.frame(ev.AgentLost("A1"))
    remove_claim(desk)
    assert desk.volumes[bound.id].state is VolumeState.RELEASED, "it may come back"
    effects = desk.tell(volumes.PROBE + "A1", "GONE", **GONE)
    assert not desk.volumes
    (event,) = only(effects, fx.Publish)
    assert (event.kind, event.name, event.reason) == ("PersistentVolume", bound.id, "VolumeGone")
    assert not probe(desk.later(desk.policy.implicit_every))


def test_a_claim_outlives_its_data_until_it_is_deleted(desk: Any, bound: Volume) -> None:
    end(desk)
    desk.frame(ev.AgentLost("A1"))
    (event,) = only(desk.tell(volumes.PROBE + "A1", "GONE", **GONE), fx.Publish)
    assert (event.kind, event.name, event.reason) == ("PersistentVolumeClaim", "data", "ClaimLost")
    assert "was marked gone" in event.message
    assert desk.claims["default/data"].phase == "Lost"
    assert bound.id in desk.volumes
    remove_claim(desk)
    assert not desk.volumes


def test_the_end_of_a_task_says_it_too(desk: Any, bound: Volume) -> None:
    """An agent is marked gone while its pod runs: that is told before the agent is lost."""
    desk.tell("a.1", "GONE", **GONE)
    desk.delete("a")
    desk.watch()
    remove_claim(desk)
    assert bound.id in desk.volumes, "the node is still there"
    desk.frame(ev.AgentLost("A1"))
    assert not desk.volumes


def test_who_deletes_a_node_gives_its_volumes_up(desk: Any, bound: Volume, offer: Callable[..., Any]) -> None:
    end(desk)
    remove_claim(desk)
    desk.frame(ev.AgentLost("A1"))
    assert bound.id in desk.volumes
    desk.frame(ev.NodeGone("host-a1"))
    assert not desk.volumes
    grace = desk.policy.stray_grace
    desk.offer(offer("O2", held=(held(bound),)))
    desk.later(grace)
    (accept,) = only(desk.offer(offer("O3", held=(held(bound),))), fx.Accept)
    assert accept.doomed == (held(bound),), "should it come back after all"


def test_a_node_that_is_deleted_and_lives_keeps_its_volumes(
    desk: Any, bound: Volume, offer: Callable[..., Any]
) -> None:
    end(desk)
    desk.frame(ev.NodeGone("host-a1"))
    assert desk.claims["default/data"].phase == "Lost"
    desk.offer(offer("O2", held=(held(bound),)))
    assert desk.claims["default/data"].phase == "Bound"
    assert not desk.volumes[bound.id].lost


def test_a_restart_forgets_nothing(desk: Any, bound: Volume, offer: Callable[..., Any]) -> None:
    desk.create("b", **MOUNT)
    desk.watch()
    desk.start()
    desk.subscribe()
    desk.tell("a.1", "RUNNING", uuid="", source="MASTER", reason="RECONCILIATION")
    assert not only(desk.offer(offer("O2")), fx.Accept), "a still uses it"
    assert desk.volumes[bound.id].state is VolumeState.BOUND
    end(desk)
    (accept,) = only(desk.offer(offer("O3", held=(held(bound),))), fx.Accept)
    assert [one.task.uid for one in accept.launches] == ["b"]


def test_a_claim_that_vanished_while_we_were_away(desk: Any, bound: Volume) -> None:
    del desk.claims["default/data"]
    desk.start()
    assert desk.volumes[bound.id].state is VolumeState.RELEASED
