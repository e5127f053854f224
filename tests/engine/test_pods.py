"""Kubernetes quantities to Mesos units, and status written without touching what users own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.framework.core import status
from scheduler.framework.core.effects import Away, Back, Bound, Ended, Reported, Requeued, Unschedulable
from scheduler.framework.core.entities import Needs, Node, Taint, Toleration
from scheduler.framework.core.placement import Candidate, Want, place, tolerates
from scheduler.framework.core.pods import MINIMUM, pod_from_object
from scheduler.framework.core.vectors import ZERO, Vector, has_ports, join, without_ports

NOW = 1_800_000_000.0


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    meta = {"uid": "u", "namespace": "n", "name": "p", "labels": {"mine": "yes"}}
    return {
        "metadata": meta,
        "spec": {"containers": list(containers), **spec},
        "status": {"phase": "Pending"},
    }


def ask(requests: dict[str, str] | None = None, limits: dict[str, str] | None = None) -> dict[str, Any]:
    return {"resources": {"requests": requests or {}, "limits": limits or {}}}


@pytest.mark.parametrize(
    ("containers", "init", "amounts"),
    [
        ([ask()], [], MINIMUM),
        ([ask({"cpu": "1m", "memory": "1"})], [], MINIMUM),
        ([ask({"cpu": "500m", "memory": "64Mi"})], [], Vector(500, 64_000, 0)),
        ([ask({"cpu": "100100u", "memory": "64Mi"})], [], Vector(101, 64_000, 0)),
        ([ask({"memory": "100000001"})], [], Vector(10, 95_368, 0)),
        ([ask(limits={"cpu": "2", "memory": "1Gi"})], [], Vector(2000, 1_024_000, 0)),
        ([ask({"cpu": "1"}, {"cpu": "2", "memory": "1Gi"})], [], Vector(1000, 1_024_000, 0)),
        (
            [ask({"cpu": "1"}), ask({"cpu": "2"})],
            [ask({"cpu": "2500m", "memory": "1Gi"})],
            Vector(3000, 1_024_000),
        ),
        ([ask({"ephemeral-storage": "1Gi"})], [], Vector(10, 32_000, 1_024_000)),
        (  # sidecars run beside what comes after them
            [ask({"cpu": "1"})],
            [ask({"cpu": "3"}), ask({"cpu": "1", "memory": "1Gi"}) | {"restartPolicy": "Always"}],
            Vector(3000, 1_024_000),
        ),
        (
            [ask({"cpu": "1"})],
            [ask({"cpu": "1", "memory": "1Gi"}) | {"restartPolicy": "Always"}, ask({"cpu": "3"})],
            Vector(4000, 1_024_000),
        ),
    ],
)
def test_amounts(containers: list[Any], init: list[Any], amounts: Vector) -> None:
    assert pod_from_object(pod(*containers, initContainers=init)).needs.amounts == amounts


def test_a_port_of_two_protocols_is_one_port() -> None:
    ports = [{"hostPort": 53, "protocol": "UDP"}, {"hostPort": 53, "protocol": "TCP"}, {"containerPort": 80}]
    assert pod_from_object(pod({"ports": ports})).needs.ports == (53,)


RANGES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)).map(lambda x: (x[0], x[0] + x[1]))).map(
    tuple
)


@given(RANGES, st.lists(st.integers(1, 60), unique=True))
def test_ports_are_a_set(ranges: Any, ports: list[int]) -> None:
    whole = {p for a, b in ranges for p in range(a, b + 1)}
    joined = join(ranges)
    assert has_ports(joined, ports) == (set(ports) <= whole)
    assert {p for a, b in without_ports(joined, ports) for p in range(a, b + 1)} == whole - set(ports)


NEEDS = st.builds(
    Needs,
    st.builds(Vector, st.integers(1, 900), st.integers(1, 900)),
    st.sets(st.integers(1, 4), max_size=2).map(tuple),
)


@given(st.lists(NEEDS, max_size=20), st.lists(st.integers(0, 2000), min_size=1, max_size=4))
def test_placement_never_overfills_and_never_forgets(pods: list[Needs], sizes: list[int]) -> None:
    overhead = Vector(100, 100)
    agents = [
        Candidate(f"A{i}", Node(f"n{i}"), Vector(size, size), ((1, 4),), overhead=overhead, room=8)
        for i, size in enumerate(sizes)
    ]
    left = place([Want(str(i), needs) for i, needs in enumerate(pods)], agents).unplaced
    placed = [uid for one in agents for uid in one.uids]
    assert sorted([*left, *placed], key=int) == [str(i) for i in range(len(pods))]
    for one, size in zip(agents, sizes, strict=True):
        used = overhead if one.uids else ZERO
        for uid in one.uids:
            used = used + pods[int(uid)].amounts
        assert Vector(size, size).covers(used)
        ports = [port for uid in one.uids for port in pods[int(uid)].ports]
        assert len(ports) == len(set(ports))
        assert len(one.uids) <= 8
    for uid in left:
        fits = [
            a for a in agents if a.uids and a.free.covers(pods[int(uid)].amounts) and not pods[int(uid)].ports
        ]
        assert not [a for a in fits if a.room > 0 and len(a.uids) == 1 and len(pods) == 1]


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration("k", "Equal", "v"), True),
        (Toleration("k", "Equal", "w"), False),
        (Toleration("k", "Exists", effect="NoExecute"), False),
        (Toleration("k", "Exists", effect="NoSchedule"), True),
        (Toleration("other", "Exists"), False),
    ],
)
def test_tolerations(toleration: Toleration, expected: bool) -> None:
    assert tolerates(toleration, Taint("k", "v", "NoSchedule")) is expected


# ---- status

CHANGES = [
    Bound("t", "n1"),
    Reported({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, "Running"),
    Unschedulable("no"),
    Away("away"),
    Back(),
    Requeued("", "NodeLost", "gone"),
    Ended("NodeLost", "gone"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_users_keep_what_is_theirs(change: Any) -> None:
    before = pod({"name": "c"}, nodeSelector={"a": "b"})
    after = status.apply(before, change, NOW)
    assert after["metadata"] is before["metadata"]
    assert {k: v for k, v in after["spec"].items() if k != "nodeName"} == before["spec"]
    assert before["status"] == {"phase": "Pending"}, "the old object is shared and must not change"


def test_a_report_keeps_what_the_scheduler_said() -> None:
    bound = status.apply({**pod(), "status": {"phase": "Pending", "qosClass": "Burstable"}}, CHANGES[0], NOW)
    told = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "podIP": "10.0.0.1"}
    running = status.apply(bound, Reported(told, "Running"), NOW + 5)
    assert running["status"]["qosClass"] == "Burstable"
    assert [one["type"] for one in running["status"]["conditions"]] == ["PodScheduled", "Ready"]
    since = running["status"]["conditions"][1]["lastTransitionTime"]
    again = status.apply(running, Reported(told, "Running"), NOW + 60)
    assert again["status"]["conditions"][1]["lastTransitionTime"] == since
    assert again["status"] == running["status"]


def test_a_requeued_pod_forgets_its_node() -> None:
    bound = status.apply(pod(), Bound("t", "n1"), NOW)
    told = {"phase": "Running", "containerStatuses": [{}], "podIP": "1.2.3.4", "startTime": "x"}
    waiting = status.apply(status.apply(bound, Reported(told, "Running"), NOW), CHANGES[5], NOW)
    assert "nodeName" not in waiting["spec"]
    assert set(waiting["status"]) == {"phase", "reason", "message", "conditions"}


@pytest.mark.parametrize(
    ("obj", "bindable"),
    [
        (None, False),
        (pod(), True),
        ({**pod(), "metadata": {"uid": "other"}}, False),
        ({**pod(), "metadata": {"uid": "u", "deletionTimestamp": "x"}}, False),
        ({**pod(), "status": {"phase": "Failed"}}, False),
    ],
)
def test_what_can_be_bound(obj: Any, bindable: bool) -> None:
    assert status.can_bind(obj, "u") is bindable
