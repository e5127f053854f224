"""Environment and command line, against what the kubelet makes of them."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.pods.env import ConfigError, Node, command_line, environment, expand

NODE = Node("node-1", "10.0.0.1", Fraction(4), 8 << 30, 20 << 30)
POD: dict[str, Any] = {
    "metadata": {
        "name": "web-0",
        "namespace": "prod",
        "uid": "u-1",
        "labels": {"app": "web", "a/b.c": "x"},
        "annotations": {"note": "hello"},
    },
    "spec": {
        "serviceAccountName": "robot",
        "containers": [
            {
                "name": "web",
                "image": "busybox",
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}},
            },
            {"name": "side", "image": "busybox"},
        ],
    },
}
WEB = POD["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y2z"),
        ("$(NOPE)", "$(NOPE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A", "$A"),
        ("$", "$"),
        ("$(A", "$(A"),
        ("$(A$(B))", "$(A$(B))"),
        ("$()", "$()"),
        ("", ""),
    ],
)
def test_expansion(text: str, made: str) -> None:
    # The cases of Kubernetes' expansion_test.go that differ in kind.
    assert expand(text, {"A": "1", "B": "2"}) == made


@given(st.text(st.characters(exclude_characters="$")))
def test_text_without_a_dollar_stays(text: str) -> None:
    assert expand(text, {"A": "1"}) == text


@pytest.mark.parametrize(
    ("command", "args", "made"),
    [
        (None, None, ["/entry", "cmd"]),
        (None, ["a"], ["/entry", "a"]),
        (["/run"], None, ["/run"]),
        (["/run", "$(X)"], ["$(X)", "$$(X)"], ["/run", "1", "1", "$(X)"]),
        ([], [], ["/entry", "cmd"]),
    ],
)
def test_command_against_entrypoint(command: Any, args: Any, made: list[str]) -> None:
    container = {"name": "web", "image": "i", "command": command, "args": args}
    assert command_line(container, {"X": "1"}, ["/entry"], ["cmd"]) == made


def test_nothing_to_execute() -> None:
    with pytest.raises(ConfigError, match="no command") as error:
        command_line({"name": "web", "image": "i"}, {}, [], [])
    assert error.value.reason == "CreateContainerError"


def test_values_see_the_ones_before_them() -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2$(C)"},
        {"name": "C", "value": "3"},
        {"name": "D"},
    ]
    assert environment({**WEB, "env": env}, POD, NODE, "") == {"A": "1", "B": "12$(C)", "C": "3", "D": ""}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "prod"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['a/b.c']", "x"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "hello"),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "10.0.0.1"),
        ("status.podIP", "10.9.8.7"),
    ],
)
def test_fields(path: str, value: str) -> None:
    env = [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]
    assert environment({**WEB, "env": env}, POD, NODE, "10.9.8.7") == {"X": value}


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "250"),
        ({"resource": "limits.memory"}, str(64 << 20)),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "64"),
        ({"resource": "requests.memory"}, "0"),
        ({"resource": "limits.cpu", "containerName": "side"}, "4"),
        ({"resource": "limits.memory", "containerName": "side", "divisor": "1Gi"}, "8"),
        ({"resource": "limits.ephemeral-storage", "divisor": "1Gi"}, "20"),
    ],
)
def test_resources(ref: dict[str, str], value: str) -> None:
    env = [{"name": "X", "valueFrom": {"resourceFieldRef": ref}}]
    assert environment({**WEB, "env": env}, POD, NODE, "") == {"X": value}


@pytest.mark.parametrize(
    "source",
    [
        {"fieldRef": {"fieldPath": "spec.nope"}},
        {"resourceFieldRef": {"resource": "limits.nope"}},
        {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "nope"}},
        {"secretKeyRef": {"name": "s", "key": "k"}},
    ],
)
def test_what_cannot_be_had_is_refused(source: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        environment({**WEB, "env": [{"name": "X", "valueFrom": source}]}, POD, NODE, "")
    assert error.value.reason == "CreateContainerConfigError"
