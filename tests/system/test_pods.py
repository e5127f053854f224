"""Pods as their users see them: submitted with kubectl, run by stage1 on this machine's embedded Mesos."""

import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]


@pytest.fixture
def pod(cluster):
    """Creates pods, and deletes them after the test."""
    names = []

    def create(manifest):
        names.append(manifest["metadata"]["name"])
        cluster.create(manifest)
        return names[-1]

    yield create
    for name in names:
        cluster.delete(name)


def container(*command, **fields):
    return {"name": "main", "image": "localhost/hello:latest", "command": list(command), **fields}


def manifest(name, *containers, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": list(containers), **spec},
    }


def events(cluster, name, reason):
    items = cluster.get("events", "--field-selector", f"involvedObject.name={name},reason={reason}")["items"]
    return [item["message"] for item in items]


DIRECTORY = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_examples_come_to_what_they_say(cluster, path, tools):
    file = str(DIRECTORY / f"{path}.yaml")
    cluster.kubectl("create", "-f", file)
    try:
        name = {"job-like": "once"}.get(path, path)
        phase = {"job-like": "Succeeded", "failing": "Failed"}.get(path, "Running")
        pod = cluster.wait_phase(name, phase)
        last = {
            "hello": "process",
            "two-containers": "you said: hello",
            "job-like": "done",
            "failing": "fail",
            "chroot": "root",
            "configured": "Good morning; the password has 14 characters",
            "stored": "counted to 1",
        }
        main = ["-c", "client"] if path == "two-containers" else []
        if path == "probed":
            cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")
        else:
            tools.wait_for(f"log of {name}", lambda: last[path] in cluster.kubectl("logs", name, *main))
        if path == "failing":
            assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    finally:
        cluster.kubectl("delete", "-f", file, "--timeout=30s")
    assert cluster.get("pods")["items"] == []


def test_describe_and_wide_show_where_it_runs(cluster, pod, tools, marker):
    name = pod(tools.sleeper("wide", marker))
    node = cluster.wait_phase(name, "Running")["spec"]["nodeName"]
    wide = cluster.kubectl("get", "pods", "-o", "wide")
    assert wide.split("\n")[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert node in wide
    assert "1/1" in wide
    described = cluster.kubectl("describe", "pod", name)
    assert f"Successfully assigned default/{name} to {node}" in described
    assert "Started container main" in described


def test_nodes_are_the_agents(cluster):
    nodes = cluster.get("nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["agent-1", "agent-2"]
    for node in nodes:
        assert node["status"]["capacity"]["cpu"] == "4"
        assert node["status"]["capacity"]["memory"] == "8388608Ki"
        assert "r1" in node["metadata"]["labels"].values()
    assert "Ready" in cluster.kubectl("get", "nodes")


def test_logs_follow_tail_and_timestamps(cluster, pod, tools):
    name = pod(
        manifest(
            "talks",
            container("/bin/sh", "-c", "echo one; echo two >&2; echo three; sleep 1; echo four"),
            restartPolicy="Never",
        )
    )
    tools.wait_for("started", lambda: cluster.pod(name)["status"]["phase"] in {"Running", "Succeeded"})
    followed = cluster.kubectl("logs", "-f", name)
    assert sorted(followed.split()) == ["four", "one", "three", "two"]
    assert cluster.kubectl("logs", "--tail=1", name) == "four\n"
    stamped = cluster.kubectl("logs", "--timestamps", "--tail=1", name)
    assert stamped.startswith(time.strftime("%Y-"))
    assert stamped.endswith(" four\n")


def test_a_crashing_container_is_restarted_with_its_history(cluster, pod, tools):
    name = pod(manifest("crashes", container("/bin/sh", "-c", "echo run; exit 3"), restartPolicy="OnFailure"))

    def restarted():
        statuses = cluster.pod(name)["status"].get("containerStatuses", [])
        return statuses and statuses[0]["restartCount"] >= 1 and statuses[0]

    status = tools.wait_for("restart", restarted)
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert status["lastState"]["terminated"]["reason"] == "Error"
    tools.wait_for(
        "previous log", lambda: cluster.kubectl("logs", "--previous", name, check=False) == "run\n"
    )
    tools.wait_for("CrashLoopBackOff", lambda: "CrashLoopBackOff" in cluster.kubectl("get", "pod", name))


def test_termination_is_graceful_then_certain(cluster, pod, tools, marker):
    script = "trap 'echo asked to end' TERM; echo ready; while :; do /bin/sleep 0.1; done"
    name = pod(manifest("stubborn", container("/bin/sh", "-c", script, name="main")))
    tools.wait_for("ready", lambda: "ready" in cluster.kubectl("logs", name, check=False))
    cluster.kubectl("delete", "pod", name, "--grace-period=1", "--timeout=20s")
    assert name not in cluster.kubectl("get", "pods", check=False)


def test_an_image_that_is_not_there_says_so(cluster, pod, tools):
    name = pod(manifest("no-image", container("/bin/true", image="localhost/nope:latest")))
    tools.wait_for(
        "ErrImagePull",
        lambda: any("localhost/nope" in text for text in events(cluster, name, "Failed")),
    )
    tools.wait_for("ImagePullBackOff", lambda: "ImagePullBackOff" in cluster.kubectl("get", "pod", name))


def test_a_program_that_is_not_in_the_image_says_so(cluster, pod, tools):
    name = pod(manifest("no-program", container("/bin/nope"), restartPolicy="Never"))
    terminated = cluster.wait_phase(name, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert "/bin/nope" in terminated["message"]
    assert terminated["exitCode"] != 0


def test_what_fits_nowhere_says_why(cluster, pod, tools):
    name = pod(manifest("huge", container("/bin/true", resources={"requests": {"cpu": "64"}})))
    expected = "0/2 nodes are available: 2 Insufficient cpu."
    tools.wait_for("FailedScheduling", lambda: expected in events(cluster, name, "FailedScheduling"))
    assert cluster.pod(name)["status"]["phase"] == "Pending"


def test_gpus_are_handed_to_the_app(cluster, pod, tools):
    assert cluster.get("nodes")["items"][0]["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    limits = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    script = "echo /dev/nvidia*; echo $NVIDIA_VISIBLE_DEVICES; exec 3</dev/nvidia1 && echo opened"
    name = pod(manifest("gpus", container("/bin/sh", "-c", script, **limits), restartPolicy="Never"))
    cluster.wait_phase(name, "Succeeded")
    assert cluster.kubectl("logs", name).splitlines() == [
        "/dev/nvidia0 /dev/nvidia1 /dev/nvidiactl",
        "0,1",
        "opened",
    ]
    limits["resources"]["limits"]["nvidia.com/gpu"] = 3
    name = pod(manifest("too-many-gpus", container("/bin/true", **limits)))
    expected = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    tools.wait_for("FailedScheduling", lambda: expected in events(cluster, name, "FailedScheduling"))
    described = cluster.kubectl("describe", "node", "agent-1")
    assert "nvidia.com/gpu" in described


def test_a_runtime_class_of_the_users_own(cluster, pod):
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "quick", "annotations": {"gantry.io/executor": "dedicated"}},
        "handler": "fly",
        "overhead": {"podFixed": {"cpu": "100m"}},
    }
    unknown = {**runtime, "metadata": {"name": "unknown"}, "handler": "gvisor"}
    cluster.create(runtime)
    cluster.create(unknown)
    try:
        script = "ls /proc/1/exe -l; cat /proc/1/comm"
        job = manifest("quick", container("/bin/sh", "-c", script), restartPolicy="Never")
        job["spec"]["runtimeClassName"] = "quick"
        name = pod(job)
        assert cluster.wait_phase(name, "Succeeded")["spec"]["overhead"] == {"cpu": "100m"}
        job["metadata"]["name"], job["spec"]["runtimeClassName"] = "unknown", "unknown"
        failed = cluster.wait_phase(pod(job), "Failed")["status"]
        assert failed["reason"] == "InvalidPod"
        assert "its handler 'gvisor' is no stage1 flavor of this executor" in failed["message"]
    finally:
        cluster.kubectl("delete", "runtimeclass", "quick", "unknown")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": ""}, "spec.containers[0].image"),
        ({"livenessProbe": {"tcpSocket": {"port": 0}}}, "spec.containers[0].livenessProbe.tcpSocket.port"),
        ({"name": "Not A Name"}, "spec.containers[0].name"),
    ],
)
def test_a_pod_we_cannot_run_is_refused_by_field(cluster, change, named):
    import json

    body = manifest("refused", container("/bin/true") | change)
    answer = cluster.kubectl("create", "-f", "-", stdin=json.dumps(body), check=False)
    assert named in answer
    assert "refused" not in cluster.kubectl("get", "pods", check=False)


def test_memory_limit_kills_and_says_oom(cluster, pod):
    hungry = "exec perl -e 'my $x = q(x) x (256 * 1024 * 1024); sleep 100'"
    limits = {"limits": {"memory": "32Mi"}}
    name = pod(
        manifest("hungry", container("/bin/sh", "-c", hungry, resources=limits), restartPolicy="Never")
    )
    terminated = cluster.wait_phase(name, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["reason"], terminated["exitCode"]) == ("OOMKilled", 137)


@pytest.mark.skipif(
    not Path("/sys/fs/cgroup/memory").is_dir(), reason="pods are below the agent's cgroup in v1 only"
)
def test_a_pod_without_a_limit_takes_no_neighbour_along(cluster, pod):
    """The kernel ends it, before the agent ends the executor and all its pods."""
    asked = {"requests": {"memory": "16Mi"}}
    neighbour = pod(
        manifest("neighbour", container("/bin/sleep", "1000", resources=asked), restartPolicy="Never")
    )
    before = cluster.wait_phase(neighbour, "Running")["status"]["containerStatuses"]
    hungry = "my @taken; push @taken, q(x) x (1 << 20) for 1 .. 4096; sleep 100"
    name = pod(
        manifest("insatiable", container("/bin/sh", "-c", f"exec perl -e '{hungry}'"), restartPolicy="Never")
    )
    terminated = cluster.wait_phase(name, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["reason"], terminated["exitCode"]) == ("OOMKilled", 137)
    assert cluster.get("pod", neighbour)["status"]["containerStatuses"] == before
