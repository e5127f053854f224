"""Defaults of pods."""

import pytest

from scheduler.registry.pod_defaults import pull_policy, qos_class


def test_a_bare_pod_gets_what_kubernetes_gives_it(create, manifest):
    pod, errors = create(manifest())
    assert errors == []
    assert pod["spec"] == {
        "containers": [
            {
                "name": "app",
                "image": "nginx:1",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{key}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for key in ("not-ready", "unreachable")
        ],
    }
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


def test_what_is_set_stays(create, manifest):
    chosen = {
        "dnsPolicy": "Default",
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "serviceAccountName": "robot",
        "terminationGracePeriodSeconds": 0,
    }
    pod, errors = create(manifest(container={"imagePullPolicy": "Never"}, **chosen))
    assert errors == []
    assert {key: pod["spec"][key] for key in chosen} == chosen
    assert pod["spec"]["serviceAccount"] == "robot"
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "Never"


def test_the_server_owns_parts_of_the_metadata_and_the_status(create, manifest):
    pod, _ = create(
        manifest(
            metadata={
                "deletionTimestamp": "2024-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": 3,
                "selfLink": "x",
            }
        )
        | {"status": {"phase": "Running", "podIP": "1.2.3.4"}}
    )
    assert pod["metadata"] == {"name": "web", "namespace": "default"}
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:aa", "IfNotPresent"),
        ("nginx:latest@sha256:aa", "Always"),
        ("localhost/hello:v1", "IfNotPresent"),
        ("oci:///images/hello:v1", "IfNotPresent"),
        ("docker-archive:/images/hello.tar", "Always"),
    ],
)
def test_the_pull_policy_follows_the_tag(image, policy):
    assert pull_policy(image) == policy


def test_requests_come_from_limits_and_quantities_are_canonical(create, manifest):
    resources = {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": 0.25}}
    pod, errors = create(manifest(container={"resources": resources}))
    assert errors == []
    assert pod["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "500m", "memory": "1Gi"},
        "requests": {"cpu": "250m", "memory": "1Gi"},
    }


def test_ports_have_a_protocol_and_with_the_hosts_network_a_host_port(create, manifest):
    ports = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    pod, _ = create(manifest(container={"ports": ports}))
    assert [one["protocol"] for one in pod["spec"]["containers"][0]["ports"]] == ["TCP", "UDP"]
    assert "hostPort" not in pod["spec"]["containers"][0]["ports"][0]
    pod, errors = create(manifest(container={"ports": ports}, hostNetwork=True))
    assert errors == []
    assert [one["hostPort"] for one in pod["spec"]["containers"][0]["ports"]] == [80, 53]


def test_volumes_are_empty_directories_unless_they_say(create, manifest):
    volumes = [
        {"name": "a"},
        {"name": "b", "hostPath": {"path": "/b"}},
        {"name": "c", "emptyDir": {"sizeLimit": "1024Ki", "medium": "Memory"}},
    ]
    pod, errors = create(manifest(volumes=volumes))
    assert errors == []
    assert pod["spec"]["volumes"] == [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "hostPath": {"path": "/b", "type": ""}},
        {"name": "c", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}},
    ]


def test_references_get_their_version_and_divisor(create, manifest):
    env = [
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
    ]
    pod, errors = create(manifest(container={"env": env}))
    assert errors == []
    first, second = (one["valueFrom"] for one in pod["spec"]["containers"][0]["env"])
    assert first["fieldRef"]["apiVersion"] == "v1"
    assert second["resourceFieldRef"]["divisor"] == "0"


def test_init_containers_get_defaults_too(create, manifest):
    pod, errors = create(manifest(initContainers=[{"name": "init", "image": "busybox"}]))
    assert errors == []
    assert pod["spec"]["initContainers"][0]["imagePullPolicy"] == "Always"


@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    ],
)
def test_tolerations_of_ones_own_go_before_the_defaults(create, manifest, toleration):
    pod, errors = create(manifest(tolerations=[toleration]))
    assert errors == []
    keys = [one.get("key") for one in pod["spec"]["tolerations"]]
    assert keys.count("node.kubernetes.io/not-ready") == (1 if "key" in toleration else 0)


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
        ([{"requests": {"ephemeral-storage": "1"}}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "500m", "memory": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}}, {}], "Burstable"),
    ],
)
def test_qos_classes(resources, qos):
    assert qos_class({"containers": [{"resources": one} for one in resources]}) == qos
