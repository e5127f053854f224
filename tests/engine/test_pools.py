"""The resources of offers: which of them pods may use, and how they are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.framework.core.vectors import Vector
from scheduler.framework.pools import Pool
from tests.engine.mesosdoor import ROLE, ports, scalar


def test_only_what_is_ours_is_used() -> None:
    foreign = [
        scalar("cpus", 1.0, revocable={}),
        scalar("cpus", 1.0, reservations=[{"type": "DYNAMIC", "role": ROLE, "principal": "x"}]),
        scalar("cpus", 1.0, reservations=[{"type": "STATIC", "role": "other"}]),
        scalar("cpus", 1.0, role="other"),
        scalar("cpus", 1.0, role=ROLE, reservation={"principal": "x"}),
        scalar("disk", 9.0, disk={"persistence": {"id": "v"}}),
        scalar("disk", 9.0, disk={"source": {"type": "MOUNT"}}),
        {"name": "zones", "type": "SET", "set": {"item": ["a"]}},
    ]
    ours = [scalar("cpus", 2.0), scalar("cpus", 1.5, reservations=[{"type": "STATIC", "role": ROLE}])]
    assert Pool([*foreign, *ours], ROLE).vector() == Vector(cpus=3500)


def test_reserved_resources_are_taken_first_and_named_as_offered() -> None:
    stack = [{"type": "STATIC", "role": ROLE}]
    pool = Pool([scalar("cpus", 1.0), scalar("cpus", 0.3, reservations=stack), ports(1, 9)], ROLE)
    taken = pool.take(Vector(cpus=500), [5])
    assert taken[0] == scalar("cpus", 0.3, reservations=stack)
    assert taken[1] == scalar("cpus", 0.2)
    assert taken[2] == ports(5, 5)
    assert pool.vector() == Vector(cpus=800)
    assert pool.ports() == ((1, 4), (6, 9))
    with pytest.raises(ValueError, match=r"lack port 5"):
        pool.take(Vector(), [5])


def test_the_most_refined_reservation_is_taken_first() -> None:
    """What an operator reserved for pods, and for the roles above ours, is ours; a volume's or a stranger's is not."""
    pods = {"labels": [{"key": "gantry.io/pods", "value": "true"}]}
    above = {"type": "STATIC", "role": "eng"}
    refined = {"type": "DYNAMIC", "role": "eng/web", "principal": "operator", "labels": pods}
    foreign = {"type": "DYNAMIC", "role": "eng/web", "principal": "cassandra"}
    beside = {"type": "STATIC", "role": "eng/db"}
    offered = [
        scalar("cpus", 8.0),
        scalar("cpus", 4.0, reservations=[above]),
        scalar("cpus", 2.0, reservations=[above, refined]),
        scalar("cpus", 1.0, reservations=[above, foreign]),
        scalar("cpus", 1.0, reservations=[beside]),
    ]
    pool = Pool(offered, "eng/web")
    assert pool.vector() == Vector(cpus=14_000)
    assert pool.take(Vector(cpus=6_500)) == [
        scalar("cpus", 2.0, reservations=[above, refined]),
        scalar("cpus", 4.0, reservations=[above]),
        scalar("cpus", 0.5),
    ]


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=5), st.lists(st.integers(1, 900), max_size=30))
def test_taking_never_loses_a_thousandth(offered: list[int], wanted: list[int]) -> None:
    pool = Pool([scalar("cpus", one / 1000) for one in offered], ROLE)
    left = sum(offered)
    for amount in wanted:
        if amount > left:
            with pytest.raises(ValueError, match="lack"):
                pool.take(Vector(cpus=amount))
            return
        taken = pool.take(Vector(cpus=amount))
        assert sum(round(one["scalar"]["value"] * 1000) for one in taken) == amount
        left -= amount
        assert pool.vector().cpus == left
