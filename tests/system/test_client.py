"""The official Python client, unchanged, against a Gantry cluster."""

import warnings

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]

kubernetes = pytest.importorskip("kubernetes")


@pytest.fixture
def core(cluster):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api = kubernetes.config.new_client_from_config(str(cluster.kubeconfig))
    try:
        yield kubernetes.client.CoreV1Api(api)
    finally:
        api.close()


def test_create_watch_read_the_log_list_delete(core):
    client = kubernetes.client
    spec = client.V1PodSpec(
        restart_policy="Never",
        containers=[
            client.V1Container(name="main", image="localhost/hello:latest", command=["/bin/echo", "hi there"])
        ],
    )
    body = client.V1Pod(metadata=client.V1ObjectMeta(name="official", labels={"by": "client"}), spec=spec)
    created = core.create_namespaced_pod("default", body)
    assert created.metadata.uid
    phases = []
    watch = kubernetes.watch.Watch()
    stream = watch.stream(
        core.list_namespaced_pod,
        "default",
        label_selector="by=client",
        resource_version="0",
        timeout_seconds=60,
    )
    for event in stream:
        phases.append(event["object"].status.phase)
        if phases[-1] in {"Succeeded", "Failed"}:
            watch.stop()
    assert phases[-1] == "Succeeded", phases
    assert core.read_namespaced_pod_log("official", "default") == "hi there\n"
    assert [
        pod.metadata.name for pod in core.list_namespaced_pod("default", label_selector="by=client").items
    ] == ["official"]
    core.delete_namespaced_pod("official", "default")
    assert core.list_namespaced_pod("default", label_selector="by=client").items == []


def test_errors_are_kubernetes_statuses(core):
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.read_namespaced_pod("absent", "default")
    assert caught.value.status == 404
    assert 'pods \\"absent\\" not found' in caught.value.body
