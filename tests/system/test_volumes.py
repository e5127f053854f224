"""Claims as their users see them: the data stays over pods and over the whole cluster, and goes with the claim."""

import json
import urllib.request

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("volumes"),
]

CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
}


def user(name, script, **source):
    """A pod that runs a script with the claim at /data."""
    container = {
        "name": "main",
        "image": "localhost/hello:latest",
        "command": ["/bin/sh", "-c", script],
        "volumeMounts": [{"name": "v", "mountPath": "/data"}],
    }
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "data", **source}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [volume],
        },
    }


def directories(cluster):
    """The volumes on disk, of all agents."""
    return sorted(cluster.directory.glob("**/volumes/roles/*/*"))


def reserved(cluster):
    """What the master says is reserved on its agents."""
    endpoint = next(cluster.directory.glob("**/master/endpoint")).read_text()
    with urllib.request.urlopen(f"http://{endpoint}/state", timeout=60) as reply:
        return [agent["reserved_resources"] for agent in json.load(reply)["slaves"]]


def test_data_outlives_pods_and_the_cluster_and_goes_with_its_claim(own_cluster, tools):
    cluster = own_cluster
    assert "mesos-disk (default)" in cluster.kubectl("get", "storageclass")
    cluster.create(CLAIM)
    assert cluster.get("pvc", "data")["status"]["phase"] == "Pending"
    cluster.create(user("writer", "echo kept > /data/file; cat /data/file"))
    first = cluster.wait_phase("writer", "Succeeded")
    claim = cluster.get("pvc", "data")
    assert claim["status"]["phase"] == "Bound"
    assert claim["status"]["capacity"] == {"storage": "64Mi"}
    (volume,) = directories(cluster)
    assert volume.name == claim["spec"]["volumeName"]
    assert (volume / "file").read_text() == "kept\n"
    cluster.delete("writer")
    cluster.create(user("reader", "cat /data/file"))
    second = cluster.wait_phase("reader", "Succeeded")
    assert second["spec"]["nodeName"] == first["spec"]["nodeName"]
    assert cluster.kubectl("logs", "reader") == "kept\n"
    cluster.delete("reader")
    cluster.stop()
    cluster.start()
    cluster.create(user("again", "cat /data/file; sleep 1000"))
    cluster.wait_phase("again", "Running")
    tools.wait_for("the file in the log", lambda: cluster.kubectl("logs", "again") == "kept\n")
    cluster.kubectl("delete", "pvc", "data", "--wait=false")
    assert "deletionTimestamp" in cluster.get("pvc", "data")["metadata"]  # it is in use
    assert (volume / "file").exists()
    cluster.delete("again")
    tools.wait_for("no claim", lambda: not cluster.get("pvc")["items"])
    tools.wait_for("no volume", lambda: not cluster.get("pv")["items"] and not directories(cluster))
    assert not any(reserved(cluster))


def test_a_claim_has_one_user_at_a_time(own_cluster, tools):
    cluster = own_cluster
    cluster.create(user("early", "sleep 1000"))
    tools.wait_for(
        "a reason",
        lambda: 'persistentvolumeclaim "data" not found' in cluster.kubectl("describe", "pod", "early"),
    )
    cluster.create(CLAIM)
    cluster.wait_phase("early", "Running")
    cluster.create(user("late", "touch /data/x && echo wrote || echo read-only", readOnly=True))
    tools.wait_for(
        "a reason", lambda: "is in use by another pod" in cluster.kubectl("describe", "pod", "late")
    )
    described = cluster.kubectl("describe", "pvc", "data")
    assert "early" in described
    assert "Bound" in described
    assert "RWO" in cluster.kubectl("get", "pv")
    cluster.delete("early")
    cluster.wait_phase("late", "Succeeded")
    assert "read-only" in cluster.kubectl("logs", "late")
    refused = cluster.kubectl("delete", "pv", "--all", check=False)
    assert "not allowed" in refused or "MethodNotAllowed" in refused
