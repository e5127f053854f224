"""Several Mesos roles, and executors of their own: each role is asked for by itself, and pays for itself."""

from __future__ import annotations

import pytest

from scheduler.framework.core import effects as fx
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.vectors import Vector
from tests.engine.desk import Desk, MakeOffer, only

A, B = "eng", "batch"
ROLE, EXECUTOR, REVOCABLE = "gantry.io/role", "gantry.io/executor", "gantry.io/revocable"


@pytest.fixture
def roles(desk: Desk) -> Desk:
    """Subscribed in two roles; pods without a wish are of the first."""
    desk.policy = Policy(roles=(A, B))
    desk.start()
    desk.subscribe()
    return desk


def create(desk: Desk, uid: str, **notes: str) -> None:
    desk.create(uid)
    meta = {
        **desk.pods[uid]["metadata"],
        "annotations": {name.replace("_", "/"): v for name, v in notes.items()},
    }
    desk.put({**desk.pods[uid], "metadata": meta})


def test_only_the_role_that_a_pod_waits_for_is_revived(roles: Desk, offer: MakeOffer) -> None:
    assert roles.said[-1] == fx.Suppress((A, B))
    create(roles, "a", **{ROLE: B})
    assert only(roles.watch(), fx.Revive) == [fx.Revive((B,))]
    create(roles, "b")
    assert only(roles.watch(), fx.Revive) == [fx.Revive((A,))]
    effects = roles.offer(offer("O1", role=B))
    assert only(effects, fx.Accept)[0].launches[0].task.uid == "a"
    assert only(effects, fx.Suppress) == [fx.Suppress((B,))]


def test_an_accept_holds_offers_to_one_role(roles: Desk, offer: MakeOffer) -> None:
    create(roles, "a")
    create(roles, "b", **{ROLE: B})
    create(roles, "c", **{ROLE: B})
    roles.watch()
    offers = offer("O1", role=A), offer("O2", role=B), offer("O3", role=B, cpus=100)
    accepts = {one.role: one for one in only(roles.offer(*offers), fx.Accept)}
    assert accepts[A].offer_ids == ("O1",)
    assert accepts[B].offer_ids == ("O2", "O3")
    assert [one.task.uid for one in accepts[B].launches] == ["b", "c"]
    executors = {role: {one.executor.id for one in accept.launches} for role, accept in accepts.items()}
    assert len(executors[A]) == len(executors[B]) == 1
    assert executors[A] != executors[B], "an executor's resources are allocated to one role"


def test_offers_to_a_role_that_is_no_longer_ours_are_declined(roles: Desk, offer: MakeOffer) -> None:
    create(roles, "a")
    roles.watch()
    effects = roles.offer(offer("O1", role="former"))
    assert only(effects, fx.Decline) == [fx.Decline(("O1",), 3600.0)]
    assert not only(effects, fx.Accept)


def test_a_pod_of_a_role_that_is_no_longer_ours_says_so(roles: Desk) -> None:
    create(roles, "a", **{ROLE: "former"})
    assert not only(roles.watch(), fx.Revive)
    (event,) = only(roles.later(1.0), fx.Publish)
    assert event.reason == "FailedScheduling"
    assert event.message == "role former is not one of this framework's: eng, batch (see --roles)"


def test_a_role_asks_again_without_the_other(roles: Desk) -> None:
    create(roles, "a", **{ROLE: B})
    roles.watch()
    assert only(roles.later(15.0), fx.Revive) == [fx.Revive((B,))]


def test_a_dedicated_pod_has_an_executor_of_its_own_and_pays_for_it(desk: Desk, offer: MakeOffer) -> None:
    """300 thousandths: enough for a pod with a shared executor, and one more; the dedicated one needs 200."""
    desk.subscribe()
    create(desk, "a", **{EXECUTOR: "dedicated"})
    create(desk, "b", **{EXECUTOR: "dedicated"})
    create(desk, "c")
    desk.watch()
    (accept,) = only(desk.offer(offer("O1", cpus=600)), fx.Accept)
    assert [one.task.uid for one in accept.launches] == ["a", "b", "c"]
    assert len({one.executor.id for one in accept.launches}) == 3
    assert [one.executor.pod for one in accept.launches] == ["a", "b", ""]
    assert desk.state.left["A1"][""].free == Vector(0, 8_192_000 - 3 * 64_000 - 3 * 32_000, 20_000_000)
    create(desk, "d", **{EXECUTOR: "dedicated"})
    create(desk, "e")
    desk.watch()
    listed = tuple(one.executor.id for one in accept.launches)
    (again,) = only(desk.offer(offer("O2", cpus=199, executors=listed)), fx.Accept)
    assert [one.task.uid for one in again.launches] == ["e"], "only the shared executor is there already"
    assert again.launches[0].executor.id == listed[2]


def test_a_relaunched_dedicated_pod_gets_a_new_executor(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    create(desk, "a", **{EXECUTOR: "dedicated"})
    desk.watch()
    first = only(desk.offer(offer("O1")), fx.Accept)[0].launches[0]
    desk.tell("a.1", "RUNNING")
    desk.tell("a.1", "FAILED", source="AGENT", reason="EXECUTOR_TERMINATED")
    desk.watch()
    desk.later(60.0)
    (accept,) = only(desk.offer(offer("O2")), fx.Accept)
    assert accept.launches[0].task.id == "a.2"
    assert accept.launches[0].executor.id != first.executor.id
    assert len(desk.executors) == 1


# ---- revocable resources

SPARE = Vector(300, 200_000)


def test_a_pod_that_may_goes_onto_revocable_resources(desk: Desk, offer: MakeOffer) -> None:
    """With an executor that is revocable itself: Mesos refuses a mixture of both kinds."""
    desk.subscribe()
    create(desk, "a", **{REVOCABLE: "true"})
    create(desk, "b")
    desk.watch()
    offers = offer("O1"), offer("O2", cpus=0, mem=0, spare=SPARE), offer("O3", "A2")
    spare, ordinary = only(desk.offer(*offers), fx.Accept)
    assert (spare.offer_ids, spare.refuse) == (("O1", "O2"), 0.0)
    assert [(one.task.uid, one.executor.revocable) for one in spare.launches] == [("a", True)]
    assert [(one.task.uid, one.executor.revocable) for one in ordinary.launches] == [("b", False)]
    create(desk, "c")
    desk.watch()
    listed = (spare.launches[0].executor.id,)
    (accept,) = only(desk.offer(offer("O4", executors=listed, spare=SPARE)), fx.Accept)
    assert not accept.launches[0].executor.revocable, "shared only among its kind"


def test_without_enough_of_them_it_takes_ordinary_ones(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    for uid in ("a", "b", "c"):
        create(desk, uid, **{REVOCABLE: "true"})
    desk.watch()
    spare, ordinary = only(desk.offer(offer("O1", spare=SPARE), offer("O2", "A2")), fx.Accept)
    assert [(one.task.uid, one.executor.revocable) for one in spare.launches] == [("a", True), ("b", True)]
    assert [(one.task.uid, one.executor.revocable) for one in ordinary.launches] == [("c", False)]
    assert desk.state.left["A1"][""].free.cpus == 4000


def test_nobody_else_takes_them(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    create(desk, "a")
    desk.watch()
    effects = desk.offer(offer("O1", cpus=0, mem=0, spare=SPARE))
    assert not only(effects, fx.Accept)
    assert only(effects, fx.Decline) == [fx.Decline(("O1",), 3600.0)]


def test_a_node_takes_no_more_pods_for_having_two_kinds_of_resources(desk: Desk, offer: MakeOffer) -> None:
    desk.policy = Policy(max_pods=2)
    desk.start()
    desk.subscribe()
    create(desk, "a", **{REVOCABLE: "true"})
    create(desk, "b")
    create(desk, "c")
    desk.watch()
    (first,) = only(desk.offer(offer("O1", spare=SPARE)), fx.Accept)
    (second,) = only(desk.offer(offer("O2", spare=SPARE)), fx.Accept)
    assert [one.task.uid for one in (*first.launches, *second.launches)] == ["a", "b"]
