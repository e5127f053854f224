"""Field metadata: types, formats, merge keys."""

import pytest
from pydantic import ValidationError

from shared.models.base import patch_schema
from shared.models.meta import ObjectMeta
from shared.models.node import NodeSpec, NodeStatus
from shared.models.pod import Pod, PodSpec
from shared.models.pod_status import PodStatus

MERGE_KEYS = {
    PodSpec: {
        "containers": "name",
        "initContainers": "name",
        "ephemeralContainers": "name",
        "hostAliases": "ip",
        "imagePullSecrets": "name",
        "resourceClaims": "name",
        "schedulingGates": "name",
        "topologySpreadConstraints": "topologyKey",
        "volumes": "name",
    },
    patch_schema(PodSpec)["containers"].model: {
        "env": "name",
        "ports": "containerPort",
        "volumeDevices": "devicePath",
        "volumeMounts": "mountPath",
    },
    PodStatus: {"conditions": "type", "hostIPs": "ip", "podIPs": "ip", "resourceClaimStatuses": "name"},
    ObjectMeta: {"ownerReferences": "uid"},
    NodeStatus: {"addresses": "type", "conditions": "type"},
    NodeSpec: {},
}


@pytest.mark.parametrize(
    ("model", "expected"), MERGE_KEYS.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_merge_keys_are_those_of_kubernetes(model, expected):
    found = {name: shape.merge_key for name, shape in patch_schema(model).items() if shape.merge_key}
    assert found == expected
    assert all(patch_schema(model)[name].merges for name in expected)


def test_lists_without_a_key_are_replaced_unless_they_merge_as_sets():
    assert not patch_schema(PodSpec)["tolerations"].merges
    assert not patch_schema(NodeSpec)["taints"].merges
    assert patch_schema(ObjectMeta)["finalizers"].merges
    assert patch_schema(ObjectMeta)["finalizers"].merge_key == ""
    assert patch_schema(NodeSpec)["podCIDRs"].merges
    assert patch_schema(PodSpec)["volumes"].strategies == {"merge", "retainKeys"}


def test_shapes_say_what_a_field_holds():
    spec = patch_schema(PodSpec)
    assert (spec["nodeSelector"].container, spec["nodeSelector"].scalar) == ("map", "string")
    assert (spec["priority"].scalar, spec["priority"].format) == ("integer", "int32")
    assert (spec["overhead"].container, spec["overhead"].format) == ("map", "quantity")
    assert spec["containers"].required
    assert spec["affinity"].model.__name__ == "Affinity"
    assert patch_schema(ObjectMeta)["creationTimestamp"].format == "date-time"


@pytest.mark.parametrize(
    "spec",
    [
        {"priority": "1"},
        {"priority": True},
        {"priority": 2**31},
        {"hostNetwork": 1},
        {"host_network": True},
        {"nodeSelector": {"a": 1}},
        {"containers": {}},
        {"overhead": {"cpu": "much"}},
        {"overhead": {"cpu": None}},
    ],
)
def test_types_are_strict(spec):
    with pytest.raises(ValidationError):
        Pod.model_validate({"spec": spec})
    Pod.model_validate({"spec": dict.fromkeys(spec)} if "host_network" not in spec else {})
