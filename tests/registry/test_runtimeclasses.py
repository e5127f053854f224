"""RuntimeClasses: what may be written, what is printed, which are there from the start."""

from typing import Any

import pytest

from scheduler.registry import RUNTIMECLASSES, find
from scheduler.registry.runtimeclasses import built_in

Json = dict[str, Any]


def runtime_class(**more: Any) -> Json:
    made = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "tight"}}
    return made | {"handler": "linux"} | more


def test_the_built_in_ones_are_the_flavors(create, now):
    rows = []
    for obj in built_in():
        made, errors = create(obj, RUNTIMECLASSES)
        assert errors == []
        rows.append(RUNTIMECLASSES.row(made, now)[:2])
    assert rows == [["fly", "fly"], ["kvm", "kvm"], ["linux", "linux"], ["nspawn", "nspawn"]]
    assert find("node.k8s.io", "v1", "runtimeclasses") is RUNTIMECLASSES


def test_all_that_one_can_say(create):
    made, errors = create(
        runtime_class(
            metadata={"name": "tight", "annotations": {"gantry.io/executor": "dedicated"}},
            overhead={"podFixed": {"cpu": "0.250", "memory": "64Mi"}},
            scheduling={
                "nodeSelector": {"vm": "yes"},
                "tolerations": [{"key": "vm", "operator": "Exists", "effect": "NoSchedule"}],
            },
        ),
        RUNTIMECLASSES,
    )
    assert errors == []
    assert made["overhead"] == {"podFixed": {"cpu": "250m", "memory": "64Mi"}}


@pytest.mark.parametrize(
    ("more", "field", "says"),
    [
        ({"handler": ""}, "handler", "lowercase RFC 1123 label"),
        ({"handler": "A.b"}, "handler", "lowercase RFC 1123 label"),
        ({"metadata": {"name": "A"}}, "metadata.name", "lowercase RFC 1123 subdomain"),
        (
            {"metadata": {"name": "a", "annotations": {"gantry.io/executor": "own"}}},
            "metadata.annotations[gantry.io/executor]",
            'supported values: "dedicated", "shared"',
        ),
        ({"overhead": {"podFixed": {"cpu": "-1"}}}, "overhead.podFixed[cpu]", "greater than or equal to 0"),
        (
            {"overhead": {"podFixed": {"example.com/x": "1"}}},
            "overhead.podFixed[example.com/x]",
            "not supported by Gantry yet",
        ),
        ({"scheduling": {"nodeSelector": {"a b": "c"}}}, "scheduling.nodeSelector", "name part must consist"),
        (
            {"scheduling": {"tolerations": [{"value": "x"}]}},
            "scheduling.tolerations[0].operator",
            "must be Exists when `key` is empty",
        ),
    ],
)
def test_what_is_refused(create, more, field, says):
    _, errors = create(runtime_class(**more), RUNTIMECLASSES)
    assert [one.field for one in errors] == [field]
    assert says in errors[0].message


def test_only_the_handler_stays(create, update):
    old, _ = create(runtime_class(), RUNTIMECLASSES)
    new, errors = update(runtime_class(overhead={"podFixed": {"cpu": "1000m"}}), old, RUNTIMECLASSES)
    assert errors == []
    assert new["overhead"] == {"podFixed": {"cpu": "1"}}
    _, errors = update(runtime_class(handler="fly"), old, RUNTIMECLASSES)
    assert [str(one) for one in errors] == ['handler: Invalid value: "fly": field is immutable']
