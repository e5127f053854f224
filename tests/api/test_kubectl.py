"""The real kubectl against a server on an ephemeral port, with a token."""

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def minor_version() -> int:
    """32 for a kubectl 1.32; Debian's is older, and lacks some commands. 0 where there is none."""
    if shutil.which("kubectl") is None:
        return 0
    said = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return int(json.loads(said.stdout)["clientVersion"]["minor"].rstrip("+"))


MINOR = minor_version()

MANIFEST = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "containers": [{"name": "c", "image": "localhost/hello:1", "env": [{"name": "A", "value": "1"}]}]
    },
}


class Kubectl:
    def __init__(self, server: str, tmp: Path, **user: str) -> None:
        cluster = {"server": server}
        if server.startswith("https:"):
            cluster["certificate-authority"] = str(tmp / "cert.pem")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "g", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "g", "context": {"cluster": "g", "user": "u"}}],
            "current-context": "g",
        }
        (tmp / "kubeconfig").write_text(json.dumps(config))
        self.base = ["kubectl", "--kubeconfig", str(tmp / "kubeconfig"), "--cache-dir", str(tmp / "cache")]

    def run(
        self, *args: str, stdin: object = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        text = None if stdin is None else json.dumps(stdin)
        return subprocess.run(
            [*self.base, *args], input=text, capture_output=True, text=True, timeout=50, check=False, env=env
        )

    def __call__(self, *args: str, stdin: object = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *args: str, stdin: object = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode != 0, f"{args}: {done.stdout}"
        return done.stderr


@pytest.fixture
def kubectl(live, tmp_path) -> Kubectl:
    """Over plain HTTP kubectl does not send a token, but what stands in the URL."""
    return Kubectl(f"http://gantry:s3cret@127.0.0.1:{live.port}", tmp_path)


def test_looks_around(kubectl):
    assert re.search(r"Server Version.*v1\.32\.0\+gantry-0\.1\.0", kubectl("version"))
    assert "is running at" in kubectl("cluster-info")
    resources = kubectl("api-resources", "--no-headers")
    assert [line.split()[0] for line in resources.splitlines()][:10] == [
        "configmaps",
        "events",
        "namespaces",
        "nodes",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "secrets",
        "serviceaccounts",
        "services",
    ]
    assert {"runtimeclasses", "storageclasses"} <= {line.split()[0] for line in resources.splitlines()}
    assert "v1" in kubectl("api-versions").splitlines()
    assert re.search(r"FIELD: +image <string>", kubectl("explain", "pod.spec.containers.image"))
    assert kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    if MINOR >= 28:
        assert "admin" in kubectl("auth", "whoami")
    assert "default" in kubectl("get", "ns")


def test_runtime_classes(kubectl):
    listed = [line.split()[:2] for line in kubectl("get", "runtimeclasses").splitlines()]
    assert listed == [
        ["NAME", "HANDLER"],
        ["fly", "fly"],
        ["kvm", "kvm"],
        ["linux", "linux"],
        ["nspawn", "nspawn"],
    ]
    own = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "heavy", "annotations": {"gantry.io/executor": "dedicated"}},
        "handler": "linux",
        "overhead": {"podFixed": {"cpu": "250m"}},
    }
    assert kubectl("apply", "-f", "-", stdin=own) == "runtimeclass.node.k8s.io/heavy created\n"
    own["handler"] = "fly"
    assert "handler: Invalid value" in kubectl.fails("apply", "-f", "-", stdin=own)
    pod = {**MANIFEST, "spec": {**MANIFEST["spec"], "runtimeClassName": "heavy"}}
    kubectl("create", "-f", "-", stdin=pod)
    made = json.loads(kubectl("get", "pod", "web", "-o", "json"))
    assert made["spec"]["overhead"] == {"cpu": "250m"}
    assert made["metadata"]["annotations"] == {"gantry.io/executor": "dedicated"}
    assert "replaced" in kubectl("replace", "-f", "-", stdin={**pod, "metadata": made["metadata"]})
    kubectl("delete", "runtimeclass", "heavy", "fly")
    pod["metadata"] = {"name": "late"}
    assert 'pod rejected: RuntimeClass "heavy" not found' in kubectl.fails("create", "-f", "-", stdin=pod)


def test_secrets(kubectl, tmp_path):
    kubectl("create", "secret", "generic", "login", "--from-literal=user=me", "--from-literal=password=x")
    registry = ("--docker-server=r.example", "--docker-username=me", "--docker-password=hunter2")
    kubectl("create", "secret", "docker-registry", "pull", *registry)
    rows = [line.split()[:3] for line in kubectl("get", "secrets").splitlines()]
    assert rows == [
        ["NAME", "TYPE", "DATA"],
        ["login", "Opaque", "2"],
        ["pull", "kubernetes.io/dockerconfigjson", "1"],
    ]
    described = kubectl("describe", "secret", "login")
    assert re.search(r"Type: +Opaque", described)
    assert re.search(r"password: +1 bytes", described)
    made = json.loads(kubectl("get", "secret", "login", "-o", "json"))
    assert made["data"] == {"user": "bWU=", "password": "eA=="}
    kubectl("patch", "secret", "login", "-p", '{"stringData":{"user":"you"},"immutable":true}')
    assert "eW91" in kubectl("get", "secret", "login", "-o", "yaml")
    refused = kubectl.fails("patch", "secret", "login", "-p", '{"stringData":{"user":"he"}}')
    assert "field is immutable when `immutable` is set" in refused
    (tmp_path / "broken").write_text("{")
    flags = ("--type=kubernetes.io/dockerconfigjson", f"--from-file=.dockerconfigjson={tmp_path}/broken")
    assert "secret contents redacted" in kubectl.fails("create", "secret", "generic", "b", *flags)


def test_config_maps_and_accounts(kubectl, tmp_path):
    (tmp_path / "blob").write_bytes(b"\0\xff")
    kubectl(
        "create", "configmap", "config", "--from-literal=level=debug", f"--from-file=blob={tmp_path}/blob"
    )
    made = json.loads(kubectl("get", "cm", "config", "-o", "json"))
    assert (made["data"], made["binaryData"]) == ({"level": "debug"}, {"blob": "AP8="})
    assert [line.split()[:2] for line in kubectl("get", "cm").splitlines()] == [
        ["NAME", "DATA"],
        ["config", "2"],
    ]
    assert "debug" in kubectl("describe", "cm", "config")
    kubectl("create", "namespace", "team")
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", "team", "--timeout=20s")
    secrets = '{"imagePullSecrets":[{"name":"pull"}]}'
    kubectl("patch", "serviceaccount", "default", "-n", "team", "-p", secrets)
    assert re.search(r"Image pull secrets: +pull", kubectl("describe", "sa", "default", "-n", "team"))
    kubectl("create", "-n", "team", "-f", "-", stdin=MANIFEST)
    pod = json.loads(kubectl("get", "pod", "web", "-n", "team", "-o", "json"))
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    robot = {
        **MANIFEST,
        "metadata": {"name": "r"},
        "spec": {**MANIFEST["spec"], "serviceAccountName": "robot"},
    }
    assert 'serviceaccount "robot" not found' in kubectl.fails("create", "-f", "-", stdin=robot)
    assert kubectl("create", "serviceaccount", "robot") == "serviceaccount/robot created\n"
    kubectl("create", "-f", "-", stdin=robot)
    assert "is not supported by Gantry yet" in kubectl.fails("create", "token", "robot")
    kubectl("delete", "serviceaccount", "default", "-n", "team")
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", "team", "--timeout=20s")
    kubectl("delete", "namespace", "team", "--timeout=20s")


def test_wrong_token(live, tmp_path):
    for user in ("gantry:wrong@", ""):
        stderr = Kubectl(f"http://{user}127.0.0.1:{live.port}", tmp_path).fails("get", "pods")
        assert "Unauthorized" in stderr or "provide credentials" in stderr


def test_token_over_tls(live_tls, tmp_path):
    kubectl = Kubectl(f"https://127.0.0.1:{live_tls.port}", tmp_path, token="s3cret")
    kubectl("create", "-f", "-", stdin=MANIFEST)
    assert kubectl("get", "pods", "-o", "name") == "pod/web\n"


def test_create_change_delete(kubectl):
    assert kubectl("create", "-f", "-", stdin=MANIFEST) == "pod/web created\n"
    assert "already exists" in kubectl.fails("create", "-f", "-", stdin=MANIFEST)
    wide = kubectl("get", "pods", "-o", "wide").splitlines()
    assert wide[0].split()[:6] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"]
    assert wide[1].split()[:4] == ["web", "0/1", "Pending", "0"]
    kubectl("label", "pod", "web", "tier=front")
    kubectl("annotate", "pod", "web", "note=hello")
    kubectl("patch", "pod", "web", "-p", '{"metadata":{"labels":{"s":"1"}}}')
    kubectl(
        "patch", "pod", "web", "--type=json", "-p", '[{"op":"add","path":"/metadata/labels/j","value":"2"}]'
    )
    kubectl("patch", "pod", "web", "--type=merge", "-p", '{"metadata":{"labels":{"app":null}}}')
    web = json.loads(kubectl("get", "pod", "web", "-o", "json"))
    assert web["metadata"]["labels"] == {"tier": "front", "s": "1", "j": "2"}
    assert web["metadata"]["annotations"] == {"note": "hello"}
    assert "restartPolicy: Always" in kubectl("get", "pod", "web", "-o", "yaml")
    assert re.search(r"Node: +<none>", kubectl("describe", "pod", "web"))
    kubectl("replace", "-f", "-", stdin=MANIFEST)
    kubectl("run", "other", "--image=localhost/x:1", "--restart=Never", "--labels=app=other")
    selected = ("get", "pods", "-A", "-l", "app=other", "--field-selector", "spec.nodeName=", "-o", "name")
    assert kubectl(*selected) == "pod/other\n"
    assert kubectl("delete", "pod", "web", "other") == 'pod "web" deleted\npod "other" deleted\n'
    assert "not found" in kubectl.fails("get", "pod", "web")


def test_apply(kubectl):
    assert kubectl("apply", "-f", "-", stdin=MANIFEST) == "pod/web created\n"
    assert kubectl("apply", "-f", "-", stdin=MANIFEST) == "pod/web unchanged\n"
    changed = json.loads(json.dumps(MANIFEST))
    changed["metadata"]["labels"] = {"tier": "back"}
    changed["spec"]["containers"][0]["image"] = "localhost/hello:2"
    assert kubectl("apply", "-f", "-", stdin=changed) == "pod/web configured\n"
    web = json.loads(kubectl("get", "pod", "web", "-o", "json"))
    assert web["metadata"]["labels"] == {"tier": "back"}
    assert web["spec"]["containers"][0]["image"] == "localhost/hello:2"
    assert kubectl("diff", "-f", "-", stdin=changed) == ""
    assert "server-side apply is not available yet" in kubectl.fails(
        "apply", "--server-side", "-f", "-", stdin=changed
    )
    changed["spec"]["containers"][0]["env"] = []
    assert "pod updates may not change fields" in kubectl.fails("apply", "-f", "-", stdin=changed)


def test_edit(kubectl):
    kubectl("create", "-f", "-", stdin=MANIFEST)
    done = kubectl.run(
        "edit", "pod", "web", env={"KUBE_EDITOR": "sed -i 's/app: web/app: edited/'", "PATH": "/usr/bin:/bin"}
    )
    assert done.stdout == "pod/web edited\n", done.stderr
    assert kubectl("get", "pod", "web", "-o", "jsonpath={.metadata.labels.app}") == "edited"


@pytest.mark.skipif(MINOR < 27, reason="this kubectl validates fields by itself, with the OpenAPI document")
def test_validation(kubectl):
    bad = json.loads(json.dumps(MANIFEST))
    bad["spec"]["containers"][0]["imagee"] = "x"
    assert 'unknown field "spec.containers[0].imagee"' in kubectl.fails("create", "-f", "-", stdin=bad)
    done = kubectl.run("create", "--validate=warn", "-f", "-", stdin=bad)
    assert (done.returncode, 'unknown field "spec.containers[0].imagee"' in done.stderr) == (0, True)
    assert kubectl(
        "create", "--dry-run=server", "--validate=ignore", "-f", "-", stdin={**bad, "metadata": {"name": "x"}}
    )
    assert "not found" in kubectl.fails("get", "pod", "x")


def test_running_pod(kubectl, live):
    kubectl("create", "-f", "-", stdin=MANIFEST)
    live.run_pod("web")
    assert kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=20s") == "pod/web condition met\n"
    assert kubectl("get", "pods").splitlines()[1].split()[:3] == ["web", "1/1", "Running"]
    assert kubectl("logs", "web") == "one\ntwo\n"
    live.loop.call_soon_threadsafe(live.nodes.more.put_nowait, b"three\n")
    live.loop.call_soon_threadsafe(live.nodes.more.put_nowait, None)
    assert kubectl("logs", "-f", "--tail=2", "web") == "one\ntwo\nthree\n"
    assert live.nodes.calls[-1] == ("web", "c", {"follow": "true", "tailLines": "2"})
    assert "container z is not valid for pod web" in kubectl.fails("logs", "web", "-c", "z")
    kubectl("delete", "pod", "web", "--wait=false")
    assert kubectl("get", "pods").splitlines()[1].split()[:3] == ["web", "1/1", "Terminating"]
    grace = ("get", "pod", "web", "-o", "jsonpath={.metadata.deletionGracePeriodSeconds}")
    assert kubectl(*grace) == "30"
    kubectl("delete", "pod", "web", "--now", "--wait=false")
    assert kubectl(*grace) == "1"
    kubectl("delete", "pod", "web", "--force", "--grace-period=0")
    assert kubectl("get", "pods", "-o", "name") == ""


def test_delete_waits_until_the_engine_removes_the_pod(kubectl, live):
    kubectl("create", "-f", "-", stdin=MANIFEST)
    live.run_pod("web")
    done = []
    thread = threading.Thread(target=lambda: done.append(kubectl("delete", "pod", "web")))
    watch = live.call(_watch_pods(live))
    thread.start()
    live.call(_until_deleting(watch))
    live.remove("web")
    thread.join(90)
    assert done == ['pod "web" deleted\n']


async def _watch_pods(live):
    return live.store.watch("pods")


async def _until_deleting(watch):
    async for event in watch:
        if "deletionTimestamp" in event.entry.obj["metadata"]:
            return


def test_watch(kubectl, live):
    kubectl("create", "-f", "-", stdin=MANIFEST)
    process = subprocess.Popen(
        [*kubectl.base, "get", "pods", "-w", "--no-headers"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().split()[:3] == ["web", "0/1", "Pending"]
        live.run_pod("web")
        assert process.stdout.readline().split()[:3] == ["web", "1/1", "Running"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_namespaces_and_events(kubectl):
    kubectl("create", "namespace", "team")
    kubectl("-n", "team", "create", "-f", "-", stdin=MANIFEST)
    uid = kubectl("-n", "team", "get", "pod", "web", "-o", "jsonpath={.metadata.uid}")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.1"},
        "involvedObject": {"kind": "Pod", "namespace": "team", "name": "web", "uid": uid},
        "type": "Warning",
        "reason": "FailedScheduling",
        "message": "0/0 nodes are available.",
    }
    kubectl("-n", "team", "create", "-f", "-", stdin=event)
    assert "FailedScheduling" in kubectl("-n", "team", "get", "events")
    if MINOR >= 26:
        assert "FailedScheduling" in kubectl("-n", "team", "events")
    assert "0/0 nodes are available." in kubectl("-n", "team", "describe", "pod", "web")
    assert kubectl("delete", "namespace", "team") == 'namespace "team" deleted\n'
    assert kubectl("get", "pods", "-A", "-o", "name") == ""
    assert "this namespace may not be deleted" in kubectl.fails("delete", "ns", "default")
