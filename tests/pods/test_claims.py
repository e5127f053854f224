"""Claims of a pod become directories of the agent."""

import pytest

from executor.pods.claims import CLAIM, paths, with_claims


def volume(claim, volume_id="vol-1", role="gantry", **more):
    labels = {"labels": [{"key": "gantry.io/claim", "value": claim}]}
    return {
        "name": "disk",
        "type": "SCALAR",
        "scalar": {"value": 64},
        "reservations": [{"type": "DYNAMIC", "role": role, "labels": labels}],
        "disk": {
            "persistence": {"id": volume_id},
            "volume": {"mode": "RW", "container_path": volume_id},
        },
        **more,
    }


def pod(*volumes, **source):
    claims = [
        {"name": f"v{i}", "persistentVolumeClaim": {"claimName": name, **source}}
        for i, name in enumerate(volumes)
    ]
    mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in claims]
    mounts.append({"name": "tmp", "mountPath": "/tmp"})
    return {
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {
            "containers": [{"name": "c", "image": "x", "volumeMounts": mounts}],
            "initContainers": [{"name": "i", "image": "x"}],
            "volumes": [*claims, {"name": "tmp", "emptyDir": {}}],
        },
    }


@pytest.fixture
def sandbox(tmp_path):
    made = tmp_path / "slaves" / "S" / "frameworks" / "F" / "executors" / "E" / "runs" / "C"
    made.mkdir(parents=True)
    return made


def test_a_link_in_the_sandbox_leads_to_the_volume(sandbox, tmp_path):
    there = tmp_path / "elsewhere"
    there.mkdir()
    (sandbox / "vol-1").symlink_to(there)
    plain = {"name": "disk", "type": "SCALAR", "scalar": {"value": 1}}
    assert paths([plain, volume("ns/data")], sandbox) == {"ns/data": there.resolve()}


@pytest.mark.parametrize("role", ["gantry", "gantry/web"])
def test_a_mount_in_the_sandbox_is_found_below_the_work_directory(sandbox, tmp_path, role):
    there = tmp_path / "volumes" / "roles" / role.replace("/", " ") / "vol-1"
    there.mkdir(parents=True)
    (sandbox / "vol-1").mkdir()
    assert paths([volume("ns/data", role=role)], sandbox) == {"ns/data": there}


def test_volumes_elsewhere_are_taken_as_the_sandbox_shows_them(sandbox):
    old = volume("ns/data")
    (reservation,) = old.pop("reservations")
    old |= {"role": "gantry", "reservation": {"labels": reservation["labels"]}}
    assert paths([old], sandbox) == {"ns/data": sandbox / "vol-1"}


def test_the_pod_gets_directories(tmp_path):
    asked = pod("data", "more")
    found = {"ns/data": tmp_path / "a", "ns/more": tmp_path / "b"}
    made = with_claims(asked, found)
    assert made["spec"]["volumes"] == [
        {
            "name": "v0",
            "hostPath": {"path": str(tmp_path / "a"), "type": "Directory"},
            CLAIM: {"readOnly": False},
        },
        {
            "name": "v1",
            "hostPath": {"path": str(tmp_path / "b"), "type": "Directory"},
            CLAIM: {"readOnly": False},
        },
        {"name": "tmp", "emptyDir": {}},
    ]
    assert made["spec"]["containers"] == asked["spec"]["containers"]
    assert "persistentVolumeClaim" in asked["spec"]["volumes"][0]  # the launch is not changed


def test_a_claim_that_is_only_read(tmp_path):
    made = with_claims(pod("data", readOnly=True), {"ns/data": tmp_path})
    mounts = made["spec"]["containers"][0]["volumeMounts"]
    assert [one.get("readOnly") for one in mounts] == [True, None]


def test_a_task_without_the_volume(tmp_path):
    with pytest.raises(ValueError, match='volume "v0": the task has no volume of claim ns/data'):
        with_claims(pod("data"), {"ns/other": tmp_path})


def test_pods_without_claims_stay_as_they_are():
    asked = pod()
    assert with_claims(asked, {}) is asked
