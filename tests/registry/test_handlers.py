"""Probes and lifecycle hooks: what kube-apiserver says of them."""

import pytest

EXEC = {"exec": {"command": ["true"]}}
AT = "spec.containers[0]"


@pytest.mark.parametrize(
    "container",
    [
        {"livenessProbe": EXEC, "startupProbe": {**EXEC, "terminationGracePeriodSeconds": 1}},
        {"readinessProbe": {**EXEC, "successThreshold": 3}},
        {"livenessProbe": {"httpGet": {"port": "web", "httpHeaders": [{"name": "X-A", "value": "b"}]}}},
        {"livenessProbe": {"tcpSocket": {"port": 80}}, "readinessProbe": {"grpc": {"port": 1}}},
        {"lifecycle": {"postStart": EXEC, "preStop": {"sleep": {"seconds": 30}}}},
        {"lifecycle": {"postStart": {"httpGet": {"port": 80, "path": "/x", "scheme": "HTTPS"}}}},
    ],
)
def test_what_is_right_is_taken(create, manifest, container):
    assert create(manifest(container=container))[1] == []


@pytest.mark.parametrize(
    ("container", "field", "reason"),
    [
        ({"livenessProbe": {"periodSeconds": 1}}, "livenessProbe", "FieldValueRequired"),
        ({"livenessProbe": {"exec": {}}}, "livenessProbe.exec.command", "FieldValueRequired"),
        (
            {"livenessProbe": {**EXEC, "tcpSocket": {"port": 1}}},
            "livenessProbe.tcpSocket",
            "FieldValueForbidden",
        ),
        (
            {"livenessProbe": {**EXEC, "successThreshold": 2}},
            "livenessProbe.successThreshold",
            "FieldValueInvalid",
        ),
        (
            {"startupProbe": {**EXEC, "periodSeconds": -1}},
            "startupProbe.periodSeconds",
            "FieldValueInvalid",
        ),
        (
            {"livenessProbe": {**EXEC, "terminationGracePeriodSeconds": 0}},
            "livenessProbe.terminationGracePeriodSeconds",
            "FieldValueInvalid",
        ),
        (
            {"readinessProbe": {**EXEC, "terminationGracePeriodSeconds": 5}},
            "readinessProbe.terminationGracePeriodSeconds",
            "FieldValueInvalid",
        ),
        ({"livenessProbe": {"tcpSocket": {"port": 0}}}, "livenessProbe.tcpSocket.port", "FieldValueInvalid"),
        (
            {"livenessProbe": {"httpGet": {"port": "not a port"}}},
            "livenessProbe.httpGet.port",
            "FieldValueInvalid",
        ),
        (
            {"livenessProbe": {"httpGet": {"port": 1, "scheme": "FTP"}}},
            "livenessProbe.httpGet.scheme",
            "FieldValueNotSupported",
        ),
        (
            {"livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}},
            "livenessProbe.httpGet.httpHeaders",
            "FieldValueInvalid",
        ),
        (
            {"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}},
            "lifecycle.preStop.sleep.seconds",
            "FieldValueInvalid",
        ),
        (
            {"lifecycle": {"preStop": {"tcpSocket": {"port": 1}}}},
            "lifecycle.preStop.tcpSocket",
            "FieldValueForbidden",
        ),
        ({"lifecycle": {"postStart": {}}}, "lifecycle.postStart", "FieldValueRequired"),
    ],
)
def test_what_is_wrong_is_named(create, manifest, container, field, reason):
    _, errors = create(manifest(container=container))
    assert [(one.field, one.reason) for one in errors] == [(f"{AT}.{field}", reason)]


@pytest.mark.parametrize("key", ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"])
def test_of_init_containers_only_sidecars_have_them(create, manifest, key):
    asked = {"name": "i", "image": "x", key: {"preStop": EXEC} if key == "lifecycle" else EXEC}
    _, errors = create(manifest(initContainers=[asked]))
    assert [(one.field, one.reason) for one in errors] == [
        (f"spec.initContainers[0].{key}", "FieldValueForbidden")
    ]
    assert create(manifest(initContainers=[{**asked, "restartPolicy": "Always"}]))[1] == []
