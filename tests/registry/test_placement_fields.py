"""Affinity, spreading and the placement annotation: what is taken, and what is refused in kube-apiserver's words."""

from typing import Any

import pytest

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
ZONE = "topology.kubernetes.io/zone"
NODES = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"
AWAY = f"spec.affinity.podAntiAffinity.{REQUIRED}[0]"
SPREAD = "spec.topologySpreadConstraints[0]"


def nodes(**requirement: Any) -> dict[str, Any]:
    return terms({"matchExpressions": [requirement]})


def named(**requirement: Any) -> dict[str, Any]:
    return terms({"matchFields": [requirement]})


def terms(*many: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(many)}}}}


def away(**term: Any) -> dict[str, Any]:
    return {"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": ZONE, "labelSelector": {}, **term}]}}}


def spread(**more: Any) -> dict[str, Any]:
    one = {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", **more}
    return {"topologySpreadConstraints": [one]}


TAKEN = [
    nodes(key="disk", operator="In", values=["ssd"]),
    nodes(key="cores", operator="Gt", values=["4"]),
    nodes(key="gpu", operator="DoesNotExist"),
    named(key="metadata.name", operator="NotIn", values=["agent1"]),
    {"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 100, "preference": {}}]}}},
    away(),
    away(namespaces=["a", "b"], namespaceSelector={}),
    away(namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "a"}}),
    away(labelSelector={"matchLabels": {"a": "b"}}, matchLabelKeys=["pod-template-hash"]),
    {"affinity": {"podAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": {"topologyKey": ZONE}}]}}},
    spread(),
    spread(minDomains=2, labelSelector={"matchLabels": {"a": "b"}}, matchLabelKeys=["track"]),
    spread(whenUnsatisfiable="ScheduleAnyway", nodeAffinityPolicy="Ignore", nodeTaintsPolicy="Honor"),
]


@pytest.mark.parametrize("spec", TAKEN)
def test_what_placement_does_is_taken(create, manifest, spec):
    pod, errors = create(manifest(**spec))
    assert errors == []
    for key in spec:
        assert pod["spec"][key] == spec[key]


ONE_VALUE = "Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"
REFUSED = [
    (terms(), f"{NODES}: Required value: must have at least one node selector term"),
    (
        nodes(key="a", operator="In"),
        f"{NODES}[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
    ),
    (
        nodes(key="a", operator="Exists", values=["b"]),
        (
            f"{NODES}[0].matchExpressions[0].values: Forbidden: "
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        ),
    ),
    (nodes(key="a", operator="Gt", values=["1", "2"]), f"{NODES}[0].matchExpressions[0].values: {ONE_VALUE}"),
    (
        nodes(key="a", operator="Near"),
        f'{NODES}[0].matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator',
    ),
    (
        named(key="spec.x", operator="In", values=["b"]),
        f'{NODES}[0].matchFields[0].key: Invalid value: "spec.x": not a valid field selector key',
    ),
    (
        named(key="metadata.name", operator="Exists"),
        f'{NODES}[0].matchFields[0].operator: Invalid value: "Exists": not a valid selector operator',
    ),
    (
        {"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 101, "preference": {}}]}}},
        f"spec.affinity.nodeAffinity.{PREFERRED}[0].weight: Invalid value: 101: must be in the range 1-100",
    ),
    (away(topologyKey=""), f"{AWAY}.topologyKey: Required value: can not be empty"),
    (
        away(labelSelector={"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
        f'{AWAY}.labelSelector.matchExpressions[0].operator: Invalid value: "Gt": not a valid selector operator',
    ),
    (
        away(labelSelector=None, matchLabelKeys=["a"]),
        f"{AWAY}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
    ),
    (
        away(labelSelector={"matchLabels": {"a": "b"}}, matchLabelKeys=["a"]),
        f'{AWAY}.matchLabelKeys[0]: Invalid value: "a": exists in both matchLabelKeys and labelSelector',
    ),
    (
        away(namespaceSelector={"matchLabels": {"team": "x"}}),
        (
            f"{AWAY}.namespaceSelector: Forbidden: a selector of other labels than kubernetes.io/metadata.name is not "
            "supported by Gantry yet; list the namespaces"
        ),
    ),
    (spread(maxSkew=0), f"{SPREAD}.maxSkew: Invalid value: 0: must be greater than zero"),
    (
        spread(whenUnsatisfiable="Never"),
        (
            f'{SPREAD}.whenUnsatisfiable: Unsupported value: "Never": '
            'supported values: "DoNotSchedule", "ScheduleAnyway"'
        ),
    ),
    (spread(minDomains=0), f"{SPREAD}.minDomains: Invalid value: 0: must be greater than zero"),
    (
        spread(minDomains=2, whenUnsatisfiable="ScheduleAnyway"),
        (
            f"{SPREAD}.minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, "
            "not ScheduleAnyway"
        ),
    ),
    (
        spread(nodeTaintsPolicy="Obey"),
        f'{SPREAD}.nodeTaintsPolicy: Unsupported value: "Obey": supported values: "Honor", "Ignore"',
    ),
]


@pytest.mark.parametrize(("spec", "message"), REFUSED)
def test_what_kubernetes_refuses_is_refused_in_its_words(create, manifest, spec, message):
    _, errors = create(manifest(**spec))
    assert [str(one) for one in errors] == [message]


def test_two_constraints_about_the_same_are_one_too_many(create, manifest):
    spec = spread()
    _, errors = create(manifest(topologySpreadConstraints=spec["topologySpreadConstraints"] * 2))
    assert [one.reason for one in errors] == ["FieldValueDuplicate"]


def test_rules_of_a_pod_do_not_change(create, update, manifest):
    old, _ = create(manifest(**spread()))
    _, errors = update(manifest(**spread(maxSkew=2)), old)
    assert "topologySpreadConstraints" in errors[0].message


@pytest.mark.parametrize(("value", "count"), [("spread", 0), ("binpack", 0), ("random", 1)])
def test_the_placement_annotation_has_two_values(create, manifest, value, count):
    _, errors = create(manifest(metadata={"annotations": {"gantry.io/placement": value}}))
    assert len(errors) == count


@pytest.mark.parametrize("value", ["keep-newest", "keep-oldest", "", "newest"])
def test_which_task_stays_is_one_of_two_words(create, manifest, value):
    _, errors = create(manifest(metadata={"annotations": {"gantry.io/on-return": value}}))
    known = value.startswith("keep-")
    said = f'metadata.annotations[gantry.io/on-return]: Unsupported value: "{value}"'
    assert [str(one).partition(": supported")[0] for one in errors] == ([] if known else [said])


@pytest.mark.parametrize(("value", "count"), [("start-first", 0), ("stop-first", 0), ("stay", 0), ("go", 1)])
def test_what_maintenance_does_is_one_of_three_words(create, manifest, value, count):
    _, errors = create(manifest(metadata={"annotations": {"gantry.io/on-maintenance": value}}))
    assert len(errors) == count
