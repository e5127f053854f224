"""Strategic merge patches, against what Kubernetes' strategicpatch does with the same."""

import pytest

from scheduler.api.strategic import StrategicError, merge
from shared.models.pod import Pod

ENV = "env"


def container(name: str, **more):
    return {"name": name, **more}


def merged(spec, patch):
    return merge({"spec": spec}, {"spec": patch}, Pod)["spec"]


def test_scalars_replace_null_deletes_objects_merge():
    old = {"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"hostname": "h", "nodeName": "n"}}
    patch = {"metadata": {"labels": {"b": None, "c": "3"}}, "spec": {"hostname": "i", "nodeName": None}}
    assert merge(old, patch, Pod) == {"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"hostname": "i"}}
    assert old["metadata"]["labels"] == {"a": "1", "b": "2"}


def test_null_of_something_absent_adds_nothing_even_in_new_objects():
    assert merge({}, {"spec": {"hostname": None, "securityContext": {"runAsUser": None}}}, Pod) == {
        "spec": {"securityContext": {}}
    }


def test_containers_merge_by_name_and_new_ones_are_appended():
    old = {"containers": [container("a", image="1", command=["x", "y"]), container("b", image="2")]}
    patch = {
        "containers": [container("b", image="3"), container("c", image="4"), container("a", command=["z"])]
    }
    assert merged(old, patch) == {
        "containers": [
            container("a", image="1", command=["z"]),  # command has no merge key: replaced
            container("b", image="3"),
            container("c", image="4"),
        ]
    }


def test_lists_within_list_items_merge_too():
    old = {"containers": [container("a", env=[{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}])]}
    patch = {"containers": [container("a", env=[{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}])]}
    env = merged(old, patch)["containers"][0]["env"]
    assert {one["name"]: one["value"] for one in env} == {"X": "1", "Y": "3", "Z": "4"}


def test_patch_delete_removes_an_item():
    old = {"containers": [container("a"), container("b")]}
    patch = {"containers": [{"name": "a", "$patch": "delete"}, {"name": "gone", "$patch": "delete"}]}
    assert merged(old, patch) == {"containers": [container("b")]}


def test_patch_replace_in_a_list_replaces_it():
    old = {"containers": [container("a"), container("b")]}
    assert merged(old, {"containers": [{"$patch": "replace"}, container("z")]}) == {
        "containers": [container("z")]
    }


def test_patch_replace_and_delete_of_an_object():
    old = {"securityContext": {"runAsUser": 1, "runAsGroup": 2}}
    assert merged(old, {"securityContext": {"$patch": "replace", "runAsUser": 5}}) == {
        "securityContext": {"runAsUser": 5}
    }
    assert merged(old, {"securityContext": {"$patch": "delete"}}) == {"securityContext": {}}


def test_delete_from_primitive_list():
    old = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "x"], "finalizers": ["d", "b"]}}
    assert merge(old, patch, Pod) == {"metadata": {"finalizers": ["b", "c", "d"]}}


def test_set_element_order_orders_and_keeps_the_place_of_what_it_does_not_name():
    old = {"containers": [container("server"), container("a"), container("b")]}
    patch = {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [container("new")],
    }
    names = [one["name"] for one in merged(old, patch)["containers"]]
    assert names == ["server", "b", "new", "a"]


def test_set_element_order_alone_reorders():
    old = {"containers": [container("a", image="1"), container("b", image="2")]}
    patch = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}
    assert merged(old, patch) == {"containers": [container("b", image="2"), container("a", image="1")]}


def test_set_element_order_of_primitives():
    old = {"metadata": {"finalizers": ["a", "b"]}}
    patch = {"metadata": {"$setElementOrder/finalizers": ["c", "a"], "finalizers": ["c"]}}
    assert merge(old, patch, Pod)["metadata"]["finalizers"] == ["c", "a", "b"]


def test_retain_keys_of_a_volume():
    old = {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}
    patch = {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}
    assert merged(old, patch) == {"volumes": [{"name": "v", "emptyDir": {}}]}


def test_directives_never_reach_the_object():
    patch = {
        "$retainKeys": ["containers", "hostname"],
        "containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "$setElementOrder/env": []}],
        "$setElementOrder/containers": [{"name": "b"}],
        "$deleteFromPrimitiveList/x": ["y"],
    }
    assert merged({}, patch) == {"containers": [container("b")]}


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"containers": [{"image": "x"}]}, "does not have the merge key 'name'"),
        ({"containers": [{"name": "a", "$patch": "explode"}]}, "none that a list item may have"),
        ({"securityContext": {"$patch": "explode"}}, "unknown directive"),
        ({"$retainKeys": ["containers"], "hostname": "h"}, "which its \\$retainKeys list does not name"),
        ({"$setElementOrder/containers": "a"}, "must be a list"),
        ({"$deleteFromPrimitiveList/x": 1}, "must be a list"),
    ],
)
def test_contradictions_are_refused(patch, message):
    with pytest.raises(StrategicError, match=message):
        merged({"containers": [container("a")]}, patch)


def test_fields_no_model_knows_merge_as_objects():
    assert merge({"x": {"a": 1}, "l": [1]}, {"x": {"b": 2}, "l": [2]}, None) == {
        "x": {"a": 1, "b": 2},
        "l": [2],
    }
