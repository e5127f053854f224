"""The seed says it all."""

import itertools

import pytest
from harness.faults import _KINDS
from harness.schedule import DEGRADED, KINDS, LAYOUTS, plan


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert plan(7, 300) == plan(7, 300)
    assert plan(7, 300) != plan(8, 300)


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    short, long = plan(7, 60), plan(7, 600)
    assert short == long[: len(short)]


@pytest.mark.parametrize("seed", range(20))
def test_all_is_over_in_time_and_two_faults_never_take_the_majority(seed: int) -> None:
    planned = plan(seed, 300)
    assert len(planned) > 30
    assert all(one.at + one.lasts <= 300 for one in planned)
    assert planned == sorted(planned, key=lambda one: one.at)
    store = {(kind.name, target) for kind in KINDS if kind.store for target in kind.targets}
    hit = [one for one in planned if (one.kind, one.target) in store]
    for one, other in itertools.pairwise(hit):
        assert other.at >= one.at + one.lasts + DEGRADED - 0.2  # times are rounded


@pytest.mark.parametrize("store", LAYOUTS)
def test_every_kind_happens_and_can_be_done(store: str) -> None:
    kinds = LAYOUTS[store].kinds
    names = {kind.name for kind in kinds}
    assert {one.kind for seed in range(5) for one in plan(seed, 600, kinds=kinds)} == names
    assert names <= _KINDS.keys()


def test_kinds_are_left_out_and_picked() -> None:
    assert "clock" not in {one.kind for one in plan(1, 600, frozenset({"clock"}))}
    assert {one.kind for one in plan(1, 60, only=frozenset({"kill-child"}))} == {"kill-child"}
    assert {one.kind for one in plan(1, 60, only=frozenset({"full-disk"}))} == {"full-disk"}
