"""What a pod asks of the node's isolation, with kubectl: from the field to the process, or to the reason why not."""

import json
import os

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]

PROFILE = {"type": "Localhost", "localhostProfile": "web"}
HAS_APPARMOR = os.path.exists("/sys/module/apparmor/parameters/enabled")


def pod(name, script, container=None, notes=None, **spec):
    main = {"name": "main", "image": "localhost/hello:latest", "command": ["/bin/sh", "-c", script]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": notes or {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{**main, **(container or {})}],
            **spec,
        },
    }


def run(cluster, made):
    """Its log, when it has succeeded."""
    cluster.create(made)
    name = made["metadata"]["name"]
    cluster.wait_phase(name, "Succeeded")
    log = cluster.kubectl("logs", name)
    cluster.delete(name)
    return log


def failed(cluster, made):
    """Its status, when it has failed."""
    cluster.create(made)
    name = made["metadata"]["name"]
    status = cluster.wait_phase(name, "Failed")["status"]
    cluster.delete(name)
    return status


def test_groups_namespaces_and_paths(cluster):
    mounts = [
        {"name": "disk", "mountPath": "/disk"},
        {"name": "config", "mountPath": "/config"},
        {"name": "disk", "mountPath": "/mine", "subPathExpr": "of/$(ME)"},
    ]
    cluster.kubectl("create", "configmap", "level", "--from-literal=level=debug")
    made = pod(
        "groups",
        "id -G; stat -c '%g %a' /disk; stat -L -c '%g %a' /config/level; touch /mine/x; ls /disk/of",
        {
            "volumeMounts": mounts,
            "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        },
        volumes=[{"name": "disk", "emptyDir": {}}, {"name": "config", "configMap": {"name": "level"}}],
        securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": [7]},
    )
    assert run(cluster, made) == "1000 7 2000\n2000 2777\n2000 644\ngroups\n"
    cluster.kubectl("delete", "configmap", "level")

    read = "readlink /proc/self/ns/pid /proc/self/ns/ipc"
    pid, ipc = run(cluster, pod("of-the-node", read, hostPID=True, hostIPC=True)).split()
    own = run(cluster, pod("its-own", read)).split()
    assert pid != own[0]
    assert ipc == os.readlink("/proc/self/ns/ipc") != own[1]
    assert run(cluster, pod("alone", "echo $$$$")) == "1\n"
    seen = run(cluster, pod("together", "cat /proc/1/comm", shareProcessNamespace=True))
    assert seen == "gantry-init\n"
    refused = cluster.kubectl(
        "run",
        "both",
        "--image=x",
        '--overrides={"spec":{"hostPID":true,"hostUsers":false}}',
        check=False,
    )
    assert "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false" in refused


def test_too_much_disk(cluster):
    limited = {"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}
    volumes = [{"name": "disk", "emptyDir": {"sizeLimit": "1Mi"}}]
    fill = "dd if=/dev/zero of=/disk/x bs=64k count=64 2>/dev/null; sync; sleep 1000"
    status = failed(cluster, pod("full", fill, limited, volumes=volumes, restartPolicy="Always"))
    assert (status["reason"], status["message"]) == (
        "Evicted",
        'Usage of EmptyDir volume "disk" exceeds the limit "1Mi". ',
    )
    assert "Evicted" in cluster.kubectl("get", "events")


@pytest.mark.skipif(HAS_APPARMOR, reason="AppArmor is on here")
def test_what_the_node_cannot_enforce_is_refused(cluster):
    labelled = {"securityContext": {"appArmorProfile": PROFILE}}
    status = failed(cluster, pod("labelled", "true", labelled))
    assert (status["reason"], status["message"]) == (
        "AppArmor",
        "Cannot enforce AppArmor: AppArmor is not on in this kernel",
    )
    slow = pod("slow", "true", notes={"kubernetes.io/ingress-bandwidth": "1M"})
    assert failed(cluster, slow)["reason"] == "NetworkBandwidth"
    wrong = pod(
        "wrong", "true", notes={"container.apparmor.security.beta.kubernetes.io/nobody": "unconfined"}
    )
    assert "container not found" in cluster.kubectl("create", "-f", "-", stdin=json.dumps(wrong), check=False)


@pytest.mark.skipif(HAS_APPARMOR, reason="AppArmor is on here")
def test_what_the_node_cannot_enforce_is_reported(make_cluster, tmp_path):
    cluster = make_cluster(tmp_path / "data", "--executor-options", "--unenforceable report")
    beta = {"container.apparmor.security.beta.kubernetes.io/main": "localhost/web"}
    cluster.create(pod("runs", "sleep 1000", notes={**beta, "kubernetes.io/egress-bandwidth": "1M"}))
    found = cluster.wait_phase("runs", "Running")
    assert found["spec"]["containers"][0]["securityContext"] == {"appArmorProfile": PROFILE}
    (condition,) = [
        one for one in found["status"]["conditions"] if one["type"] == "gantry.io/IsolatorsEnforced"
    ]
    assert (condition["status"], condition["reason"]) == ("False", "IsolatorNotEnforced")
    for part in (
        "pod: isolator resource/network-bandwidth",
        "container main: isolator os/linux/apparmor-profile",
    ):
        assert f"{part} is not enforced: " in condition["message"]
    assert found["status"]["message"] == condition["message"]
    events = cluster.kubectl("get", "events")
    assert events.count("IsolatorNotEnforced") == 2
    assert "is not enforced" in cluster.kubectl("describe", "pod", "runs")
