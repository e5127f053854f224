"""The official Python client against a server on an ephemeral port, with a token."""

import threading

import kubernetes
import pytest
from kubernetes import client, watch


@pytest.fixture
def core(live):
    config = client.Configuration(host=f"http://127.0.0.1:{live.port}")
    config.api_key = {"authorization": "Bearer s3cret"}
    with client.ApiClient(config) as api:
        yield client.CoreV1Api(api)


def pod(name: str = "web", **labels: str) -> client.V1Pod:
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="localhost/hello:1")]),
    )


def test_create_read_list_patch_replace_delete(core):
    made = core.create_namespaced_pod("default", pod(app="x"))
    assert made.metadata.uid
    assert core.read_namespaced_pod("web", "default").status.phase == "Pending"
    core.create_namespaced_pod("default", pod("other"))
    listing = core.list_namespaced_pod("default", label_selector="app=x")
    assert [item.metadata.name for item in listing.items] == ["web"]
    assert len(core.list_pod_for_all_namespaces(limit=1).items) == 1
    patched = core.patch_namespaced_pod("web", "default", {"metadata": {"labels": {"y": "z"}}})
    assert patched.metadata.labels == {"app": "x", "y": "z"}
    patched.metadata.labels = {"new": "1"}
    assert core.replace_namespaced_pod("web", "default", patched).metadata.labels == {"new": "1"}
    with pytest.raises(kubernetes.client.ApiException) as conflict:
        core.replace_namespaced_pod("web", "default", patched)
    assert conflict.value.status == 409
    core.delete_namespaced_pod("web", "default", grace_period_seconds=0)
    core.delete_collection_namespaced_pod("default")
    assert core.list_namespaced_pod("default").items == []
    with pytest.raises(kubernetes.client.ApiException) as missing:
        core.read_namespaced_pod("web", "default")
    assert missing.value.status == 404


def test_configuration_and_classes(core):
    meta = client.V1ObjectMeta(name="x")
    secret = core.create_namespaced_secret("default", client.V1Secret(metadata=meta, string_data={"a": "1"}))
    assert (secret.type, secret.data, secret.string_data) == ("Opaque", {"a": "MQ=="}, None)
    configured = client.V1ConfigMap(metadata=meta, data={"a": "1"}, binary_data={"b": "AA=="})
    assert core.create_namespaced_config_map("default", configured).binary_data == {"b": "AA=="}
    login = [client.V1LocalObjectReference(name="x")]
    account = client.V1ServiceAccount(metadata=meta, image_pull_secrets=login)
    core.create_namespaced_service_account("default", account)
    names = [one.metadata.name for one in core.list_namespaced_service_account("default").items]
    assert names == ["default", "x"]
    classes = client.NodeV1Api(core.api_client)
    overhead = client.V1Overhead(pod_fixed={"cpu": "0.5"})
    body = client.V1RuntimeClass(metadata=meta, handler="fly", overhead=overhead)
    assert classes.create_runtime_class(body).overhead.pod_fixed == {"cpu": "500m"}
    wanted = pod()
    wanted.spec.runtime_class_name, wanted.spec.service_account_name = "x", "x"
    made = core.create_namespaced_pod("default", wanted)
    assert made.spec.overhead == {"cpu": "500m"}
    assert [one.name for one in made.spec.image_pull_secrets] == ["x"]
    wanted.spec.runtime_class_name = "y"
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.create_namespaced_pod("default", wanted)
    assert refused.value.status == 403


def test_watch(core, live):
    core.create_namespaced_pod("default", pod("a"))
    version = core.list_namespaced_pod("default").metadata.resource_version
    thread = threading.Thread(target=lambda: core.create_namespaced_pod("default", pod("b")))
    thread.start()
    stream = watch.Watch()
    for event in stream.stream(
        core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=20
    ):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "b")
        stream.stop()
    thread.join(60)


def test_logs(core, live):
    core.create_namespaced_pod("default", pod())
    live.run_pod("web")
    assert core.read_namespaced_pod_log("web", "default", tail_lines=3) == "one\ntwo\n"
    live.loop.call_soon_threadsafe(live.nodes.more.put_nowait, None)
    stream = watch.Watch().stream(core.read_namespaced_pod_log, "web", "default", follow=True)
    assert list(stream) == ["one", "two"]


def test_namespaces_nodes_events(core):
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="team")))
    assert "team" in [item.metadata.name for item in core.list_namespace().items]
    assert core.list_node().items == []
    involved = client.V1ObjectReference(kind="Pod", name="web", namespace="team")
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="e"), involved_object=involved, reason="R", message="m"
    )
    core.create_namespaced_event("team", event)
    listing = core.list_namespaced_event("team", field_selector="involvedObject.name=web")
    assert [item.reason for item in listing.items] == ["R"]
