"""ConfigMaps, Secrets and the pod itself as its containers see them; logins for images."""

import json
import re
import shutil
import subprocess

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]

SCRIPT = """
echo $LEVEL $S_user; cat /config/level; echo; cat /login/password; echo; ls -lL /login/password | cut -c1-10
cat /about/name; echo; (echo x > /config/level) 2>/dev/null || echo read-only
"""


HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # "secret", by bcrypt


@pytest.fixture
def registry(cluster, tmp_path, tools):
    """host:port of a real registry that wants a login, with the image hello:1."""
    for tool in ("docker-registry", "skopeo"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    settings = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "store")}},
        "http": {"addr": "127.0.0.1:0", "secret": "test"},
        "auth": {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}},
    }
    (tmp_path / "config.yml").write_text(json.dumps(settings))
    log = tmp_path / "registry.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(tmp_path / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        listening = re.compile(r"listening on (127\.0\.0\.1:\d+)").search
        found = tools.wait_for("registry", lambda: listening(log.read_text()))
        source = f"oci:{cluster.directory / 'images' / 'hello'}:latest"
        flags = ("--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", "user:secret")
        target = f"docker://{found[1]}/hello:1"
        subprocess.run(["skopeo", *flags, source, target], check=True, capture_output=True)
        yield found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def made(cluster):
    """Things made by kubectl, deleted after the test."""
    names = []

    def create(*arguments):
        cluster.kubectl("create", *arguments)
        words = [word for word in arguments if word not in ("generic", "docker-registry")]
        names.append(words[:2])

    yield create
    for kind, name in names:
        cluster.kubectl("delete", kind, name, "--ignore-not-found", "--grace-period=1", "--timeout=30s")


def job(name, script, container=None, **spec):
    command = ["/bin/sh", "-c", script]
    main = {"name": "main", "image": "localhost/hello:latest", "command": command, **(container or {})}
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


@pytest.mark.parametrize("flavor", ["linux", "fly"])
def test_a_pod_reads_its_configuration(cluster, made, flavor):
    made("configmap", "config", "--from-literal=level=debug")
    made("secret", "generic", "login", "--from-literal=user=me", "--from-literal=password=hunter2")
    facts = [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]
    volumes = [
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "login", "projected": {"defaultMode": 0o400, "sources": [{"secret": {"name": "login"}}]}},
        {"name": "about", "downwardAPI": {"items": facts}},
    ]
    container = {
        "env": [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "level"}}}],
        "envFrom": [{"prefix": "S_", "secretRef": {"name": "login"}}],
        "volumeMounts": [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in volumes],
    }
    name = f"reader-{flavor}"
    cluster.create(job(name, SCRIPT, container, volumes=volumes, runtimeClassName=flavor))
    try:
        cluster.wait_phase(name, "Succeeded")
        assert cluster.kubectl("logs", name).splitlines() == [
            *("debug me", "debug", "hunter2", "-r--------", name, "read-only"),
        ]
        assert "hunter2" not in cluster.kubectl("describe", "pod", name)
        assert "hunter2" not in cluster.logs()
    finally:
        cluster.delete(name)


def test_an_image_is_pulled_with_the_pods_login(cluster, made, tools, registry):
    image = {"image": f"{registry}/hello:1"}
    cluster.create(job("stranger", "true", image))
    logins = (f"--docker-server={registry}", "--docker-username=user", "--docker-password=secret")
    made("secret", "docker-registry", "login", *logins)
    made("serviceaccount", "puller")
    secrets = json.dumps({"imagePullSecrets": [{"name": "login"}]})
    cluster.kubectl("patch", "serviceaccount", "puller", "-p", secrets)
    cluster.create(job("friend", "echo in", image, imagePullSecrets=[{"name": "login"}]))
    cluster.create(job("relative", "echo in", image, serviceAccountName="puller"))
    try:
        for name in ("friend", "relative"):
            cluster.wait_phase(name, "Succeeded")
            assert cluster.kubectl("logs", name) == "in\n"
        held = ("ErrImagePull", "ImagePullBackOff")
        shown = lambda: cluster.kubectl("get", "pod", "stranger")  # noqa: E731
        tools.wait_for("refusal", lambda: any(word in shown() for word in held))
    finally:
        for name in ("stranger", "friend", "relative"):
            cluster.delete(name)


def test_a_pull_secret_that_is_not_there_is_told(cluster, made, tools):
    cluster.create(job("unsure", "true", imagePullSecrets=[{"name": "nowhere"}]))
    try:
        cluster.wait_phase("unsure", "Succeeded")
        wanted = "Unable to retrieve some image pull secrets (nowhere); attempting to pull the image may not succeed."
        assert wanted in cluster.kubectl("describe", "pod", "unsure")
    finally:
        cluster.delete("unsure")


def test_a_pod_waits_for_what_it_needs(cluster, made, tools):
    volumes = [{"name": "v", "configMap": {"name": "late"}}]
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/late"}]}
    cluster.create(job("needs-files", "cat /late/key", mounts, volumes=volumes))
    env = {"env": [{"name": "V", "valueFrom": {"secretKeyRef": {"name": "late", "key": "key"}}}]}
    cluster.create(job("needs-variable", "echo $V", env))
    try:
        told = 'MountVolume.SetUp failed for volume "v" : configmap "late" not found'
        tools.wait_for("FailedMount", lambda: told in cluster.kubectl("describe", "pod", "needs-files"))
        waiting = "CreateContainerConfigError"
        tools.wait_for(waiting, lambda: waiting in cluster.kubectl("get", "pod", "needs-variable"))
        made("configmap", "late", "--from-literal=key=here")
        made("secret", "generic", "late", "--from-literal=key=there")
        cluster.wait_phase("needs-files", "Succeeded")
        cluster.wait_phase("needs-variable", "Succeeded")
        assert cluster.kubectl("logs", "needs-files") == "here"
        assert cluster.kubectl("logs", "needs-variable") == "there\n"
    finally:
        cluster.delete("needs-files")
        cluster.delete("needs-variable")
