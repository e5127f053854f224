"""ConfigMaps, Secrets and the pod itself as its containers see them; logins for images."""

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(180),
]

SCRIPT = """
echo $LEVEL $S_user; cat /config/level; echo; cat /login/password; echo; ls -lL /login/password | cut -c1-10
cat /about/name; echo; (echo x > /config/level) 2>/dev/null || echo read-only
"""


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
