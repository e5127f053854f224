"""Who is offered what: pure."""

import pytest

from local.master.allocator import Allocator
from shared.mesos.resources import Resources

MULTI = frozenset(("MULTI_ROLE", "RESERVATION_REFINEMENT"))
AGENT = "cpus:4;mem:4096;ports:[31000-31009]"


def make(agents=("a",), frameworks=(("f", ("r",)),), text=AGENT, interval=1.0, capabilities=MULTI):
    allocator = Allocator(interval)
    for agent in agents:
        allocator.add_agent(agent, Resources.parse(text), {})
    for framework, roles in frameworks:
        allocator.add_framework(framework, roles, (), capabilities)
    return allocator


def offered(allocations):
    return [(a.framework_id, a.role, a.agent_id) for a in allocations]


def test_everything_free_is_offered_once():
    allocator = make()
    (allocation,) = allocator.allocate(0.0)
    assert allocation.resources == Resources.parse(AGENT).allocate("r")
    assert allocator.allocate(0.0) == []
    assert not allocator.free("a")


def test_what_is_recovered_is_offered_as_another_part():
    allocator = make()
    allocator.allocate(0.0)
    part = Resources.parse("cpus:1;mem:64").allocate("r")
    allocator.recover("f", "a", part)
    assert [a.resources for a in allocator.allocate(1.0)] == [part]


@pytest.mark.parametrize(
    ("seconds", "hidden_until"), [(5.0, 5.0), (0.1, 1.0), (-1.0, 5.0), (float("nan"), 5.0)]
)
def test_a_refusal_lasts_at_least_one_interval(seconds, hidden_until):
    allocator = make()
    (allocation,) = allocator.allocate(0.0)
    allocator.recover("f", "a", allocation.resources, seconds, now=0.0)
    assert allocator.allocate(hidden_until - 0.01) == []
    assert offered(allocator.allocate(hidden_until)) == [("f", "r", "a")]


@pytest.mark.parametrize("refuse", [0.0, None])
def test_no_filter(refuse):
    allocator = make()
    (allocation,) = allocator.allocate(0.0)
    allocator.recover("f", "a", allocation.resources, refuse, now=0.0)
    assert offered(allocator.allocate(0.0)) == [("f", "r", "a")]


def test_a_refusal_hides_only_what_it_contains():
    allocator = make()
    (allocation,) = allocator.allocate(0.0)
    small, rest = Resources.parse("cpus:1;mem:64").allocate("r"), allocation.resources
    allocator.recover("f", "a", small, 3600.0, now=0.0)
    assert allocator.allocate(1.0) == []
    allocator.recover("f", "a", rest - small)
    (again,) = allocator.allocate(1.0)
    assert again.resources == rest  # more than was refused


def test_a_refusal_is_of_one_agent_role_and_framework():
    allocator = make(agents=("a", "b"), frameworks=(("f", ("r", "s")),))
    for allocation in allocator.allocate(0.0):
        refuse = 3600.0 if allocation.agent_id == "a" else None
        allocator.recover("f", allocation.agent_id, allocation.resources, refuse, now=0.0)
    assert {a.agent_id: a.role for a in allocator.allocate(1.0)}.keys() == {"a", "b"}


def test_refusals_are_capped_at_a_year():
    allocator = make()
    (allocation,) = allocator.allocate(0.0)
    allocator.recover("f", "a", allocation.resources, 1e12, now=0.0)
    assert allocator.allocate(364 * 86400.0) == []
    assert allocator.allocate(366 * 86400.0)


def test_revive_lifts_filters_and_suppression_of_its_roles():
    allocator = make(frameworks=(("f", ("r", "s")),))
    (allocation,) = allocator.allocate(0.0)
    allocator.recover("f", "a", allocation.resources, 3600.0, now=0.0)
    allocator.suppress("f", ())
    assert allocator.suppressed("f") == {"r", "s"}
    allocator.revive("f", ("s",))
    assert offered(allocator.allocate(1.0)) == [("f", "s", "a")]


def test_suppressed_from_the_start():
    allocator = make()
    allocator.add_framework("g", ("r",), ("r",), MULTI)
    allocator.set_framework_active("f", False)
    assert allocator.allocate(0.0) == []
    allocator.revive("g", ())
    assert offered(allocator.allocate(0.0)) == [("g", "r", "a")]


def test_deactivation_forgets_filters():
    allocator = make()
    (allocation,) = allocator.allocate(0.0)
    allocator.recover("f", "a", allocation.resources, 3600.0, now=0.0)
    allocator.set_framework_active("f", False)
    allocator.set_framework_active("f", True)
    assert allocator.allocate(0.0)


def test_inactive_agents_are_left_out():
    allocator = make(agents=("a", "b"))
    allocator.set_agent_active("a", False)
    assert offered(allocator.allocate(0.0)) == [("f", "r", "b")]
    allocator.remove_agent("b")
    allocator.set_agent_active("a", True)
    assert offered(allocator.allocate(0.0, ["b"])) == []
    assert offered(allocator.allocate(0.0, ["a"])) == [("f", "r", "a")]


def test_the_smaller_dominant_share_goes_first():
    allocator = make(agents=(), frameworks=(("greedy", ("r",)), ("modest", ("r",)), ("other", ("s",))))
    allocator.add_agent("a", Resources.parse(AGENT), {"greedy": Resources.parse("cpus:3").allocate("r")})
    allocator.add_agent("b", Resources.parse(AGENT), {"modest": Resources.parse("mem:100").allocate("r")})
    first = allocator.allocate(0.0, ["a"])
    assert offered(first) == [("other", "s", "a")]  # role s has nothing at all
    allocator.suppress("other", ())
    assert offered(allocator.allocate(0.0, ["b"])) == [("modest", "r", "b")]


def test_nothing_too_small_is_offered():
    allocator = make(text="cpus:0.009;mem:31;disk:1000")
    assert allocator.allocate(0.0) == []
    assert make(text="cpus:0.01").allocate(0.0)
    assert make(text="mem:32").allocate(0.0)


def test_reservations_are_for_their_role_and_below():
    allocator = make(
        frameworks=(("f", ("r",)), ("g", ("eng/dev",))), text="cpus(eng):2;mem(eng):64;cpus:1;mem:64"
    )
    allocations = {a.framework_id: a.resources for a in allocator.allocate(0.0)}
    reserved = Resources.parse("cpus(eng):2;mem(eng):64").allocate("eng/dev")
    assert allocations["g"].contains(reserved)
    assert "f" not in allocations or not any(p.reservations() for p in allocations["f"].split())


@pytest.mark.parametrize(
    ("text", "capability"),
    [("cpus{REV}:2;mem{REV}:64", "REVOCABLE_RESOURCES"), ("cpus:1;gpus:1", "GPU_RESOURCES")],
)
def test_some_resources_are_for_those_who_know_them(text, capability):
    assert make(text=text).allocate(0.0) == []
    assert make(text=text, capabilities=MULTI | {capability}).allocate(0.0)


def test_a_framework_that_is_removed_gives_everything_back():
    allocator = make()
    allocator.allocate(0.0)
    allocator.remove_framework("f")
    assert allocator.free("a") == Resources.parse(AGENT)
    allocator.recover("f", "a", Resources.parse(AGENT).allocate("r"), 5.0)  # late: changes nothing
    assert allocator.free("a") == Resources.parse(AGENT)


def test_roles_that_are_given_up_take_their_filters_along():
    allocator = make(frameworks=(("f", ("r", "s")),))
    (allocation,) = allocator.allocate(0.0)
    allocator.recover("f", "a", allocation.resources, 3600.0, now=0.0)
    allocator.add_framework("f", {"r", "s"} - {allocation.role}, (), MULTI)
    allocator.add_framework("f", {"r", "s"}, (), MULTI)
    assert {a.role for a in allocator.allocate(0.0)} <= {"r", "s"}
    assert not allocator.free("a")
