"""The annotations that ask something of Gantry: checked, inherited from the namespace, kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.registry import RESOURCES
from scheduler.registry.resource import Resource
from scheduler.registry.wishes import with_wishes

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ROLE, EXECUTOR, REVOCABLE = "gantry.io/role", "gantry.io/executor", "gantry.io/revocable"
Json = dict[str, Any]


def resource(plural: str, **namespace: str) -> Resource:
    wrapped = with_wishes(RESOURCES, ("gantry", "batch"), lambda name: namespace if name == "default" else {})
    return next(one for one in wrapped if one.plural == plural)


def pod(**notes: str) -> Json:
    meta: Json = {"name": "p", "namespace": "default", "uid": "u", "annotations": notes}
    return {"metadata": meta, "spec": {"containers": [{"name": "main", "image": "x"}]}}


def created(plural: str, obj: Json, **namespace: str) -> tuple[Json, list[str]]:
    one = resource(plural, **namespace)
    new = one.prepare_create(obj, NOW)
    return new, [str(problem) for problem in one.validate_create(new)]


def test_a_namespace_gives_its_pods_what_they_do_not_say() -> None:
    notes = {ROLE: "batch", EXECUTOR: "dedicated", "other": "x"}
    new, problems = created("pods", pod(**{EXECUTOR: "shared"}), **notes)
    assert problems == []
    assert new["metadata"]["annotations"] == {ROLE: "batch", EXECUTOR: "shared"}
    assert "annotations" not in created("pods", {**pod(), "metadata": {"name": "p"}})[0]["metadata"]


@pytest.mark.parametrize("plural", ["pods", "namespaces"])
@pytest.mark.parametrize(
    ("note", "value", "supported"),
    [
        (ROLE, "spark", '"batch", "gantry"'),
        (EXECUTOR, "own", '"dedicated", "shared"'),
        (REVOCABLE, "true", '"false"'),
    ],
)
def test_what_cannot_be_had_is_refused(plural: str, note: str, value: str, supported: str) -> None:
    obj = (
        pod(**{note: value})
        if plural == "pods"
        else {"metadata": {"name": "n", "annotations": {note: value}}}
    )
    _, problems = created(plural, obj)
    assert problems == [
        f'metadata.annotations[{note}]: Unsupported value: "{value}": supported values: {supported}'
    ]


def test_a_role_that_the_namespace_had_before_is_refused_to_the_pod_only() -> None:
    _, problems = created("pods", pod(), **{ROLE: "gone"})
    assert len(problems) == 1
    assert f"metadata.annotations[{ROLE}]" in problems[0]
    namespaces = resource("namespaces")
    old = {"metadata": {"name": "n", "uid": "u", "annotations": {ROLE: "gone"}}}
    new = {"metadata": {"name": "n", "uid": "u", "annotations": {ROLE: "gone", "more": "x"}}}
    assert namespaces.validate_update(new, old) == []


def test_on_a_pod_they_stay() -> None:
    pods = resource("pods")
    old, _ = created("pods", pod(), **{ROLE: "batch"})
    same = pods.prepare_update(pod(), old, status=False)
    assert same["metadata"]["annotations"] == {ROLE: "batch"}
    assert pods.validate_update(same, old) == []
    other = pods.prepare_update(pod(**{ROLE: "gantry"}), old, status=False)
    problems = [str(one) for one in pods.validate_update(other, old)]
    assert len(problems) == 1
    assert "may not be changed once the pod exists" in problems[0]


def test_only_pods_that_ask_for_no_amounts_may_be_revoked() -> None:
    wrapped = with_wishes(RESOURCES, ("gantry",), lambda name: {REVOCABLE: "true"}, revocable=True)
    pods = next(one for one in wrapped if one.plural == "pods")

    def made(requests: Json, **notes: str) -> tuple[Json, list[str]]:
        obj = pod(**notes)
        obj["spec"]["containers"][0]["resources"] = {"requests": requests}
        new = pods.prepare_create(obj, NOW)
        return new["metadata"]["annotations"], [str(problem) for problem in pods.validate_create(new)]

    assert made({}) == ({REVOCABLE: "true"}, [])
    assert made({"cpu": "1"}) == ({}, []), "the namespace means those pods that can"
    _, problems = made({"cpu": "1"}, **{REVOCABLE: "true"})
    assert len(problems) == 1
    assert "only pods of QoS class BestEffort" in problems[0]


def test_pods_with_gpus_have_an_executor_of_their_own() -> None:
    asks = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    greedy = pod()
    greedy["spec"]["containers"][0] |= asks
    new, problems = created("pods", greedy, **{EXECUTOR: "shared"})
    assert (problems, new["metadata"]["annotations"]) == ([], {}), "what the namespace says is for others"
    greedy = pod(**{EXECUTOR: "shared"})
    greedy["spec"]["initContainers"] = [{"name": "i", "image": "x", **asks}]
    _, problems = created("pods", greedy)
    assert len(problems) == 1
    assert "pods with nvidia.com/gpu have an executor of their own" in problems[0]
