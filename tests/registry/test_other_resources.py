"""Nodes, namespaces, events."""

import copy

import pytest

from scheduler.registry import EVENTS, NAMESPACES, NODES, PODS, RESOURCES, find
from scheduler.registry.errors import BadRequest


def changed(obj, part, **values):
    new = copy.deepcopy(obj)
    new.setdefault(part, {}).update(values)
    return new


def test_users_make_no_nodes(create, node):
    _, errors = create({"metadata": {"name": "x"}}, NODES)
    assert [one.reason for one in errors] == ["FieldValueForbidden"]
    assert "nodes are made by Gantry" in errors[0].message


def test_users_cordon_taint_and_label_nodes(update, node):
    taint = {"key": "a", "value": "b", "effect": "NoSchedule"}
    new = changed(node, "spec", unschedulable=True, taints=[taint])
    new["metadata"]["labels"] = {"rack": "r1"}
    new["status"] = {}
    got, errors = update(new, node, NODES)
    assert errors == []
    assert got["spec"] == {"providerID": "mesos://a-S0", "unschedulable": True, "taints": [taint]}
    assert got["status"] == node["status"]
    assert got["metadata"]["labels"] == {"rack": "r1"}
    got, errors = update(changed(got, "spec", unschedulable=False, taints=None), got, NODES)
    assert errors == []
    assert got["spec"] == node["spec"]


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"providerID": "x"}, ["spec.providerID"]),
        ({"podCIDR": "10.0.0.0/8"}, ["spec.podCIDR"]),
        ({"taints": [{"key": "a"}]}, ["spec.taints[0].effect"]),
        ({"taints": [{"key": "a", "effect": "Never"}]}, ["spec.taints[0].effect"]),
        ({"taints": [{"effect": "NoSchedule"}]}, ["spec.taints[0].key"]),
        ({"taints": [{"key": "a", "value": "b c", "effect": "NoSchedule"}]}, ["spec.taints[0].value"]),
        ({"taints": [{"key": "a", "effect": "NoSchedule"}] * 2}, ["spec.taints[1]"]),
    ],
)
def test_what_nodes_refuse(update, node, spec, fields):
    _, errors = update(changed(node, "spec", **spec), node, NODES)
    assert [one.field for one in errors] == fields


def test_the_status_of_a_node_is_written_apart(update, node):
    got, errors = update(changed(node, "spec", podCIDR="x") | {"status": {}}, node, NODES, status=True)
    assert errors == []
    assert got["status"] == {}
    assert got["spec"] == node["spec"]


def test_the_cells_of_a_node(now, node):
    assert NODES.row(node, now) == [
        *(
            "agent1",
            "Ready",
            "<none>",
            "60m",
            "v1.32.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "gantry://0.1.0",
        )
    ]
    node["spec"]["unschedulable"] = True
    node["status"]["conditions"][0]["status"] = "Unknown"
    node["metadata"]["labels"] = {"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a"}
    assert NODES.row(node, now)[1:3] == ["NotReady,SchedulingDisabled", "a,b"]
    assert NODES.row({"metadata": {"name": "x"}}, now)[1] == "Unknown"


def test_field_selectors_of_nodes(node):
    assert NODES.field_matcher("metadata.name=agent1,spec.unschedulable=false")(node)
    node["spec"]["unschedulable"] = True
    assert NODES.field_matcher("spec.unschedulable=true")(node)


def test_a_new_namespace(create, update, now):
    namespace, errors = create({"metadata": {"name": "team"}, "status": {"phase": "Terminating"}}, NAMESPACES)
    assert errors == []
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    assert (namespace["spec"], namespace["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})
    new = changed(namespace, "metadata", labels={"a": "b"}) | {"spec": {}, "status": {}}
    got, errors = update(new, namespace, NAMESPACES)
    assert errors == []
    assert got["metadata"]["labels"] == {"a": "b", "kubernetes.io/metadata.name": "team"}
    assert (got["spec"], got["status"]) == (namespace["spec"], namespace["status"])
    got, _ = update(namespace | {"status": {"phase": "Terminating"}}, namespace, NAMESPACES, status=True)
    assert NAMESPACES.row(got, now) == ["team", "Terminating", "<unknown>"]
    assert NAMESPACES.field_matcher("status.phase=Terminating,metadata.name=team")(got)


@pytest.mark.parametrize("metadata", [{"name": "a.b"}, {"name": "A"}, {}, {"name": "a", "namespace": "b"}])
def test_bad_namespaces(create, metadata):
    assert len(create({"metadata": metadata}, NAMESPACES)[1]) == 1


@pytest.fixture
def event():
    return {
        "metadata": {"name": "web.1", "namespace": "default"},
        "involvedObject": {
            "kind": "Pod",
            "name": "web",
            "namespace": "default",
            "fieldPath": "spec.containers{a}",
        },
        "type": "Warning",
        "reason": "Failed",
        "message": " no such image\n",
        "source": {"component": "executor", "host": "agent1"},
        "firstTimestamp": "2024-05-01T11:50:00Z",
        "lastTimestamp": "2024-05-01T11:59:50Z",
        "count": 4,
    }


def test_the_cells_of_an_event(create, now, event):
    event, errors = create(event, EVENTS)
    assert errors == []
    assert EVENTS.row(event, now) == [
        *("10s", "Warning", "Failed", "pod/web", "spec.containers{a}", "executor, agent1", "no such image"),
        *("10m", "4", "web.1"),
    ]


def test_the_cells_of_an_event_in_the_new_style(now):
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Node"},
        "eventTime": "2024-05-01T11:00:00.000000Z",
        "reportingComponent": "scheduler",
        "reportingInstance": "one",
    }
    assert EVENTS.row(event, now) == [*("60m", "", "", "node", "", "scheduler, one", "", "60m", "1", "e")]
    event["series"] = {"count": 9, "lastObservedTime": "2024-05-01T11:59:00.000000Z"}
    assert [EVENTS.row(event, now)[index] for index in (0, 7, 8)] == ["60s", "60m", "9"]


def test_events_are_where_their_object_is(create, update, event):
    event["involvedObject"]["namespace"] = "other"
    assert [one.field for one in create(event, EVENTS)[1]] == ["involvedObject.namespace"]
    del event["involvedObject"]["namespace"]
    event, errors = create(event, EVENTS)
    assert errors == []
    got, errors = update(event | {"count": 5}, event, EVENTS)
    assert (got["count"], errors) == (5, [])


def test_field_selectors_of_events(event):
    assert EVENTS.field_matcher("involvedObject.kind=Pod,involvedObject.name=web,involvedObject.uid=")(event)
    assert EVENTS.field_matcher("reason=Failed,type!=Normal,source=executor")(event)


def test_field_selectors_not_offered_are_refused():
    with pytest.raises(BadRequest, match=r"^field label not supported: spec\.foo$"):
        PODS.field_matcher("spec.foo=1")
    with pytest.raises(BadRequest, match="invalid selector"):
        PODS.field_matcher("spec")


def test_resources_are_found():
    assert find("", "v1", "pods") is PODS
    assert find("apps", "v1", "pods") is None
    assert {one.store_name for one in RESOURCES} == {
        *("pods", "nodes", "namespaces", "events", "persistentvolumeclaims", "persistentvolumes"),
        *("configmaps", "secrets", "serviceaccounts"),
        *("runtimeclasses.node.k8s.io", "storageclasses.storage.k8s.io"),
    }
    assert {one.api_version for one in RESOURCES} == {"v1", "node.k8s.io/v1", "storage.k8s.io/v1"}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: one.plural)
def test_columns_are_table_columns(resource, now):
    obj = {"metadata": {"name": "x"}}
    assert len(resource.row(obj, now)) == len(resource.columns)
    for column in resource.columns:
        assert set(column.to_json()) == {"name", "type", "format", "description", "priority"}
        assert column.description
    assert sum(column.format == "name" for column in resource.columns) == 1
