"""Claims, volumes, the storage class."""

import copy

import pytest

from scheduler.registry import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, STORAGECLASSES, find
from scheduler.registry.storageclasses import built_in


def claim(**spec):
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {key: value for key, value in asked.items() if value is not None},
    }


def test_a_claim_gets_its_defaults(create):
    made, errors = create(claim() | {"status": {"phase": "Bound"}}, PERSISTENTVOLUMECLAIMS)
    assert errors == []
    assert made["spec"]["storageClassName"] == "mesos-disk"
    assert made["spec"]["volumeMode"] == "Filesystem"
    assert made["status"] == {"phase": "Pending"}
    assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"accessModes": None}, "spec.accessModes", "at least 1 access mode is required"),
        ({"accessModes": ["Nope"]}, "spec.accessModes", "supported values"),
        ({"accessModes": ["ReadWriteMany"]}, "spec.accessModes", "one user at a time"),
        (
            {"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"]},
            "spec.accessModes",
            "may not use ReadWriteOncePod with other access modes",
        ),
        ({"resources": None}, "spec.resources[storage]", ""),
        ({"resources": {"requests": {"storage": "0"}}}, "spec.resources[storage]", "greater than zero"),
        (
            {"resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "2Gi"}}},
            "spec.resources.limits",
            "not supported by Gantry yet",
        ),
        (
            {"resources": {"requests": {"storage": "1Gi", "cpu": "1"}}},
            "spec.resources.requests[cpu]",
            "supported values",
        ),
        ({"storageClassName": "fast"}, "spec.storageClassName", 'supported values: "mesos-disk"'),
        ({"storageClassName": ""}, "spec.storageClassName", 'supported values: "mesos-disk"'),
        ({"volumeMode": "Block"}, "spec.volumeMode", "not supported by Gantry yet"),
        ({"volumeMode": "Tape"}, "spec.volumeMode", "supported values"),
        ({"volumeName": "pv1"}, "spec.volumeName", "one cannot be chosen"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "spec.selector", "one cannot be chosen"),
        (
            {"accessModes": ["ReadOnlyMany"]},
            "spec.accessModes",
            "ReadOnlyMany: a volume of a Mesos agent has one",
        ),
        (
            {"accessModes": ["ReadWriteMany"]},
            "spec.accessModes",
            "ReadWriteMany: a volume of a Mesos agent has one",
        ),
        ({"volumeAttributesClassName": "x"}, "spec.volumeAttributesClassName", "there are no"),
        (
            {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}},
            "spec.dataSource",
            "a volume starts empty",
        ),
    ],
)
def test_claims_that_are_refused(create, spec, field, message):
    _, errors = create(claim(**spec), PERSISTENTVOLUMECLAIMS)
    assert [one.field for one in errors] == [field]
    assert message in errors[0].message


def bound(create):
    made, _ = create(claim(), PERSISTENTVOLUMECLAIMS)
    made["metadata"] |= {"uid": "u", "creationTimestamp": "2024-05-01T11:00:00Z"}
    made["spec"]["volumeName"] = "pvc-u"
    made["status"] = {
        "phase": "Bound",
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"},
    }
    return made


def test_a_claim_changes_only_in_its_metadata(create, update):
    old = bound(create)
    new = claim()  # as `kubectl apply` sends it again
    new["metadata"]["labels"] = {"a": "b"}
    got, errors = update(new, old, PERSISTENTVOLUMECLAIMS)
    assert errors == []
    assert got["spec"] == old["spec"]
    assert got["status"] == old["status"]
    bigger = claim(resources={"requests": {"storage": "2Gi"}})
    _, errors = update(bigger, old, PERSISTENTVOLUMECLAIMS)
    assert [one.field for one in errors] == ["spec.resources.requests.storage"]
    assert "neither grows nor shrinks" in errors[0].message
    other = claim(accessModes=["ReadWriteOncePod"])
    _, errors = update(other, old, PERSISTENTVOLUMECLAIMS)
    assert [(one.field, "immutable" in one.message) for one in errors] == [("spec", True)]


def test_the_cells_of_a_claim(create, now):
    row = PERSISTENTVOLUMECLAIMS.row
    made = bound(create)
    cells = ["data", "Bound", "pvc-u", "1Gi", "RWO", "mesos-disk", "<unset>", "60m", "Filesystem"]
    assert row(made, now) == cells
    made["metadata"]["deletionTimestamp"] = "2024-05-01T11:30:00Z"
    assert row(made, now)[1] == "Terminating"
    waiting, _ = create(claim(), PERSISTENTVOLUMECLAIMS)
    assert row(waiting, now)[1:5] == ["Pending", "", "", ""]


def test_users_make_no_volumes(create, update, now):
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pvc-u", "creationTimestamp": "2024-05-01T11:00:00Z"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": "data"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "mesos-disk",
            "volumeMode": "Filesystem",
        },
        "status": {"phase": "Bound"},
    }
    _, errors = create(copy.deepcopy(volume), PERSISTENTVOLUMES)
    assert "made and removed by Gantry" in errors[0].message
    _, errors = update(volume, volume, PERSISTENTVOLUMES)
    assert errors
    assert PERSISTENTVOLUMES.row(volume, now) == [
        *("pvc-u", "1Gi", "RWO", "Delete", "Bound", "default/data", "mesos-disk", "<unset>", "", "60m"),
        "Filesystem",
    ]
    assert set(PERSISTENTVOLUMES.verbs) == set(STORAGECLASSES.verbs) == {"get", "list", "watch"}


def test_the_storage_class(create, update, now):
    made, errors = create(built_in(), STORAGECLASSES)
    assert errors == []
    assert STORAGECLASSES.row(made, now)[:5] == [
        *("mesos-disk (default)", "gantry.io/mesos-disk", "Delete", "WaitForFirstConsumer", False)
    ]
    other = {**built_in(), "metadata": {"name": "fast"}}
    assert create(other, STORAGECLASSES)[1]
    assert update(made, made, STORAGECLASSES)[1]
    assert find("storage.k8s.io", "v1", "storageclasses") is STORAGECLASSES
    assert STORAGECLASSES.api_version == "storage.k8s.io/v1"
