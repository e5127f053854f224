"""What a 422 says of a new pod: field, reason, wording."""

import pytest

INVALID, REQUIRED, DUPLICATE = "FieldValueInvalid", "FieldValueRequired", "FieldValueDuplicate"
FORBIDDEN, NOT_SUPPORTED, NOT_FOUND = "FieldValueForbidden", "FieldValueNotSupported", "FieldValueNotFound"
APP = {"name": "app", "image": "nginx:1"}
MOUNT = {"name": "data", "mountPath": "/data"}
GPU = "nvidia.com/gpu"


def same(errors, *expected):
    assert [(one.field, one.reason) for one in errors] == list(expected)


@pytest.mark.parametrize(
    ("metadata", "field", "reason"),
    [
        ({"name": ""}, "metadata.name", REQUIRED),
        ({"name": "Web"}, "metadata.name", INVALID),
        ({"name": "a_b"}, "metadata.name", INVALID),
        ({"name": "-a"}, "metadata.name", INVALID),
        ({"name": "a" * 254}, "metadata.name", INVALID),
        ({"namespace": ""}, "metadata.namespace", REQUIRED),
        ({"namespace": "a.b"}, "metadata.namespace", INVALID),
        ({"generateName": "Web-"}, "metadata.generateName", INVALID),
        ({"labels": {"a b": "c"}}, "metadata.labels", INVALID),
        ({"labels": {"/a": "c"}}, "metadata.labels", INVALID),
        ({"labels": {"UP/a": "c"}}, "metadata.labels", INVALID),
        ({"labels": {"a": "c!"}}, "metadata.labels", INVALID),
        ({"labels": {"a": "c" * 64}}, "metadata.labels", INVALID),
        ({"annotations": {"a b": "c"}}, "metadata.annotations", INVALID),
        ({"annotations": {"a": "x" * 300_000}}, "metadata.annotations", "FieldValueTooLong"),
        ({"finalizers": ["a b"]}, "metadata.finalizers", INVALID),
        (
            {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]},
            "metadata.ownerReferences[0].uid",
            INVALID,
        ),
    ],
)
def test_metadata(create, manifest, metadata, field, reason):
    _, errors = create(manifest(metadata=metadata))
    same(errors, (field, reason))


def test_good_metadata(create, manifest):
    metadata = {
        "name": "web.example.com",
        "generateName": "web-",
        "labels": {"app.kubernetes.io/name": "Web_1", "empty": ""},
        "annotations": {"Example.com/Any": "ü\n"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1", "controller": True}],
    }
    assert create(manifest(metadata=metadata))[1] == []


def test_only_one_owner_controls(create, manifest):
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1", "controller": True}
    _, errors = create(manifest(metadata={"ownerReferences": [owner, owner]}))
    same(errors, ("metadata.ownerReferences", INVALID))


def test_no_spec_and_no_image(create, manifest):
    _, errors = create({"metadata": {"name": "x", "namespace": "default"}})
    assert [str(one) for one in errors] == ["spec.containers: Required value"]
    _, errors = create(manifest(containers=[{"name": "app"}]))
    assert [str(one) for one in errors] == ["spec.containers[0].image: Required value"]


@pytest.mark.parametrize(
    ("container", "field", "reason"),
    [
        ({"name": ""}, "name", REQUIRED),
        ({"name": "App"}, "name", INVALID),
        ({"name": "a" * 64}, "name", INVALID),
        ({"image": " nginx"}, "image", INVALID),
        ({"imagePullPolicy": "Sometimes"}, "imagePullPolicy", NOT_SUPPORTED),
        ({"terminationMessagePolicy": "Maybe"}, "terminationMessagePolicy", NOT_SUPPORTED),
        ({"ports": [{}]}, "ports[0].containerPort", REQUIRED),
        ({"ports": [{"containerPort": 65536}]}, "ports[0].containerPort", INVALID),
        ({"ports": [{"containerPort": -1}]}, "ports[0].containerPort", INVALID),
        ({"ports": [{"containerPort": 1, "protocol": "ICMP"}]}, "ports[0].protocol", NOT_SUPPORTED),
        ({"ports": [{"containerPort": 1, "name": "Http"}]}, "ports[0].name", INVALID),
        ({"ports": [{"containerPort": 1, "name": "80"}]}, "ports[0].name", INVALID),
        ({"ports": [{"containerPort": 1, "name": "a--b"}]}, "ports[0].name", INVALID),
        ({"ports": [{"containerPort": 1, "name": "-a"}]}, "ports[0].name", INVALID),
        ({"ports": [{"containerPort": 1, "name": "a" * 16}]}, "ports[0].name", INVALID),
        ({"ports": [{"containerPort": 1, "hostIP": "1.2.3"}]}, "ports[0].hostIP", INVALID),
        (
            {"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]},
            "ports[1].name",
            DUPLICATE,
        ),
        ({"env": [{"value": "x"}]}, "env[0].name", REQUIRED),
        ({"env": [{"name": "A=B"}]}, "env[0].name", INVALID),
        ({"env": [{"name": "A", "valueFrom": {}}]}, "env[0].valueFrom", INVALID),
        (
            {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
            "env[0].valueFrom",
            INVALID,
        ),
        (
            {
                "env": [
                    {
                        "name": "A",
                        "valueFrom": {
                            "fieldRef": {"fieldPath": "metadata.name"},
                            "resourceFieldRef": {"resource": "limits.cpu"},
                        },
                    }
                ]
            },
            "env[0].valueFrom",
            INVALID,
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}]},
            "env[0].valueFrom.fieldRef.fieldPath",
            REQUIRED,
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.containers"}}}]},
            "env[0].valueFrom.fieldRef.fieldPath",
            NOT_SUPPORTED,
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a b']"}}}]},
            "env[0].valueFrom.fieldRef.fieldPath",
            INVALID,
        ),
        (
            {
                "env": [
                    {
                        "name": "A",
                        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v2"}},
                    }
                ]
            },
            "env[0].valueFrom.fieldRef.apiVersion",
            NOT_SUPPORTED,
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}]},
            "env[0].valueFrom.resourceFieldRef.resource",
            REQUIRED,
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}]},
            "env[0].valueFrom.resourceFieldRef.resource",
            NOT_SUPPORTED,
        ),
        (
            {
                "env": [
                    {
                        "name": "A",
                        "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}},
                    }
                ]
            },
            "env[0].valueFrom.resourceFieldRef.divisor",
            INVALID,
        ),
        ({"volumeMounts": [MOUNT]}, "volumeMounts[0].name", NOT_FOUND),
        ({"resources": {"limits": {"cpu": "-1"}}}, "resources.limits[cpu]", INVALID),
        ({"resources": {"limits": {"memory": "100m"}}}, "resources.limits[memory]", INVALID),
        ({"resources": {"requests": {"gpus": "1"}}}, "resources.requests[gpus]", INVALID),
        ({"resources": {"requests": {"a b/c": "1"}}}, "resources.requests[a b/c]", INVALID),
        ({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}, "resources.requests", INVALID),
        ({"resources": {"limits": {GPU: "500m"}}}, f"resources.limits[{GPU}]", INVALID),
        ({"resources": {"requests": {GPU: "1"}}}, f"resources.limits[{GPU}]", REQUIRED),
        ({"resources": {"limits": {GPU: "2"}, "requests": {GPU: "1"}}}, "resources.requests", INVALID),
        ({"securityContext": {"runAsUser": -1}}, "securityContext.runAsUser", INVALID),
        ({"securityContext": {"runAsGroup": 2**31}}, "securityContext.runAsGroup", INVALID),
        (
            {"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}},
            "securityContext",
            INVALID,
        ),
        (
            {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}, "allowPrivilegeEscalation": False}},
            "securityContext",
            INVALID,
        ),
        (
            {"securityContext": {"seccompProfile": {"type": "Default"}}},
            "securityContext.seccompProfile.type",
            NOT_SUPPORTED,
        ),
        (
            {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "/a"}}},
            "securityContext.seccompProfile.localhostProfile",
            INVALID,
        ),
        (
            {"securityContext": {"capabilities": {"drop": ["FLY"]}}},
            "securityContext.capabilities.drop[0]",
            INVALID,
        ),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_containers(create, manifest, container, field, reason, kind):
    wrong = {"name": "odd", "image": "nginx:1", **container}
    pod = manifest(containers=[wrong]) if kind == "containers" else manifest(initContainers=[wrong])
    _, errors = create(pod)
    expected = [(f"spec.{kind}[0].{field}", reason)]
    if reason == INVALID and field.startswith("resources.limits"):
        # the request that defaults to the limit is as wrong as the limit
        expected.append((f"spec.{kind}[0].{field.replace('limits', 'requests')}", reason))
    assert [
        (one.field, one.reason) for one in errors if "not supported by Gantry" not in one.message
    ] == expected


def test_a_good_container(create, manifest):
    container = {
        "command": ["sh", "-c", "true"],
        "args": ["x"],
        "workingDir": "/tmp",
        "env": [
            {"name": "A", "value": "$(B)"},
            {
                "name": "a.b-c",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['example.com/x']"}},
            },
            {
                "name": "M",
                "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}},
            },
        ],
        "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}],
        "resources": {
            "limits": {"cpu": "2", "memory": "64Mi"},
            "requests": {"cpu": "1", "ephemeral-storage": "1Gi"},
        },
        "volumeMounts": [{**MOUNT, "readOnly": True, "subPath": "a/b"}],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 7,
            "runAsNonRoot": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN", "CAP_CHOWN", "kill"], "drop": ["all"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = manifest(
        container=container,
        volumes=[{"name": "data", "emptyDir": {}}],
        initContainers=[{"name": "init", "image": "busybox"}],
        activeDeadlineSeconds=10,
        runtimeClassName="fly",
        hostname="web",
        nodeName="agent1",
        nodeSelector={"rack": "r1"},
        securityContext={"runAsUser": 1, "supplementalGroups": [5, 6]},
        automountServiceAccountToken=False,
    )
    assert create(pod)[1] == []


def test_names_are_unique_over_all_containers(create, manifest):
    _, errors = create(manifest(containers=[APP, APP], initContainers=[APP]))
    same(errors, ("spec.containers[1].name", DUPLICATE), ("spec.initContainers[0].name", DUPLICATE))


def test_host_ports_are_unique_and_match_on_the_hosts_network(create, manifest):
    port = {"containerPort": 80, "hostPort": 80}
    second = {"name": "b", "image": "b", "ports": [port, {"containerPort": 80, "protocol": "UDP"}]}
    _, errors = create(manifest(containers=[{**APP, "ports": [port]}, second], hostNetwork=True))
    assert [str(one) for one in errors] == [
        'spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//80"'
    ]
    _, errors = create(
        manifest(container={"ports": [{"containerPort": 80, "hostPort": 81}]}, hostNetwork=True)
    )
    same(errors, ("spec.containers[0].ports[0].containerPort", INVALID))
    _, errors = create(
        manifest(container={"ports": [{"containerPort": 80, "hostPort": 70000}]}, hostNetwork=True)
    )
    assert ("spec.containers[0].ports[0].hostPort", INVALID) in [(one.field, one.reason) for one in errors]


def test_mounts(create, manifest):
    mounts = [
        MOUNT,
        {"name": "data", "mountPath": "/data"},
        {"name": "data", "mountPath": "/b", "subPath": "../c"},
        {"name": "data", "mountPath": "/c", "subPath": "/c"},
        {"name": "data", "mountPath": "/a:b"},
        {"name": "data"},
        {"mountPath": "/d"},
        {"name": "data", "mountPath": "/e/.."},
    ]
    _, errors = create(manifest(container={"volumeMounts": mounts}, volumes=[{"name": "data"}]))
    at = "spec.containers[0].volumeMounts"
    assert [str(one) for one in errors] == [
        f'{at}[1].mountPath: Invalid value: "/data": must be unique',
        f"{at}[2].subPath: Invalid value: \"../c\": must not contain '..'",
        f'{at}[3].subPath: Invalid value: "/c": must be a relative path',
        f"{at}[4].mountPath: Invalid value: \"/a:b\": must not contain ':'",
        f"{at}[5].mountPath: Required value",
        f"{at}[6].name: Required value",
        f'{at}[7].mountPath: Invalid value: "/e/..": must not be the container\'s root',
    ]


def test_volumes(create, manifest):
    volumes = [
        {"name": "data", "emptyDir": {}},
        {"name": "data", "emptyDir": {}},
        {"name": "A", "emptyDir": {}},
        {"emptyDir": {"sizeLimit": "-1"}},
        {"name": "b", "emptyDir": {}, "hostPath": {"path": "/b"}},
        {"name": "c", "hostPath": {}},
        {"name": "d", "hostPath": {"path": "/a/../b", "type": "Tape"}},
    ]
    _, errors = create(manifest(volumes=volumes))
    same(
        errors,
        ("spec.volumes[1].name", DUPLICATE),
        ("spec.volumes[2].name", INVALID),
        ("spec.volumes[3].name", REQUIRED),
        ("spec.volumes[3].emptyDir.sizeLimit", FORBIDDEN),
        ("spec.volumes[4].hostPath", FORBIDDEN),
        ("spec.volumes[5].hostPath.path", REQUIRED),
        ("spec.volumes[6].hostPath.path", INVALID),
        ("spec.volumes[6].hostPath.type", NOT_SUPPORTED),
    )


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"restartPolicy": "Sometimes"}, "spec.restartPolicy", NOT_SUPPORTED),
        ({"dnsPolicy": "Mine"}, "spec.dnsPolicy", NOT_SUPPORTED),
        ({"preemptionPolicy": "Mine"}, "spec.preemptionPolicy", NOT_SUPPORTED),
        ({"terminationGracePeriodSeconds": -1}, "spec.terminationGracePeriodSeconds", INVALID),
        ({"activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds", INVALID),
        ({"nodeSelector": {"a b": "c"}}, "spec.nodeSelector", INVALID),
        ({"nodeName": "A_b"}, "spec.nodeName", INVALID),
        ({"hostname": "a.b"}, "spec.hostname", INVALID),
        ({"serviceAccountName": "A"}, "spec.serviceAccountName", INVALID),
        ({"runtimeClassName": "Kata"}, "spec.runtimeClassName", INVALID),
        ({"securityContext": {"runAsUser": -1}}, "spec.securityContext.runAsUser", INVALID),
        (
            {"securityContext": {"seccompProfile": {"type": "Localhost"}}},
            "spec.securityContext.seccompProfile.localhostProfile",
            REQUIRED,
        ),
        (
            {"securityContext": {"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}}},
            "spec.securityContext.seccompProfile.localhostProfile",
            INVALID,
        ),
        ({"hostUsers": False, "hostNetwork": True}, "spec.hostNetwork", FORBIDDEN),
        (
            {"hostUsers": False, "securityContext": {"fsGroup": 65536}},
            "spec.securityContext.fsGroup",
            INVALID,
        ),
        (
            {"hostUsers": False, "container": {"securityContext": {"runAsUser": 65536}}},
            "spec.containers[0].securityContext.runAsUser",
            INVALID,
        ),
        (
            {"hostUsers": False, "securityContext": {"supplementalGroups": [5, 70000]}},
            "spec.securityContext.supplementalGroups[1]",
            INVALID,
        ),
        ({"container": {"workingDir": "a/b"}}, "spec.containers[0].workingDir", INVALID),
        (
            {"container": {"terminationMessagePath": "a"}},
            "spec.containers[0].terminationMessagePath",
            INVALID,
        ),
        ({"volumes": [{"name": "v", "hostPath": {"path": "a"}}]}, "spec.volumes[0].hostPath.path", INVALID),
        (
            {"hostUsers": False, "container": {"securityContext": {"privileged": True}}},
            "spec.containers[0].securityContext.privileged",
            FORBIDDEN,
        ),
        (
            {"securityContext": {"supplementalGroups": [-1]}},
            "spec.securityContext.supplementalGroups[0]",
            INVALID,
        ),
        ({"tolerations": [{"key": "a b"}]}, "spec.tolerations[0].key", INVALID),
        ({"tolerations": [{"value": "x"}]}, "spec.tolerations[0].operator", INVALID),
        ({"tolerations": [{"key": "a", "operator": "In"}]}, "spec.tolerations[0].operator", NOT_SUPPORTED),
        ({"tolerations": [{"key": "a", "value": "b c"}]}, "spec.tolerations[0].operator", INVALID),
        (
            {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
            "spec.tolerations[0].operator",
            INVALID,
        ),
        ({"tolerations": [{"key": "a", "tolerationSeconds": 1}]}, "spec.tolerations[0].effect", INVALID),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "spec.tolerations[0].effect", NOT_SUPPORTED),
    ],
)
def test_specs(create, manifest, spec, field, reason):
    _, errors = create(manifest(**spec))
    same(errors, (field, reason))


def test_only_init_containers_may_say_when_to_restart(create, manifest):
    _, errors = create(manifest(container={"restartPolicy": "Always"}))
    same(errors, ("spec.containers[0].restartPolicy", FORBIDDEN))
    assert "non-init" in errors[0].message
    _, errors = create(manifest(initContainers=[{**APP, "name": "i", "restartPolicy": "Never"}]))
    same(errors, ("spec.initContainers[0].restartPolicy", NOT_SUPPORTED))


def test_the_wording_is_kubernetes(create, manifest):
    _, errors = create(
        manifest(
            container={"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}},
            restartPolicy="Sometimes",
            dnsPolicy="None",
        )
    )
    assert [str(one) for one in errors] == [
        'spec.containers[0].resources.requests: Invalid value: "1500m": must be less than or equal to cpu limit of 1',
        'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"',
        'spec.dnsPolicy: Unsupported value: "None": supported values: "ClusterFirst", "Default"',
    ]
