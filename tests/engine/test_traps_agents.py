"""The traps that Mesos sets for frameworks, one named test each: executors, agents, arithmetic, operators.

See `test_traps.py` and `docs/mesos-traps.md`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.stage1 import cgroups
from executor.stage1.cgroups import PodCgroup
from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.vectors import ZERO, Vector
from scheduler.framework.mesos import ExecutorTemplate, Mesos, Payload
from scheduler.framework.pools import Pool
from shared.mesos.resources import Resources
from tests.engine.desk import Desk, MakeOffer, only

MASTER = {"uuid": "", "source": "MASTER"}


@pytest.fixture
def running(desk: Desk, offer: MakeOffer) -> Desk:
    """Pods a, b and c run on agent A1 in one executor."""
    desk.subscribe()
    for name in "abc":
        desk.create(name)
    desk.watch()
    desk.offer(offer("O1"))
    for name in "abc":
        desk.tell(f"{name}.1", "RUNNING", pod_status={"phase": "Running"}, server="10.0.0.1:4000")
    desk.watch()
    desk.said.clear()
    return desk


# ---- D. executor and agent


def test_trap_16_an_upgrade_never_changes_an_executor_that_lives(running: Desk, offer: MakeOffer) -> None:
    """The same id with another ExecutorInfo (a URI, an environment value, a role) is a TASK_ERROR."""
    old = running.tasks["a.1"].executor_id
    running.policy = replace(running.policy, executor_version="new")
    running.start()
    running.subscribe()
    for name in "abc":
        running.tell(f"{name}.1", "RUNNING", **MASTER, reason="RECONCILIATION")
    running.create("d")
    running.watch()
    (accept,) = only(running.offer(offer("O2", executors=(old,))), fx.Accept)
    executor = accept.launches[0].executor
    assert executor.id != old
    assert ".new." in executor.id
    assert old in running.executors, "its pods run on"
    assert not only(running.said, fx.KillTask)


def test_trap_16_a_refused_executor_is_not_tried_again(running: Desk, offer: MakeOffer) -> None:
    first = running.tasks["a.1"].executor_id
    running.create("d")
    running.watch()
    running.offer(offer("O2", executors=(first,)))
    running.tell("d.1", "ERROR", **MASTER, reason="TASK_INVALID", message="ExecutorInfo is not compatible")
    running.later(11.0)
    (accept,) = only(running.offer(offer("O3", executors=(first,))), fx.Accept)
    assert accept.launches[0].executor.id != first


def test_trap_16_an_executor_pays_for_itself_once(running: Desk, offer: MakeOffer) -> None:
    """Its resources count only if it is new on the agent."""
    executor = running.tasks["a.1"].executor_id
    running.create("d")
    running.create("e")
    running.watch()
    (accept,) = only(running.offer(offer("O2", cpus=200, executors=(executor,))), fx.Accept)
    assert len(accept.launches) == 2


def test_trap_17_a_slow_fetch_is_not_a_crashing_pod(desk: Desk, offer: MakeOffer) -> None:
    """The registration timeout runs while the executor is fetched: on a cold cluster it hits everything at once."""
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1"))
    timeout = "EXECUTOR_REGISTRATION_TIMEOUT"
    desk.tell("a.1", "FAILED", source="AGENT", reason=timeout, message="did not register within 1mins")
    assert desk.pods["a"]["status"]["reason"] == "ExecutorRegistrationTimeout"
    both = (offer("O2"), offer("O3", "A2", cpus=8000))
    (accept,) = only(desk.offer(*both), fx.Accept)
    assert accept.agent_id == "A2", "not there again at once, though it is fuller"
    assert accept.launches[0].task.failures == 0


def test_trap_17_with_one_agent_it_is_tried_there_again(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.create("a")
    desk.watch()
    desk.offer(offer("O1"))
    desk.tell("a.1", "FAILED", source="AGENT", reason="EXECUTOR_REGISTRATION_TIMEOUT")
    assert not only(desk.offer(offer("O2")), fx.Accept)
    desk.later(60.0)
    assert only(desk.offer(offer("O3")), fx.Accept)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("DROPPED", "AGENT_RESTARTED"),
        ("GONE", "EXECUTOR_REREGISTRATION_TIMEOUT"),
        ("LOST", "AGENT_DISCONNECTED"),
    ],
)
def test_trap_18_what_an_agents_restart_threw_away_is_launched_again(
    running: Desk, offer: MakeOffer, state: str, reason: str
) -> None:
    """Tasks on their way are dropped, executors that are late lose theirs; no pod is to blame."""
    running.tell("a.1", state, source="AGENT", reason=reason)
    (accept,) = only(running.offer(offer("O2")), fx.Accept)
    assert (accept.launches[0].task.id, accept.launches[0].task.failures) == ("a.2", 0)


def test_trap_19_the_second_end_of_a_task_changes_nothing(running: Desk) -> None:
    """The executor's own rules are tested in tests/mesos; here: what a sloppy one cannot do to us."""
    running.tell("a.1", "FINISHED", pod_status={"phase": "Succeeded"})
    effects = running.tell("a.1", "FAILED", uuid="again")
    assert [one.uuid for one in only(effects, fx.Acknowledge)] == ["again"]
    assert running.phase("a") == "Succeeded"
    assert running.state.counters["illegal task transitions"] == 1


def test_trap_20_a_failed_resize_takes_the_whole_executor_with_it(running: Desk, offer: MakeOffer) -> None:
    """Every pod in it is started again once, none counts as crashing, the agent gets one strike."""
    running.now += 1.0
    for name in "abc":
        running.tell(f"{name}.1", "GONE", source="AGENT", reason="CONTAINER_UPDATE_FAILED")
    (accept,) = only(running.offer(offer("O2")), fx.Accept)
    assert sorted(one.task.id for one in accept.launches) == ["a.2", "b.2", "c.2"]
    assert {one.task.failures for one in accept.launches} == {0}
    assert running.state.agents["A1"].strikes == 1
    assert not only(running.offer(offer("O3")), fx.Accept)


def taken_for(version: int, cgroup: str, root: str) -> str | None:
    """The container that an agent with this cgroup root takes a cgroup for when it recovers: v2 as
    `cgroups2::containerId`, v1 as `parseCgroupPath` (src/slave/containerizer/mesos/paths.cpp)."""
    if not (cgroup + "/").startswith(f"/{root}/") or cgroup == f"/{root}":
        return None
    names = cgroup.removeprefix(f"/{root}/").split("/")
    if version == 2:
        return ".".join(one for one in names if one != "leaf")
    return ".".join(names[::2]) if all(one == "mesos" for one in names[1::2]) else None


@pytest.mark.parametrize("app", ["main", "mesos", "leaf"])
@pytest.mark.parametrize("root", ["mesos", "gantry", "gantry-pods", "system.slice/mesos"])
@pytest.mark.parametrize("version", [1, 2])
def test_trap_21_an_agent_takes_no_cgroup_of_a_pod_for_a_container_of_its_own(
    version: int, root: str, app: str
) -> None:
    """What it took for an unknown nested container it would destroy at its restart, or crash about."""
    own, mounts = {
        1: (f"4:memory:/{root}/c1\n", "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
        2: (f"0::/{root}/c1/leaf\n", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
    }[version]
    mount = {1: "/sys/fs/cgroup/memory", 2: "/sys/fs/cgroup"}[version]
    (pod,) = PodCgroup(cgroups.detect(own, mounts), "6f1b2c3d").directories
    above = [f"{pod}/{app}", pod, str(Path(pod).parent)]
    found = {taken_for(version, one.removeprefix(mount), root) for one in above} - {"c1"}
    assert found == {None}
    assert taken_for(version, f"/{root}/c1" + ("/mesos/c2" if version == 1 else "/c2/leaf"), root) == "c1.c2"


def test_trap_22_executors_get_more_than_five_seconds_to_end() -> None:
    """SHUTDOWN leaves 5 s unless ExecutorInfo says otherwise: shorter than a pod's grace."""
    info = ExecutorTemplate({"value": "x"}).info("e", [])
    assert info["shutdown_grace_period"]["nanoseconds"] >= 600 * 10**9


# ---- E. validation, arithmetic, operators


def test_trap_23_ten_thousand_tenths_leave_nothing() -> None:
    tenth, total = Vector(cpus=100), ZERO
    for _ in range(10_000):
        total = total + tenth
    for _ in range(10_000):
        total = total - tenth
    assert total == ZERO
    left = Resources.parse("cpus:1000")
    for _ in range(10_000):
        left -= Resources.parse("cpus:0.1")
    assert not left


@pytest.mark.parametrize(
    ("asked", "cpus"), [("1m", 10), ("500u", 10), ("100n", 10), ("11m", 11), ("0.0111", 12), ("333333u", 334)]
)
def test_trap_23_quantities_are_rounded_up_to_what_mesos_can_count(asked: str, cpus: int) -> None:
    """What rounds to 0 is an invalid resource; rounding down would promise more than there is."""
    spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": asked}}}]}
    pod = pod_from_object({"metadata": {"uid": "u", "namespace": "d", "name": "n"}, "spec": spec})
    assert pod.needs.amounts.cpus == cpus


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=5), st.lists(st.integers(1, 900), max_size=30))
def test_trap_23_what_is_taken_never_exceeds_what_was_offered(offered: list[int], asked: list[int]) -> None:
    """In steps of a thousandth, as the master counts: offered - used covers nothing less than zero."""
    resources = [
        {"name": "cpus", "type": "SCALAR", "scalar": {"value": one / 1000}, "allocation_info": {"role": "r"}}
        for one in offered
    ]
    pool, left = Pool(resources, "r"), Resources.from_json(resources)
    for amount in asked:
        if pool.vector().cpus < amount:
            break
        taken = Resources.from_json(pool.take(Vector(cpus=amount)))
        assert taken.scalar("cpus") == amount
        assert left.contains(taken)
        left -= taken
    assert left.scalar("cpus") == pool.vector().cpus


def test_trap_24_task_ids_fit_and_are_never_used_again(desk: Desk, offer: MakeOffer) -> None:
    """The master forgets ids: one that is used again sometimes works, and then two tasks share it."""
    uid = "6f1b2c3d-1111-2222-3333-444455556666"
    desk.subscribe()
    desk.create(uid, name="n" * 253)
    desk.watch()
    seen: set[str] = set()
    for number in range(100):
        desk.later(400.0)
        (accept,) = only(desk.offer(offer(f"O{number}")), fx.Accept)
        (launch,) = accept.launches
        assert launch.task.id not in seen
        assert re.fullmatch(r"[^/\\\x00-\x1f\x7f]{1,255}", launch.task.id)
        seen.add(launch.task.id)
        desk.tell(launch.task.id, "FAILED")
        if number % 10 == 5:
            desk.start()
            desk.subscribe()
    assert len(seen) == 100


def test_trap_24_a_pod_of_the_same_name_is_another_pod(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    ids = set()
    for number in range(100):
        desk.create(f"uid-{number}", name="web-0")
        desk.watch()
        (accept,) = only(desk.offer(offer(f"O{number}")), fx.Accept)
        ids.add(accept.launches[0].task.id)
        desk.delete(f"uid-{number}", grace=0)
        desk.watch()
        desk.tell(accept.launches[0].task.id, "KILLED")
    assert len(ids) == 100


@pytest.mark.parametrize(
    ("state", "source"),
    [("KILLED", "EXECUTOR"), ("GONE", "EXECUTOR"), ("DROPPED", "AGENT"), ("KILLED", "AGENT")],
)
@pytest.mark.parametrize("restart", ["Always", "OnFailure"])
def test_trap_25_a_kill_that_nobody_asked_for_is_no_deletion(
    running: Desk, offer: MakeOffer, state: str, source: str, restart: str
) -> None:
    """A drain makes KILLED of everything; after a reactivation the agent still drops what it gets."""
    spec = {**running.pods["a"]["spec"], "restartPolicy": restart}
    running.put({**running.pods["a"], "spec": spec})
    running.watch()
    running.tell("a.1", state, source=source, reason="AGENT_DRAINING")
    assert "deletionTimestamp" not in running.pods["a"]["metadata"]
    assert running.phase("a") == "Pending"
    (accept,) = only(running.offer(offer("O2", "A2")), fx.Accept)
    assert (accept.launches[0].task.id, accept.launches[0].task.failures) == ("a.2", 0)


def test_trap_25_replacements_start_before_the_maintenance(running: Desk, offer: MakeOffer) -> None:
    """Three pods that may run twice, one warning: at no time do fewer than three run."""
    for name in "abc":
        notes = {"gantry.io/on-maintenance": "start-first"}
        running.put(
            {**running.pods[name], "metadata": {**running.pods[name]["metadata"], "annotations": notes}}
        )
    running.watch()
    asked = ev.InverseOffer("I1", "A1", running.now + 600.0, 600.0)
    (answer,) = only(running.frame(ev.InverseOffersReceived((asked,))), fx.AnswerInverse)
    assert answer.accept
    running.offer(offer("O2", "A2"))
    assert not only(running.said, fx.KillTask)
    for number, name in enumerate("abc", 1):
        running.tell(f"{name}.2", "RUNNING")
        assert len(only(running.said, fx.KillTask)) == number
    for name in "abc":
        running.tell(f"{name}.1", "KILLED", reason="AGENT_DRAINING")
    assert {running.phase(name) for name in "abc"} == {"Running"}
    assert set(running.tasks) == {"a.2", "b.2", "c.2"}


def test_trap_25_without_leave_no_pod_runs_twice_for_a_maintenance(running: Desk, offer: MakeOffer) -> None:
    """An inverse offer is no reason to break the one promise: what nobody allowed to overlap never does."""
    running.frame(ev.InverseOffersReceived((ev.InverseOffer("I1", "A1", running.now + 600.0, 600.0),)))
    assert {one.task_id for one in only(running.said, fx.KillTask)} == {"a.1", "b.1", "c.1"}
    for number, name in enumerate("abc"):
        assert not only(running.offer(offer(f"O{number}", "A2")), fx.Accept)
        running.tell(f"{name}.1", "KILLED", reason="AGENT_DRAINING")
        (accept,) = only(running.offer(offer(f"P{number}", "A2")), fx.Accept)
        assert [one.task.id for one in accept.launches] == [f"{name}.2"]


# ---- more


def test_more_an_executor_lost_is_a_hint(running: Desk) -> None:
    """FAILURE tells no task's fate, and comes twice: nothing dies by it, but it is asked about."""
    for _ in range(2):
        running.frame(ev.ExecutorLost("A1", running.tasks["a.1"].executor_id))
        running.frame(ev.AgentLost("A1"))
    assert not running.state.pending
    assert {running.phase(name) for name in "abc"} == {"Running"}
    asked = [one for _ in range(10) for one in only(running.later(1.0), fx.Reconcile) if one.tasks]
    assert {task for one in asked for task, _ in one.tasks} == {"a.1", "b.1", "c.1"}


@pytest.mark.parametrize(("cpus", "mem"), [(4000, 0), (0, 8_192_000)])
def test_more_half_an_offer_is_given_back_and_explained(
    desk: Desk, offer: MakeOffer, cpus: int, mem: int
) -> None:
    """Quotas split agents into offers of cpus alone and mem alone (MESOS-8935)."""
    desk.subscribe()
    desk.create("a")
    desk.watch()
    effects = desk.offer(offer("O1", cpus=cpus, mem=mem))
    assert only(effects, fx.Decline)
    desk.later(2.0)
    said = {one.message for one in only(desk.said, fx.Publish) if one.reason == "FailedScheduling"}
    word = "memory" if cpus else "cpu"
    assert said == {f"0/1 nodes are available: 1 Insufficient {word}."}
    (accept,) = only(desk.offer(offer("O2", cpus=4000, mem=0), offer("O3", cpus=0)), fx.Accept)
    assert set(accept.offer_ids) == {"O2", "O3"}, "both halves together do"


def test_more_outdated_resource_state_is_nobodys_fault(running: Desk, offer: MakeOffer) -> None:
    text = "Task assumes outdated resource state"
    running.tell("a.1", "DROPPED", source="AGENT", reason="INVALID_OFFERS", message=text)
    (accept,) = only(running.offer(offer("O2")), fx.Accept)
    assert accept.launches[0].task.failures == 0


def test_more_calls_are_few_because_a_principal_may_be_throttled(desk: Desk, offer: MakeOffer) -> None:
    """Rate limits count messages of a principal: 200 offers are declined in one call."""
    desk.subscribe()
    effects = desk.offer(*(offer(f"O{number}", f"A{number}") for number in range(200)))
    assert len(only(effects, fx.Decline)) == 1


def test_more_partitions_are_waited_out_for_longer_than_mesos_needs() -> None:
    """An agent is unreachable after 15 s x 5; a master that fails over gives agents 10 minutes."""
    policy = Policy()
    assert policy.away >= 75.0
    assert policy.nodes_gone < 75.0, "the node says so sooner"


def test_more_gpu_agents_are_hidden_from_who_does_not_know_gpus() -> None:
    from local.master.allocator import Allocator

    allocator = Allocator(1.0)
    allocator.add_framework("F1", ["r"], [], frozenset({"MULTI_ROLE"}))
    allocator.add_agent("A1", Resources.parse("cpus:4;mem:1024;gpus:1"), {})
    assert allocator.allocate(0.0) == []
    allocator.add_framework("F1", ["r"], [], frozenset({"MULTI_ROLE", "GPU_RESOURCES"}))
    assert allocator.allocate(0.0)


class Recorder:
    """A driver that keeps the calls."""

    def __init__(self) -> None:
        self.accepted: list[Any] = []

    def acceptOffers(self, offer_ids: Any, operations: Any, filters: Any) -> None:
        self.accepted += operations


def test_more_no_launch_asks_for_feedback(desk: Desk, offer: MakeOffer) -> None:
    """An operation id on a LAUNCH is an error for all its tasks, and feedback has crashed masters."""
    events: list[Any] = []
    mesos = Mesos(ExecutorTemplate({"value": "x"}), Vector(cpus=100, mem=64_000), events.append)
    driver = Recorder()
    mesos.driver = driver  # type: ignore[assignment]
    allocated = {"type": "SCALAR", "allocation_info": {"role": "gantry"}}
    resources = [
        {"name": "cpus", "scalar": {"value": 4.0}, **allocated},
        {"name": "mem", "scalar": {"value": 8192.0}, **allocated},
    ]
    raw = {"id": {"value": "O1"}, "agent_id": {"value": "A1"}, "hostname": "h", "resources": resources}
    mesos.resourceOffers(driver, [{**raw, "allocation_info": {"role": "gantry"}}])  # type: ignore[arg-type]
    desk.subscribe()
    desk.create("a")
    desk.watch()
    effects = desk.offer(offer("O1"))
    mesos.prepare(effects)
    (accept,) = only(effects, fx.Accept)
    mesos.perform(accept, {"a.1": Payload(desk.pods["a"], "token")})
    assert [set(one) for one in driver.accepted] == [{"type", "launch"}]


def test_more_messages_change_nothing() -> None:
    events: list[Any] = []
    mesos = Mesos(ExecutorTemplate({"value": "x"}), Vector(), events.append)
    mesos.frameworkMessage(None, {"value": "e"}, {"value": "A1"}, "hello")  # type: ignore[arg-type]
    assert events == []
