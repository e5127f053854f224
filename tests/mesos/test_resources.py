from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.mesos.resources import Resources, parse_attributes

# Taken from a Mesos 1.12 master: an offer, and what it said of a task that was too large for it.
OFFERED = [
    {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 32000}]}},
    {"name": "cpus", "type": "SCALAR", "scalar": {"value": 3.6}},
    {"name": "mem", "type": "SCALAR", "scalar": {"value": 8064.0}},
    {"name": "disk", "type": "SCALAR", "scalar": {"value": 20000.0}},
]
TASK_ERROR = (
    "Total resources cpus(allocated: gantry):1000; mem(allocated: gantry):32 required by task and "
    "its executor is more than available ports(allocated: gantry):[31000-32000]; "
    "cpus(allocated: gantry):3.6; mem(allocated: gantry):8064; disk(allocated: gantry):20000"
)


def allocated(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "allocation_info": {"role": "gantry"}} for item in items]


def test_the_wording_is_that_of_a_real_task_error() -> None:
    offered = Resources.from_json(allocated(OFFERED))
    wanted = Resources.scalars(cpus=1_000_000, mem=32_000).allocate("gantry")
    assert not offered.contains(wanted)
    text = f"Total resources {wanted} required by task and its executor is more than available {offered}"
    assert text == TASK_ERROR


def test_a_scalar_of_zero_is_refused_in_mesos_words() -> None:
    zero = allocated([{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.0004}}])
    with pytest.raises(
        ValueError, match=r"Resource 'cpus\(allocated: gantry\):0' is invalid: Invalid scalar resource"
    ):
        Resources.from_json(zero)


def test_json_comes_back_as_it_came() -> None:
    assert Resources.from_json(allocated(OFFERED)).to_json() == allocated(OFFERED)


def test_a_role_of_star_and_no_role_are_one() -> None:
    assert Resources.from_json([{**OFFERED[1], "role": "*"}]) == Resources.from_json([OFFERED[1]])


def test_reservations_before_and_after_refinement_are_one() -> None:
    old = Resources.from_json([{**OFFERED[1], "role": "db", "reservation": {"principal": "p"}}])
    reservation = {"type": "DYNAMIC", "role": "db", "principal": "p"}
    new = Resources.from_json([{**OFFERED[1], "reservations": [reservation]}])
    assert old == new
    assert new.reservations() == [reservation]
    assert str(new) == "cpus(reservations: [(DYNAMIC,db,p)]):3.6"
    assert Resources.parse("cpus(db):1").reservations() == [{"type": "STATIC", "role": "db"}]


def test_identities_do_not_mix() -> None:
    plain, reserved, revocable = (Resources.parse(t) for t in ("cpus:1", "cpus(db):1", "cpus{REV}:1"))
    every = plain + reserved + revocable
    assert every.scalar("cpus") == 3000
    assert not plain.contains(reserved)
    assert not every.contains(Resources.parse("cpus:1.001"))
    assert every - reserved == plain + revocable
    assert every.allocate("a").flatten() == Resources.parse("cpus:2") + revocable
    assert not plain.contains(plain.allocate("a"))
    assert plain.allocate("a").unallocate() == plain
    assert plain.allocate("a").allocated_roles() == {"a"}


def test_a_mount_disk_is_taken_whole_or_not_at_all() -> None:
    source = {"type": "MOUNT", "mount": {"root": "/mnt/a"}}

    def disk(size: float) -> Resources:
        scalar = {"name": "disk", "type": "SCALAR", "scalar": {"value": size}, "disk": {"source": source}}
        return Resources.from_json([scalar])

    assert not disk(100).contains(disk(50))
    assert disk(100) - disk(50) == disk(100)
    assert disk(100).contains(disk(100))
    assert not disk(100) - disk(100)
    assert str(disk(100)) == "disk[MOUNT:/mnt/a]:100"


def test_the_text_of_an_agent() -> None:
    parsed = Resources.parse(
        "cpus:4; mem:64;ports:[31000-31009,31010-32000, 40000-40001];zones:{b, a};gpus:0"
    )
    assert parsed.scalar("cpus") == 4000
    assert parsed.ranges("ports") == ((31000, 32000), (40000, 40001))
    assert parsed.names() == {"cpus", "mem", "ports", "zones"}
    assert str(parsed) == "cpus:4; mem:64; ports:[31000-32000, 40000-40001]; zones:{a, b}"
    assert (
        Resources.parse('[{"name": "cpus", "type": "SCALAR", "scalar": {"value": 2}}]').scalar("cpus") == 2000
    )
    assert not Resources.parse("")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cpus", "bad resource 'cpus': expecting name:value"),
        ("cpus:four", "bad resource 'cpus:four': 'four' is neither a number"),
        ("cpus:-1", "cannot be negative"),
        ("ports:[1-2", "brackets do not match"),
        ("ports:[2-1]", "'2-1' ends before it begins"),
        ("ports:[a-b]", "'a-b' is not a range"),
        ("cpus(:4", "expecting name:value"),
        ("[{]", "not valid JSON"),
        ('[{"name": "cpus"}]', "needs 'name' and 'type'"),
        ('[{"name": "cpus", "type": "SCALAR"}]', "'cpus' has no SCALAR value"),
    ],
)
def test_what_cannot_be_parsed_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as info:
        Resources.parse(text)
    assert complaint in str(info.value)


def test_attributes() -> None:
    assert parse_attributes("rack:r1;level:10;ssd:true;span:[1-3]") == [
        {"name": "rack", "type": "TEXT", "text": {"value": "r1"}},
        {"name": "level", "type": "SCALAR", "scalar": {"value": 10.0}},
        {"name": "ssd", "type": "TEXT", "text": {"value": "true"}},
        {"name": "span", "type": "RANGES", "ranges": {"range": [{"begin": 1, "end": 3}]}},
    ]
    for text, complaint in (("rack", "expecting name:value"), ("r:{a}", "sets are not supported")):
        with pytest.raises(ValueError, match=complaint):
            parse_attributes(text)


# ---- properties

amounts = st.integers(0, 10**9)
ports = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 20)).map(lambda t: (t[0], t[0] + t[1])), max_size=8
)
roles = st.sampled_from(["", "a", "b"])


@st.composite
def bags(draw: st.DrawFn) -> Resources:
    total = Resources()
    for role in draw(st.lists(roles, max_size=3)):
        bag = Resources.scalars(cpus=draw(amounts), mem=draw(amounts)) + Resources.port_ranges(draw(ports))
        total += bag.allocate(role) if role else bag
    return total


def numbers(bag: Resources) -> set[int]:
    return {n for begin, end in bag.ranges("ports") for n in range(begin, end + 1)}


@given(bags(), bags())
def test_adding_and_taking_away_is_exact(left: Resources, right: Resources) -> None:
    total = left + right
    assert total.contains(left)
    assert total.contains(right)
    assert total.scalar("cpus") == left.scalar("cpus") + right.scalar("cpus")
    assert numbers(total) == numbers(left) | numbers(right)
    assert total == right + left
    rest = total - right
    assert rest.scalar("mem") == left.scalar("mem")
    assert not total - total


@given(bags(), bags())
def test_nothing_goes_below_zero(left: Resources, right: Resources) -> None:
    rest = left - right
    assert left.contains(rest)
    assert 0 <= rest.scalar("cpus") <= left.scalar("cpus")
    if left.contains(right):
        assert rest.scalar("cpus") == left.scalar("cpus") - right.scalar("cpus")
        assert rest + right == left


@given(bags())
def test_json_and_back(bag: Resources) -> None:
    assert Resources.from_json(bag.to_json()) == bag
    assert hash(Resources.from_json(bag.to_json())) == hash(bag)


@given(ports, ports)
def test_ranges_are_sets_of_ports(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    a, b = Resources.port_ranges(left), Resources.port_ranges(right)
    assert numbers(a - b) == numbers(a) - numbers(b)
    assert a.contains(b) == (numbers(b) <= numbers(a))


@given(st.integers(1, 10**10))
def test_a_thousandth_survives_the_wire(amount: int) -> None:
    bag = Resources.scalars(cpus=amount)
    assert Resources.from_json(bag.to_json()).scalar("cpus") == amount
    assert Resources.parse(str(bag)) == bag


def test_ten_thousand_tenths_come_to_nothing() -> None:
    total, tenth = Resources.parse("cpus:1000"), Resources.parse("cpus:0.1")
    for _ in range(10_000):
        assert total.contains(tenth)
        total -= tenth
    assert not total
