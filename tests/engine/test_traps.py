"""The traps that Mesos sets for frameworks, one named test each: identity, offers and calls, task state.

`docs/mesos-traps.md` says what each one is, and which tests it has elsewhere. Numbers are that document's. Each story
ends badly for a framework that does the obvious thing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from local.master.allocator import Allocator
from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.entities import AgentInfo
from scheduler.framework.core.lifecycle import LIVE, TERMINAL, TaskState
from scheduler.framework.core.vectors import Vector
from scheduler.framework.mesos import ExecutorTemplate, Mesos
from scheduler.framework.pools import Pool
from shared.mesos.resources import Resources
from tests.engine.cluster import Cluster
from tests.engine.desk import Desk, MakeOffer, only

MASTER = {"uuid": "", "source": "MASTER"}


def crash(step: Callable[[], object]) -> None:
    """Does something in whose midst the process may die."""
    with contextlib.suppress(RuntimeError):
        step()


@pytest.fixture
def cluster(new_cluster: Callable[[], Cluster]) -> Cluster:
    made = new_cluster()
    made.add_agent()
    made.subscribe()
    made.deliver(10)
    return made


def settle(cluster: Cluster, rounds: int = 30) -> None:
    """Time passes, everything works."""
    for _ in range(rounds):
        if not cluster.connected:
            cluster.subscribe()
        cluster.desk.watch()
        cluster.allocate()
        cluster.deliver(1000)
        for agent in cluster.agents.values():
            for one in agent.tasks.values():
                if one.state is TaskState.STAGED and agent.reachable:
                    cluster.update(agent, one, TaskState.RUNNING)
        cluster.deliver(1000)
        cluster.desk.later(10.0)


# ---- A. identity, leadership, failover


def test_trap_01_a_scheduler_that_is_taken_over_does_not_come_back(running: Desk) -> None:
    """The master always lets the last one in: a loop that subscribes again would evict the winner, and so on."""
    effects = running.frame(ev.MasterError("Framework failed over"))
    assert effects == [fx.Halt("Framework failed over")]
    assert set(running.tasks) == {"a.1"}, "what it knows stays in the store"


def test_trap_02_a_refusal_arrives_as_an_event(desk: Desk) -> None:
    """SUBSCRIBE is answered 200 before it is looked at; that no SUBSCRIBED comes is all there is."""
    effects = desk.frame(ev.MasterError("Framework is not authorized to use role 'x'"))
    assert only(effects, fx.Halt)
    assert not desk.state.connected
    assert not desk.framework_id


def test_trap_03_a_removed_framework_never_takes_another_id(running: Desk) -> None:
    """A new id would be granted at once, and all that runs under the old one would be nobody's."""
    effects = running.frame(ev.Subscribed("F2"))
    (halt,) = only(effects, fx.Halt)
    assert "F2" in halt.message
    assert "F1" in halt.message
    assert running.framework_id == "F1"
    assert not only(effects, fx.SaveFramework)


@pytest.mark.parametrize("effects_done", range(6))
def test_trap_04_a_crash_anywhere_around_accept_leaves_one_task(cluster: Cluster, effects_done: int) -> None:
    """Before the save, after it, after ACCEPT: Mesos remembers task ids only, and a fresh one is always new."""
    desk = cluster.desk
    desk.create("a")
    desk.watch()
    cluster.allocate()
    crash(lambda: cluster.deliver(10, crash_after=effects_done))
    cluster.disconnect()
    desk.start()
    settle(cluster)
    assert len(cluster.alive("a")) == 1
    assert desk.phase("a") == "Running"


def test_trap_04_offers_of_the_former_connection_are_poison(desk: Desk, offer: MakeOffer) -> None:
    """Failing over discards them without a RESCIND."""
    desk.create("a")
    desk.watch()
    effects = desk.frame(ev.Subscribed("F1"), ev.OffersReceived((offer("O1"),)), ev.Subscribed("F1"))
    assert not only(effects, fx.Accept)


# ---- B. offers and calls


@pytest.mark.parametrize("order", ["rescind first", "accept first"])
def test_trap_05_a_rescind_that_crosses_accept_costs_the_pod_nothing(cluster: Cluster, order: str) -> None:
    """One bad offer id drops every task of the call; as a pod's failure it would be delayed and counted."""
    desk = cluster.desk
    desk.create("a")
    desk.watch()
    cluster.allocate()
    (offer_id,) = cluster.offers
    if order == "rescind first":
        cluster.rescind(offer_id)
        cluster.deliver(1)  # the offer; its rescind is still on the way
    else:
        del cluster.offers[offer_id]
        cluster.deliver(1)
        cluster.stream.append(ev.OfferRescinded(offer_id))
    cluster.deliver(10)
    assert "a" in desk.state.pending
    cluster.allocate()
    cluster.deliver(10)
    task = desk.state.task_of("a")
    assert (task.id, task.failures, desk.state.agents[task.agent_id].strikes) == ("a.2", 0, 0)


def test_trap_06_a_hundred_pods_take_few_accepts(desk: Desk, offer: MakeOffer) -> None:
    """The remainder of an ACCEPT is hidden for 5 s by default: one pod an offer is one pod in 5 s an agent.

    Against the real rules of filters: a refusal hides every offer that it contains.
    """
    agent = Resources.parse("cpus:4;mem:8192;disk:20000")
    allocator = Allocator(1.0)
    allocator.add_framework("F1", ["gantry"], [], frozenset({"MULTI_ROLE"}))
    allocator.add_agent("A1", agent, {})
    desk.subscribe()
    small = [{"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}]
    accepts, launched, seconds = 0, 0, 0
    while launched < 100:
        for _ in range(40 if launched == 0 else 60):  # they come while others start
            if len(desk.pods) < 100:
                desk.create(f"p{len(desk.pods):03}", containers=small)
        effects = desk.watch()
        if only(effects, fx.Revive):
            allocator.revive("F1", [])
        for one in allocator.allocate(float(seconds)):
            free = Vector(
                one.resources.scalar("cpus"), one.resources.scalar("mem"), one.resources.scalar("disk")
            )
            listed = tuple(desk.executors)
            effects = desk.offer(offer(f"O{seconds}", executors=listed)._replace(amounts=free))
            left = one.resources
            for accept in only(effects, fx.Accept):
                accepts += 1
                launched += len(accept.launches)
                for launch in accept.launches:
                    cpus, mem = launch.amounts.cpus / 1000, launch.amounts.mem / 1000
                    left -= Resources.parse(f"cpus:{cpus};mem:{mem}").allocate("gantry")
                allocator.recover("F1", "A1", left, accept.refuse, float(seconds))
            for decline in only(effects, fx.Decline):
                allocator.recover("F1", "A1", left, decline.refuse, float(seconds))
        seconds += 1
        assert seconds <= 3, f"{launched} launched in {seconds} s"
    assert accepts <= 3


def test_trap_07_an_idle_framework_holds_nothing_and_stays_suppressed(desk: Desk, offer: MakeOffer) -> None:
    """Nobody takes offers back from who sits on them, and a new subscription ends suppression."""
    desk.subscribe()
    effects = desk.offer(*(offer(f"O{number}", f"A{number}") for number in range(20)))
    assert len(only(effects, fx.Decline)[0].offer_ids) == 20
    assert not desk.state.offers
    assert only(desk.subscribe(), fx.Suppress), "said anew on every connection"
    assert not only(desk.later(3600.0), fx.Revive)


def test_trap_07_roles_are_always_named() -> None:
    """A misspelt field is ignored by Mesos, and no roles means all of them."""
    calls: list[tuple[str, list[str]]] = []

    class Driver:
        def reviveOffers(self, roles: list[str]) -> None:
            calls.append(("REVIVE", roles))

        def suppressOffers(self, roles: list[str]) -> None:
            calls.append(("SUPPRESS", roles))

    mesos = Mesos(ExecutorTemplate({"value": "x"}), Vector(), lambda event: None)
    mesos.driver = Driver()  # type: ignore[assignment]
    mesos.perform(fx.Revive(("gantry",)), {})
    mesos.perform(fx.Suppress(("gantry",)), {})
    assert calls == [("REVIVE", ["gantry"]), ("SUPPRESS", ["gantry"])]


FOREIGN: list[dict[str, Any]] = [
    {"reservations": [{"type": "STATIC", "role": "other"}]},
    {
        "reservations": [
            {"type": "DYNAMIC", "role": "gantry", "labels": {"labels": [{"key": "owner", "value": "x"}]}}
        ]
    },
    {"role": "other"},
    {"role": "gantry", "reservation": {"principal": "somebody"}},
    {"disk": {"persistence": {"id": "v1"}, "volume": {"container_path": "data", "mode": "RW"}}},
    {"disk": {"source": {"type": "MOUNT", "mount": {"root": "/mnt"}}}},
    {"revocable": {}},
    {"shared": {}},
    {"provider_id": {"value": "p"}},
]


@pytest.mark.parametrize("mark", FOREIGN, ids=lambda mark: "-".join(mark))
def test_trap_08_what_is_not_ours_is_never_used(mark: dict[str, Any]) -> None:
    """On a shared role others' reservations and volumes are offered too; in both formats."""
    ours = {
        "name": "mem",
        "type": "SCALAR",
        "scalar": {"value": 100.0},
        "allocation_info": {"role": "gantry"},
    }
    theirs = {**ours, "scalar": {"value": 900.0}, **mark}
    pool = Pool([ours, theirs], "gantry")
    assert pool.vector().mem == 100_000
    assert all(not set(mark) & set(one) for one in pool.take(Vector(mem=100_000)))
    with pytest.raises(ValueError, match="the offers lack"):
        Pool([ours, theirs], "gantry").take(Vector(mem=100_001))


def test_trap_08_reserved_for_us_comes_first_and_nothing_is_mixed_up() -> None:
    base = {"name": "cpus", "type": "SCALAR", "allocation_info": {"role": "gantry"}}
    plain = {**base, "scalar": {"value": 1.0}}
    static = {**base, "scalar": {"value": 0.5}, "reservations": [{"type": "STATIC", "role": "gantry"}]}
    taken = Pool([plain, static], "gantry").take(Vector(cpus=700))
    assert [(one["scalar"]["value"], "reservations" in one) for one in taken] == [(0.5, True), (0.2, False)]


def test_trap_09_reconciliation_is_asked_after_what_it_asks_about() -> None:
    """Effects leave in one order, on one connection (tests/mesos): a RECONCILE before its ACCEPT would be answered
    with "unknown", and the task launched twice."""
    assert fx.ORDER.index(fx.Accept) < fx.ORDER.index(fx.KillTask) < fx.ORDER.index(fx.Reconcile)


# ---- C. task state and reconciliation


def test_trap_10_silence_after_a_masters_failover_is_not_death(new_cluster: Callable[[], Cluster]) -> None:
    """Only 3 of 10 agents are back: the implicit answer lists 30 %, the rest is not answered at all."""
    cluster = new_cluster()
    desk = cluster.desk
    for _ in range(10):
        cluster.add_agent(cpus=300)
    for number in range(20):
        desk.create(f"p{number:02}")
    settle(cluster)
    before = set(desk.tasks)
    assert {one.state for one in desk.tasks.values()} == {TaskState.RUNNING}
    away = dict(list(cluster.agents.items())[3:])
    cluster.disconnect()
    desk.frame(ev.Disconnected())
    unanswered = set()
    reconcile = cluster._reconcile

    def answer(tasks: tuple[tuple[str, str], ...]) -> None:
        """Of agents that are not back the master says nothing."""
        unanswered.update(task for task, agent in tasks if agent in away)
        known = tuple(one for one in tasks if one[1] not in away)
        if known or not tasks:
            reconcile(known)

    cluster._reconcile = answer
    for agent in away.values():
        agent.reachable = False
    cluster.subscribe()
    calls = 0
    for _ in range(60):
        cluster.deliver(1000)
        calls += len(only(desk.later(10.0), fx.Reconcile))
    assert set(desk.tasks) == before, "nothing was launched, nothing given up"
    assert len(unanswered) == sum(len(agent.tasks) for agent in away.values())
    assert calls <= 12, "resent, ever more rarely"
    for agent in away.values():
        agent.reachable = True
    cluster._reconcile = reconcile
    for _ in range(40):
        desk.later(10.0)
        cluster.deliver(1000)
    assert not desk.state.questions
    assert {one.state for one in desk.tasks.values()} == {TaskState.RUNNING}


def test_trap_10_fifty_thousand_tasks_are_asked_about_in_few_calls(running: Desk) -> None:
    task = running.state.tasks["a.1"]
    for number in range(50_000):
        running.state.put_task(replace(task, id=f"t{number}.1", uid=f"t{number}", agent_id="gone"))
    running.subscribe()
    calls = [one for _ in range(60) for one in only(running.later(1.0), fx.Reconcile) if one.tasks]
    assert len(calls) <= 5
    assert len(calls[0].tasks) >= 50_000


def test_trap_11_a_dead_task_that_comes_back_is_one_too_many(running: Desk, offer: MakeOffer) -> None:
    """After UNREACHABLE comes RUNNING; the default keeps the newer, see test_loss.py for the other policies."""
    running.tell("a.1", "UNREACHABLE", **MASTER, reason="AGENT_REMOVED")
    running.later(300.0)
    running.offer(offer("O2", "A2"))
    running.tell("a.2", "RUNNING")
    back = running.tell("a.1", "RUNNING", **MASTER, reason="AGENT_REREGISTERED")
    assert only(back, fx.KillTask) == [fx.KillTask("a.1", "A1", 0.0)]


def test_trap_11_even_one_that_had_ended(running: Desk) -> None:
    """Its agent missed the shutdown (MESOS-9940)."""
    running.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    back = running.tell("a.1", "RUNNING", **MASTER, reason="AGENT_REREGISTERED")
    assert only(back, fx.KillTask)
    assert running.phase("a") == "Succeeded"
    assert running.tasks["a.1"].state in TERMINAL


def test_trap_12_a_launch_to_an_old_agent_id_is_never_answered(desk: Desk, offer: MakeOffer) -> None:
    """The agent came back with another id and ignores the task: no update will ever come."""
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1", "S1", hostname="h"))
    asked = only(desk.later(61.0), fx.Reconcile)
    assert fx.Reconcile((("a.1", "S1"),)) in asked
    desk.tell("a.1", "UNKNOWN", agent_id="", **MASTER, reason="RECONCILIATION")
    desk.later(300.0)
    (accept,) = only(desk.offer(offer("O2", "S2", hostname="h")), fx.Accept)
    assert accept.launches[0].task.id == "a.2"
    assert set(desk.nodes) == {"h"}, "one machine is one node"
    assert desk.nodes["h"].agent_id == "S2"


def test_trap_12_what_ran_under_the_old_id_is_not_shown_under_the_new_one(running: Desk) -> None:
    info = AgentInfo("S9", "host-a1", 5051, total=Vector(4000, 8_192_000, 0))
    running.frame(ev.AgentsListed((info,)))
    assert running.nodes["host-a1"].agent_id == "S9"
    assert running.state.tasks_of("a")[0].agent_id == "A1"
    assert not running.state.by_agent.get("S9"), "its room is not taken by tasks that are not there"


@pytest.mark.parametrize("restarted", [False, True])
def test_trap_12_nobody_waits_for_an_agent_whose_machine_has_another_one(
    running: Desk, offer: MakeOffer, restarted: bool
) -> None:
    """The master forgot the old id and says UNKNOWN; that is not waited out, since another agent has its address. Not
    even for pods that must be known to be dead: Mesos removes the old agent when a new one registers there."""
    meta = {**running.pods["a"]["metadata"], "ownerReferences": [{"kind": "StatefulSet"}]}
    running.put({**running.pods["a"], "metadata": meta})
    running.watch()
    running.offer(offer("O2", "S9", hostname="host-a1"))
    if restarted:
        running.start()
        running.subscribe()
        running.offer(offer("O3", "S9", hostname="host-a1"))
    asked = [one for _ in range(6) for one in only(running.later(1.0), fx.Reconcile) if one.tasks]
    assert restarted or ("a.1", "A1") in {one for call in asked for one in call.tasks}
    assert "a" not in running.state.pending
    running.tell("a.1", "UNKNOWN", agent_id="", **MASTER, reason="RECONCILIATION")
    running.later(0.0)
    (accept,) = only(running.offer(offer("O4", "S9", hostname="host-a1")), fx.Accept)
    assert (accept.launches[0].task.id, accept.launches[0].task.failures) == ("a.2", 0)
    assert set(running.tasks) == {"a.2"}


def test_trap_12_two_agents_of_one_name_are_two_nodes(running: Desk, offer: MakeOffer) -> None:
    """Both are registered: the one has not become the other, and its pods are not dead."""
    infos = [AgentInfo(one, "host-a1", 5051, total=Vector(4000, 8_192_000, 0)) for one in ("A1", "A2")]
    running.frame(ev.AgentsListed(tuple(infos)))
    assert {node.agent_id for node in running.nodes.values()} == {"A1", "A2"}
    running.frame(ev.AgentsListed((infos[1],)))
    running.tell("a.1", "UNREACHABLE", **MASTER, reason="AGENT_REMOVED")
    running.later(100.0)
    assert not running.state.pending


def test_trap_13_a_kill_is_repeated_until_the_task_has_ended(running: Desk) -> None:
    """Deleted while its agent was away, which returns an hour later: nobody but us remembers the kill."""
    running.tell("a.1", "UNREACHABLE", **MASTER, reason="AGENT_REMOVED")
    running.watch()
    running.delete("a", grace=3)
    running.watch()
    running.later(3600.0)
    assert "a" in running.pods, "the object stays until the end is known"
    back = running.tell("a.1", "RUNNING", **MASTER, reason="AGENT_REREGISTERED")
    assert only(back, fx.KillTask) == [fx.KillTask("a.1", "A1", 3.0)]
    assert only(running.later(5.1), fx.KillTask), "lost on the way, sent again"
    running.tell("a.1", "KILLED")
    assert not running.pods


def test_trap_13_a_kill_survives_a_failover_of_ours_and_of_the_masters(running: Desk) -> None:
    running.delete("a")
    running.watch()
    running.start()
    assert only(running.subscribe(), fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]
    running.frame(ev.Disconnected())
    assert only(running.subscribe(), fx.KillTask) == [fx.KillTask("a.1", "A1", 30.0)]


def test_trap_13_nothing_is_killed_because_the_master_does_not_know_it(running: Desk) -> None:
    """KILL of an unknown task is answered with UNKNOWN: killing on UNKNOWN is a loop."""
    running.delete("a")
    running.watch()
    running.said.clear()
    for _ in range(50):
        running.tell("a.1", "UNKNOWN", **MASTER, reason="RECONCILIATION")
    assert not only(running.said, fx.KillTask)


def test_trap_14_updates_come_thrice_and_each_is_acknowledged(running: Desk) -> None:
    """An update that is not acknowledged hides all later ones of its task."""
    for state, uuid in (("RUNNING", "u1"), ("KILLING", "u2"), ("RUNNING", "u1"), ("FINISHED", "u3")):
        for _ in range(3):
            effects = running.tell("a.1", state, uuid=uuid, pod_status=None)
            assert [one.uuid for one in only(effects, fx.Acknowledge)] == [uuid]
    assert running.phase("a") == "Succeeded"
    assert not running.state.pending


def test_trap_14_offered_resources_may_belong_to_a_pod_that_still_runs(
    running: Desk, offer: MakeOffer
) -> None:
    """The master frees them when the agent says so, before the update is acknowledged."""
    running.create("b")
    running.watch()
    executor = running.tasks["a.1"].executor_id
    (accept,) = only(running.offer(offer("O2", executors=(executor,))), fx.Accept)
    assert accept.launches[0].task.uid == "b"
    assert running.phase("a") == "Running"
    running.tell("a.1", "FINISHED", uuid="late")
    assert running.phase("a") == "Succeeded"


def test_trap_14_a_crash_between_receipt_and_save_acknowledges_nothing(running: Desk) -> None:
    end = ev.TaskReported("a.1", TaskState.FINISHED, "A1", uuid="u9", source="EXECUTOR")
    running.said.clear()
    crash(lambda: running.frame(end, crash_after=0))
    assert "a.1" in running.tasks
    assert running.phase("a") == "Running"
    assert not only(running.said, fx.Acknowledge)
    running.start()
    running.subscribe()
    assert only(running.frame(end), fx.Acknowledge), "the agent sends it again"
    assert running.phase("a") == "Succeeded"


def test_trap_15_a_launch_into_an_executor_that_just_ended_is_bounced(
    running: Desk, offer: MakeOffer
) -> None:
    """The agent keeps the id until all updates are acknowledged; the same id again would bounce for ever."""
    first = running.tasks["a.1"].executor_id
    running.create("b")
    running.watch()
    running.offer(offer("O2", executors=(first,)))
    assert running.tasks["b.1"].executor_id == first
    running.tell("b.1", "DROPPED", source="AGENT", reason="EXECUTOR_TERMINATED")
    (accept,) = only(running.offer(offer("O3", executors=(first,))), fx.Accept)
    (launch,) = accept.launches
    assert launch.task.agent_id == "A1", "the same agent takes it"
    assert launch.executor.id != first
    assert launch.task.failures == 0
    assert launch.task.state in LIVE
