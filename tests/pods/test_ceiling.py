"""What all pods of an executor may have of its memory."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from executor.pods.ceiling import MARGIN, Ceiling
from executor.pods.env import Node
from executor.pods.isolators import isolators

MIB = 1 << 20


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The executor's cgroup: 100 MiB, of which it has 20."""
    (tmp_path / "memory.limit_in_bytes").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.stat").write_text(
        f"cache {50 * MIB}\nrss {19 * MIB}\nshmem {MIB}\ntotal_rss {99 * MIB}\n"
    )
    return tmp_path


def test_the_limit_leaves_what_the_executor_takes(own: Path) -> None:
    made = Ceiling(own)
    written = own / "pods/memory.limit_in_bytes"
    assert int(written.read_text()) == made.limit == 80 * MIB - MARGIN
    (own / "memory.limit_in_bytes").write_text(str(300 * MIB))
    made.adjust()
    assert int(written.read_text()) == made.limit == 280 * MIB - MARGIN


def test_pods_have_half_of_it_at_least(own: Path) -> None:
    (own / "memory.stat").write_text(f"rss {90 * MIB}\nshmem 0\n")
    assert Ceiling(own).limit == 50 * MIB


def test_what_cannot_be_read_changes_nothing(own: Path) -> None:
    made = Ceiling(own)
    (own / "memory.stat").unlink()
    made.adjust()
    assert made.limit == 80 * MIB - MARGIN


def test_a_cgroup_that_may_be_of_others_has_none() -> None:
    assert Ceiling.find("no container of ours") is None


def test_it_is_the_scale_of_the_oom_score() -> None:
    """Else a pod on a large node that keeps to its request would be killed like one that asked for nothing."""
    node = Node("n", "10.0.0.1", Fraction(4), 64 << 30)
    container = {"name": "c", "resources": {"requests": {"memory": "32Mi"}}}
    for one, score in ((node, 999), (replace(node, shared_memory=128 * MIB), 750)):
        made = isolators(container, "Burstable", one.scale)
        assert {"name": "os/linux/oom-score-adj", "value": score} in made
