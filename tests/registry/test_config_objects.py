"""Secrets, ConfigMaps, ServiceAccounts: what may be written, what changes, what is printed."""

import base64
import json
from typing import Any

import pytest

from scheduler.registry import CONFIGMAPS, SECRETS, SERVICEACCOUNTS
from scheduler.registry.decode import decode
from scheduler.registry.errors import BadRequest

Json = dict[str, Any]
INVALID, REQUIRED, FORBIDDEN = "FieldValueInvalid", "FieldValueRequired", "FieldValueForbidden"
TOO_LONG = "FieldValueTooLong"
DOCKER = json.dumps({"auths": {"r.example": {"auth": "bWU6c2VjcmV0"}}})
ALMOST = 1024 * 1024


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def secret(**more: Any) -> Json:
    meta = {"name": "s", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, **more}


def config_map(**more: Any) -> Json:
    return {**secret(), "kind": "ConfigMap", **more}


def typed(kind: str, **text: str) -> Json:
    return secret(type=f"kubernetes.io/{kind}", data={key: b64(value) for key, value in text.items()})


def test_text_of_a_secret_becomes_data(create):
    made, errors = create(
        secret(data={"a": b64("1"), "b": b64("2")}, stringData={"b": "3", "c": "é"}), SECRETS
    )
    assert errors == []
    assert made["type"] == "Opaque"
    assert "stringData" not in made
    assert made["data"] == {"a": b64("1"), "b": b64("3"), "c": b64("é")}


@pytest.mark.parametrize(
    "obj",
    [
        typed("dockerconfigjson", **{".dockerconfigjson": DOCKER}),
        typed("dockercfg", **{".dockercfg": "{}"}),
        typed("basic-auth", username="me"),
        typed("basic-auth", password="x"),
        typed("ssh-auth", **{"ssh-privatekey": "x"}),
        typed("tls", **{"tls.crt": "", "tls.key": ""}),
        {
            **typed("service-account-token"),
            "metadata": {
                "name": "s",
                "namespace": "default",
                "annotations": {"kubernetes.io/service-account.name": "default"},
            },
        },
        secret(type="example.com/own", data={"..x".strip("."): b64("x")}),
    ],
    ids=lambda obj: obj["type"],
)
def test_every_type_of_secret(create, obj):
    assert create(obj, SECRETS)[1] == []


@pytest.mark.parametrize(
    ("obj", "field", "reason"),
    [
        (typed("dockerconfigjson"), "data[.dockerconfigjson]", REQUIRED),
        (typed("dockerconfigjson", **{".dockerconfigjson": "{no"}), "data[.dockerconfigjson]", INVALID),
        (typed("dockercfg", **{".dockercfg": "[]"}), "data[.dockercfg]", INVALID),
        (typed("ssh-auth", **{"ssh-privatekey": ""}), "data[ssh-privatekey]", REQUIRED),
        (typed("tls", **{"tls.crt": "x"}), "data[tls.key]", REQUIRED),
        (
            typed("service-account-token"),
            "metadata.annotations[kubernetes.io/service-account.name]",
            REQUIRED,
        ),
        (secret(data={"a b": ""}), "data[a b]", INVALID),
        (secret(data={"..": ""}), "data[..]", INVALID),
        (secret(data={"..a": ""}), "data[..a]", INVALID),
        (secret(data={"x" * 254: ""}), f"data[{'x' * 254}]", INVALID),
        (secret(data={"a": b64(b"x" * ALMOST), "b": b64("x")}), "data", TOO_LONG),
        (secret(metadata={"name": "S", "namespace": "default"}), "metadata.name", INVALID),
    ],
)
def test_secrets_that_are_refused(create, obj, field, reason):
    _, errors = create(obj, SECRETS)
    assert [(one.field, one.reason) for one in errors] == [(field, reason)]


def test_a_secret_of_the_largest_size(create):
    assert create(secret(data={"a": b64(b"x" * ALMOST)}), SECRETS)[1] == []


def test_neither_of_two_keys(create):
    _, errors = create(typed("basic-auth"), SECRETS)
    assert [one.field for one in errors] == ["data[username]", "data[password]"]


def test_no_refusal_quotes_what_is_secret(create):
    _, errors = create(typed("dockerconfigjson", **{".dockerconfigjson": "hunter2"}), SECRETS)
    assert "hunter2" not in str(errors[0])
    assert "<secret contents redacted>" in str(errors[0])


def test_data_that_is_no_base64():
    with pytest.raises(BadRequest, match="illegal base64 data"):
        decode(SECRETS, secret(data={"a": "%%%"}))
    decode(SECRETS, secret(data={"a": "aGVs\nbG8=\n"}))


def test_the_type_stays(create, update):
    old, _ = create(typed("tls", **{"tls.crt": "x", "tls.key": "y"}), SECRETS)
    new, errors = update(secret(data=old["data"], stringData={"more": "z"}), old, SECRETS)
    assert errors == []
    assert new["type"] == "kubernetes.io/tls"
    assert new["data"]["more"] == b64("z")
    _, errors = update(secret(type="Opaque", data=old["data"]), old, SECRETS)
    assert [str(one) for one in errors] == ['type: Invalid value: "Opaque": field is immutable']


@pytest.mark.parametrize(
    ("resource", "obj", "changes"),
    [
        (SECRETS, secret(immutable=True, data={"a": b64("1")}), [{"data": {"a": b64("2")}}, {"data": {}}]),
        (
            CONFIGMAPS,
            config_map(immutable=True, data={"a": "1"}, binaryData={"b": "AA=="}),
            [{"data": {"a": "2"}}, {"binaryData": {}}],
        ),
    ],
)
def test_what_is_immutable_stays(create, update, resource, obj, changes):
    old, errors = create(obj, resource)
    assert errors == []
    same, errors = update({**obj, "metadata": {**obj["metadata"], "labels": {"a": "b"}}}, old, resource)
    assert errors == []
    assert same["metadata"]["labels"] == {"a": "b"}
    for change in [*changes, {"immutable": False}]:
        _, errors = update({**obj, **change}, old, resource)
        assert [(one.field, one.reason) for one in errors] == [(next(iter(change)), FORBIDDEN)]
        assert "field is immutable when `immutable` is set" in errors[0].message


def test_config_maps(create):
    made, errors = create(config_map(data={"a": "1"}, binaryData={"b": "AA=="}), CONFIGMAPS)
    assert errors == []
    assert made["binaryData"] == {"b": "AA=="}
    _, errors = create(config_map(data={"a": "1", "x/y": ""}, binaryData={"a": "AA=="}), CONFIGMAPS)
    assert next((one.field, one.message) for one in errors) == (
        "data[a]",
        'Invalid value: "a": duplicate of key present in binaryData',
    )
    assert errors[1].field == "data[x/y]"
    _, errors = create(config_map(data={"a": "é" * (ALMOST // 2)}, binaryData={"b": "AA=="}), CONFIGMAPS)
    assert [(one.field, one.reason) for one in errors] == [("data", TOO_LONG)]


def test_the_cells(create, now):
    made, _ = create(secret(stringData={"a": "1", "b": "2"}), SECRETS)
    assert SECRETS.row(made, now)[:3] == ["s", "Opaque", 2]
    assert SECRETS.field_matcher("type=Opaque")(made)
    made, _ = create(config_map(data={"a": "1"}, binaryData={"b": "AA=="}), CONFIGMAPS)
    assert CONFIGMAPS.row(made, now)[:2] == ["s", 2]
    account = {**secret(), "kind": "ServiceAccount", "secrets": [{"name": "x"}]}
    made, errors = create(account, SERVICEACCOUNTS)
    assert errors == []
    assert SERVICEACCOUNTS.row(made, now)[:2] == ["s", 1]


# ---- pods that use them


@pytest.mark.parametrize(
    ("source", "field", "reason"),
    [
        ({"configMap": {}}, "configMap.name", REQUIRED),
        ({"secret": {}}, "secret.secretName", REQUIRED),
        ({"secret": {"secretName": "s", "defaultMode": 0o1000}}, "secret.defaultMode", INVALID),
        ({"configMap": {"name": "c", "items": [{"path": "p"}]}}, "configMap.items[0].key", REQUIRED),
        ({"configMap": {"name": "c", "items": [{"key": "k"}]}}, "configMap.items[0].path", REQUIRED),
        (
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "/p"}]}},
            "configMap.items[0].path",
            INVALID,
        ),
        (
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "a/../../p"}]}},
            "configMap.items[0].path",
            INVALID,
        ),
        (
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "..data"}]}},
            "configMap.items[0].path",
            INVALID,
        ),
        (
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "p", "mode": -1}]}},
            "configMap.items[0].mode",
            INVALID,
        ),
        ({"downwardAPI": {"items": [{"path": "p"}]}}, "downwardAPI.items[0]", REQUIRED),
        (
            {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}},
            "downwardAPI.items[0].fieldRef.fieldPath",
            "FieldValueNotSupported",
        ),
        (
            {"downwardAPI": {"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}},
            "downwardAPI.items[0].resourceFieldRef.containerName",
            REQUIRED,
        ),
        ({"projected": {"sources": [{}]}}, "projected.sources[0]", REQUIRED),
        (
            {"projected": {"sources": [{"secret": {"name": "s"}, "configMap": {"name": "c"}}]}},
            "projected.sources[0].secret",
            FORBIDDEN,
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            "projected.sources[0].serviceAccountToken",
            FORBIDDEN,
        ),
        (
            {
                "projected": {
                    "sources": [
                        {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                        {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
                    ]
                }
            },
            "projected.sources[1].configMap",
            INVALID,
        ),
    ],
)
def test_volumes_that_are_refused(create, manifest, source, field, reason):
    _, errors = create(manifest(volumes=[{"name": "v", **source}]))
    assert [(one.field, one.reason) for one in errors] == [(f"spec.volumes[0].{field}", reason)]


@pytest.mark.parametrize(
    ("container", "field", "reason"),
    [
        ({"envFrom": [{}]}, "envFrom[0]", INVALID),
        ({"envFrom": [{"configMapRef": {}}]}, "envFrom[0].configMapRef.name", REQUIRED),
        ({"envFrom": [{"secretRef": {"name": "A"}}]}, "envFrom[0].secretRef.name", INVALID),
        ({"envFrom": [{"secretRef": {"name": "a"}, "prefix": "="}]}, "envFrom[0].prefix", INVALID),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
            "env[0].valueFrom.secretKeyRef.key",
            REQUIRED,
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"key": "a/b", "name": "c"}}}]},
            "env[0].valueFrom.configMapKeyRef.key",
            INVALID,
        ),
    ],
)
def test_variables_that_are_refused(create, manifest, container, field, reason):
    _, errors = create(manifest(container=container))
    assert [(one.field, one.reason) for one in errors] == [(f"spec.containers[0].{field}", reason)]


def test_a_pod_that_uses_all_of_them(create, manifest):
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    made, errors = create(
        manifest(
            container={
                "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "C_"}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            },
            volumes=[
                {"name": "a", "configMap": {"name": "c", "optional": True}},
                {
                    "name": "b",
                    "secret": {"secretName": "s", "items": [{"key": "k", "path": "a/b", "mode": 256}]},
                },
                {"name": "c", "downwardAPI": {"items": items}},
                {"name": "d", "projected": {"sources": [{"downwardAPI": {"items": items}}]}},
            ],
            imagePullSecrets=[{"name": "login"}],
        )
    )
    assert errors == []
    assert [
        one[next(key for key in one if key != "name")]["defaultMode"] for one in made["spec"]["volumes"]
    ] == [0o644] * 4
