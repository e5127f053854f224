"""kubectl and the official client, unchanged: exec, attach, port-forward; probes and hooks beside them."""

import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]

pytest.importorskip("kubernetes")
SERVE = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1:8000') or die;"
    "while (my $c = $s->accept) { while (<$c>) { print $c qq(got $_); last if /bye/ } close $c }"
)
TALK = "while read line; do echo got $line; done; echo end; exit 4"


def container(name, *command, **fields):
    return {"name": name, "image": "localhost/hello:latest", "command": list(command), **fields}


@pytest.fixture(scope="module")
def pod(cluster):
    """Ready once its server answers a probe in its own network; says so when it is told to end."""
    hook = {"exec": {"command": ["/bin/sh", "-c", "echo bye > /proc/1/fd/1 2>/dev/null; exit 0"]}}
    probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stream"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                container("server", "perl", "-e", SERVE, readinessProbe=probe, lifecycle={"preStop": hook}),
                container("talk", "/bin/sh", "-c", TALK, stdin=True, stdinOnce=True),
            ],
            "restartPolicy": "Never",
        },
    }
    cluster.create(body)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/stream", "--timeout=60s")
    yield "stream"
    cluster.delete("stream")


def kubectl(cluster, *args, stdin=None):
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(cluster.directory)}
    return subprocess.run(
        ["kubectl", "--cache-dir", str(cluster.directory / "kubectl-cache"), *args],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_exec(cluster, pod):
    done = kubectl(
        cluster, "exec", pod, "-c", "server", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 3"
    )
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (3, "out\n", "err")
    text = "".join(f"line {number}\n" for number in range(20_000))
    done = kubectl(cluster, "exec", "-i", pod, "-c", "server", "--", "cat", stdin=text)
    assert (done.returncode, done.stdout == text) == (0, True)
    done = kubectl(cluster, "exec", pod, "-c", "talk", "--", "cat", "/proc/1/comm")
    assert done.stdout == "sh\n", "the container's own program"
    done = kubectl(cluster, "exec", pod, "-c", "nope", "--", "true")
    assert "container nope is not valid for pod stream" in done.stderr


def test_exec_on_a_terminal(cluster, pod):
    """kubectl asks for a terminal only if it has one itself."""
    script = f"""
import os, pty, sys
os.environ["KUBECONFIG"] = {str(cluster.kubeconfig)!r}
sys.exit(os.waitstatus_to_exitcode(pty.spawn(
    ["kubectl", "exec", "-it", {pod!r}, "-c", "server", "--", "/bin/sh", "-c", "test -t 0 && echo $TERM && exit 5"])))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    assert (done.returncode, b"xterm" in done.stdout) == (5, True)


def test_attach(cluster, pod):
    done = kubectl(cluster, "attach", "-i", pod, "-c", "talk", stdin="one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, "got one\ngot two\nend\n")


def test_port_forward(cluster, pod):
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
    process = subprocess.Popen(
        ["kubectl", "port-forward", "--address", "127.0.0.1", f"pod/{pod}", ":8000"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline()).group(1))
        for word in ("one", "two"):
            with socket.create_connection(("127.0.0.1", port), 30) as connected:
                connected.sendall(f"{word}\nbye\n".encode())
                answer = connected.makefile().read()
            assert answer == f"got {word}\ngot bye\n"
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


CLIENT = """
import sys
from kubernetes import client, config
from kubernetes.stream import portforward, stream

config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
command = ["/bin/sh", "-c", "read x; echo hello $x; exit 6"]
opened = stream(core.connect_get_namespaced_pod_exec, "stream", "default", container="server", command=command,
                stdin=True, stdout=True, stderr=True, _preload_content=False)
opened.write_stdin("you\\n")
opened.run_forever(timeout=30)
print(opened.read_stdout().strip(), opened.returncode)
forwarded = portforward(core.connect_get_namespaced_pod_portforward, "stream", "default", ports="8000")
connected = forwarded.socket(8000)
connected.settimeout(30)
connected.sendall(b"bye\\n")
print(connected.recv(100).decode().strip(), flush=True)
"""


def test_the_official_client(cluster, pod):
    """In a process of its own, because it leaves connections to be closed by the end of that."""
    command = [sys.executable, "-W", "ignore", "-c", CLIENT, str(cluster.kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("hello you 6\ngot bye\n", 0), done.stderr


def test_a_container_that_does_not_live_is_started_again(cluster):
    probe = {
        "exec": {"command": ["/bin/sh", "-c", "echo unwell; exit 1"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "unwell"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [container("main", "/bin/sh", "-c", "exec sleep 1000", livenessProbe=probe)],
        },
    }
    cluster.create(body)
    try:
        path = "jsonpath={.status.containerStatuses[0].restartCount}=1"
        cluster.kubectl("wait", f"--for={path}", "pod/unwell", "--timeout=60s")
        told = json.loads(
            cluster.kubectl("get", "events", "-o", "json", "--field-selector", "involvedObject.name=unwell")
        )
        messages = {one["reason"]: one["message"] for one in told["items"]}
        assert messages["Unhealthy"] == "Liveness probe failed: unwell"
        assert messages["Killing"] == "Container main failed liveness probe, will be restarted"
    finally:
        cluster.delete("unwell")
