"""What may change of a pod, and what stays as it was."""

import copy

import pytest

from scheduler.registry import PODS

SERVER = {"uid": "u", "creationTimestamp": "2024-05-01T11:00:00Z", "resourceVersion": "7"}


@pytest.fixture
def stored(create, manifest):
    pod, errors = create(manifest(container={"env": [{"name": "A", "value": "1"}]}))
    assert errors == []
    pod["metadata"].update(SERVER)
    pod["status"]["podIP"] = "10.0.0.1"
    return pod


@pytest.fixture
def bound(stored):
    stored["spec"]["nodeName"] = "agent1"
    return stored


def changed(pod, **spec):
    new = copy.deepcopy(pod)
    new["spec"].update(spec)
    return new


def with_image(pod, image):
    return changed(pod, containers=[{**pod["spec"]["containers"][0], "image": image}])


def test_nothing_changed(update, stored):
    new, errors = update(stored, stored)
    assert errors == []
    assert new == stored


def test_the_manifest_it_came_from_changes_nothing(update, bound, manifest):
    again = manifest(container={"env": [{"name": "A", "value": "1"}]}, volumes=[], hostNetwork=False)
    new, errors = update(again, bound)
    assert errors == []
    assert new["spec"] == bound["spec"]
    assert new["status"] == bound["status"]
    assert {key: new["metadata"].get(key) for key in SERVER} == {**SERVER, "resourceVersion": None}


def test_labels_and_annotations_may_change(update, bound):
    new = copy.deepcopy(bound)
    new["metadata"]["labels"] = {"a": "b"}
    new["metadata"]["annotations"] = {"c": "d"}
    got, errors = update(new, bound)
    assert errors == []
    assert got["metadata"]["labels"] == {"a": "b"}
    new["metadata"]["labels"] = {"a b": "c"}
    assert [one.field for one in update(new, bound)[1]] == ["metadata.labels"]


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("namespace", "other"), ("uid", "other")])
def test_identity_does_not_change(update, bound, key, value):
    new = copy.deepcopy(bound)
    new["metadata"][key] = value
    _, errors = update(new, bound)
    assert [str(one) for one in errors] == [f'metadata.{key}: Invalid value: "other": field is immutable']


def test_users_write_no_status_and_no_deletion(update, bound):
    new = copy.deepcopy(bound) | {"status": {"phase": "Succeeded"}}
    new["metadata"]["deletionTimestamp"] = "2024-05-01T12:00:00Z"
    got, errors = update(new, bound)
    assert errors == []
    assert got == bound


def test_a_deletion_in_progress_is_kept(update, bound):
    bound["metadata"].update(deletionTimestamp="2024-05-01T12:00:00Z", deletionGracePeriodSeconds=3)
    new = copy.deepcopy(bound)
    del new["metadata"]["deletionTimestamp"]
    new["metadata"]["finalizers"] = ["example.com/late"]
    got, errors = update(new, bound)
    assert got["metadata"]["deletionTimestamp"] == "2024-05-01T12:00:00Z"
    assert got["metadata"]["deletionGracePeriodSeconds"] == 3
    assert [one.field for one in errors] == ["metadata.finalizers"]


def test_the_status_is_written_apart(update, bound):
    new = changed(bound, hostname="other") | {"status": {"phase": "Running"}}
    new["metadata"]["labels"] = {"a": "b"}
    new["metadata"]["resourceVersion"] = "6"
    got, errors = update(new, bound, status=True)
    assert errors == []
    assert got["status"] == {"phase": "Running"}
    assert got["spec"] == bound["spec"]
    assert "labels" not in got["metadata"]
    assert got["metadata"]["resourceVersion"] == "6"


@pytest.mark.parametrize(
    "spec",
    [
        {"hostname": "other"},
        {"restartPolicy": "Never"},
        {"terminationGracePeriodSeconds": 1},
        {"nodeSelector": {"a": "b"}},
        {"nodeName": "agent2"},
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        {"containers": [{"name": "app", "image": "nginx:1"}]},
        {"containers": [{"name": "app", "image": "a"}, {"name": "b", "image": "b"}]},
        {"initContainers": [{"name": "i", "image": "b"}]},
    ],
)
def test_most_of_a_spec_does_not_change(update, bound, spec):
    _, errors = update(changed(bound, **spec), bound)
    assert [(one.field, one.reason) for one in errors] == [("spec", "FieldValueForbidden")]
    assert "pod updates may not change fields other than `spec.containers[*].image`" in errors[0].message
    assert errors[0].message.endswith(f"changed: {next(iter(spec))}")


def test_an_image_changes_only_before_the_launch(update, stored):
    got, errors = update(with_image(stored, "nginx:2"), stored)
    assert errors == []
    assert got["spec"]["containers"][0]["image"] == "nginx:2"
    assert [one.field for one in update(with_image(stored, ""), stored)[1]] == ["spec.containers[0].image"]
    stored["spec"]["nodeName"] = "agent1"
    _, errors = update(with_image(stored, "nginx:2"), stored)
    assert [one.field for one in errors] == ["spec.containers[0].image"]
    assert errors[0].message == (
        "Forbidden: changing it is not supported by Gantry yet once the pod is bound to a node"
    )


def test_a_deadline_only_comes_nearer(update, stored):
    path = "spec.activeDeadlineSeconds"
    assert update(changed(stored, activeDeadlineSeconds=10), stored)[1] == []
    stored["spec"]["activeDeadlineSeconds"] = 10
    assert update(changed(stored, activeDeadlineSeconds=5), stored)[1] == []
    assert [one.field for one in update(changed(stored, activeDeadlineSeconds=11), stored)[1]] == [path]
    assert [one.field for one in update(changed(stored, activeDeadlineSeconds=None), stored)[1]] == [path]
    stored["spec"]["nodeName"] = "agent1"
    assert [one.field for one in update(changed(stored, activeDeadlineSeconds=5), stored)[1]] == [path]


def test_tolerations_are_only_added(update, bound):
    more = {"key": "a", "operator": "Exists"}
    had = bound["spec"]["tolerations"]
    assert update(changed(bound, tolerations=[*had, more]), bound)[1] == []
    longer = [{**had[0], "tolerationSeconds": 10}, had[1]]
    assert update(changed(bound, tolerations=longer), bound)[1] == []
    bound["spec"]["tolerations"] = [*had, more]
    _, errors = update(changed(bound, tolerations=had), bound)
    assert [one.field for one in errors] == ["spec.tolerations"]


def test_field_selectors_of_pods(bound):
    def matches(text):
        return PODS.field_matcher(text)(bound)

    assert matches("metadata.name=web,metadata.namespace=default")
    assert matches("spec.nodeName=agent1,status.phase=Pending,status.podIP=10.0.0.1")
    assert matches("spec.restartPolicy=Always,spec.serviceAccountName=default,spec.hostNetwork=false")
    assert matches("status.nominatedNodeName=,spec.schedulerName!=mine")
    assert not matches("spec.nodeName!=agent1")
