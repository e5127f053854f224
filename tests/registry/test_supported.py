"""Known fields that Gantry does not do yet are refused by name; everything it does is taken."""

import pytest

from scheduler.registry.supported import HARMLESS, SUPPORTED, VALUES
from shared.models.base import patch_schema
from shared.models.container import Container, EnvVarSource, ResourceRequirements, VolumeMount
from shared.models.pod import PodSpec
from shared.models.security import PodSecurityContext, SecurityContext
from shared.models.volumes import (
    EmptyDirVolumeSource,
    HostPathVolumeSource,
    PersistentVolumeClaimVolumeSource,
    Volume,
    VolumeProjection,
)

MODELS = {
    model.__name__: model
    for model in (
        Container,
        EmptyDirVolumeSource,
        EnvVarSource,
        HostPathVolumeSource,
        PersistentVolumeClaimVolumeSource,
        PodSecurityContext,
        PodSpec,
        ResourceRequirements,
        SecurityContext,
        Volume,
        VolumeMount,
        VolumeProjection,
    )
}


def test_the_table_names_fields_that_exist():
    assert set(SUPPORTED) - set(MODELS) == {"limits", "requests"}
    for table in (SUPPORTED, HARMLESS, VALUES):
        for kind in table.keys() & MODELS.keys():
            assert set(table[kind]) <= set(patch_schema(MODELS[kind])), kind
    for kind, fields in HARMLESS.items():
        assert not set(fields) & SUPPORTED[kind], "a field that is done needs no harmless values"
    for kind, fields in VALUES.items():
        assert set(fields) <= SUPPORTED[kind]


NOT_YET = [
    ({"dnsConfig": {"nameservers": ["1.1.1.1"]}}, "spec.dnsConfig"),
    ({"ephemeralContainers": [{"name": "e", "image": "x"}]}, "spec.ephemeralContainers"),
    ({"hostAliases": [{"ip": "1.1.1.1"}]}, "spec.hostAliases"),
    ({"os": {"name": "windows"}}, "spec.os"),
    ({"resources": {"limits": {"cpu": "1"}}}, "spec.resources"),
    ({"priorityClassName": "high"}, "spec.priorityClassName"),
    ({"readinessGates": [{"conditionType": "x"}]}, "spec.readinessGates"),
    ({"resourceClaims": [{"name": "x"}]}, "spec.resourceClaims"),
    ({"schedulingGates": [{"name": "x"}]}, "spec.schedulingGates"),
    ({"setHostnameAsFQDN": True}, "spec.setHostnameAsFQDN"),
    ({"subdomain": "x"}, "spec.subdomain"),
    (
        {"volumes": [{"name": "a", "ephemeral": {}}]},
        "spec.volumes[0].ephemeral",
    ),
    ({"container": {"resizePolicy": [{"resourceName": "cpu"}]}}, "spec.containers[0].resizePolicy"),
    ({"container": {"volumeDevices": [{"name": "x"}]}}, "spec.containers[0].volumeDevices"),
    (
        {"volumes": [{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
        "spec.volumes[0].projected.sources[0].serviceAccountToken",
    ),
    ({"container": {"ports": [{"containerPort": 1, "hostPort": 2}]}}, "spec.containers[0].ports[0].hostPort"),
    (
        {"container": {"resources": {"limits": {"example.com/gpu": "1"}}}},
        "spec.containers[0].resources.limits[example.com/gpu]",
    ),
    (
        {"container": {"resources": {"requests": {"hugepages-2Mi": "2Mi"}}}},
        "spec.containers[0].resources.requests[hugepages-2Mi]",
    ),
    ({"container": {"resources": {"claims": [{"name": "x"}]}}}, "spec.containers[0].resources.claims"),
    (
        {"securityContext": {"seLinuxChangePolicy": "Recursive"}},
        "spec.securityContext.seLinuxChangePolicy",
    ),
    (
        {
            "initContainers": [
                {
                    "name": "i",
                    "image": "x",
                    "restartPolicy": "Always",
                    "resources": {"limits": {"nvidia.com/gpu": 1}},
                }
            ]
        },
        "spec.initContainers[0].resources.limits[nvidia.com/gpu]",
    ),
]


@pytest.mark.parametrize(("spec", "field"), NOT_YET)
def test_what_is_not_done_yet_is_refused_by_name(create, manifest, spec, field):
    _, errors = create(manifest(**spec))
    assert [(one.field, one.reason) for one in errors] == [(field, "FieldValueForbidden")]
    assert "not supported by Gantry yet" in errors[0].message


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"dnsPolicy": "None"}, "spec.dnsPolicy"),
        ({"priority": 5}, "spec.priority"),
        ({"schedulerName": "mine"}, "spec.schedulerName"),
        (
            {"volumes": [{"name": "a", "emptyDir": {"medium": "HugePages"}}]},
            "spec.volumes[0].emptyDir.medium",
        ),
    ],
)
def test_values_that_are_not_done_yet_are_refused(create, manifest, spec, field):
    _, errors = create(manifest(**spec))
    assert [(one.field, one.reason) for one in errors] == [(field, "FieldValueNotSupported")]


@pytest.mark.parametrize(
    "spec",
    [
        {"hostPID": False, "hostIPC": False, "hostUsers": True, "os": {"name": "linux"}},
        {"affinity": {}, "dnsConfig": {}, "hostAliases": [], "overhead": {}, "shareProcessNamespace": False},
        {"shareProcessNamespace": True},
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}, "supplementalGroupsPolicy": "Merge"}},
        {
            "container": {
                "tty": False,
                "stdin": False,
                "envFrom": [],
                "lifecycle": {},
                "resources": {"claims": []},
            }
        },
        {"container": {"securityContext": {"procMount": "Default", "capabilities": {}}}},
        {
            "container": {"volumeMounts": [{"name": "a", "mountPath": "/a", "mountPropagation": "None"}]},
            "volumes": [{"name": "a"}],
        },
        {"container": {"ports": [{"containerPort": 1, "hostPort": 1}]}, "hostNetwork": True},
        {"container": {"resources": {"requests": {"ephemeral-storage": "1Gi"}}}},
    ],
)
def test_values_that_ask_for_nothing_more_are_taken(create, manifest, spec):
    assert create(manifest(**spec))[1] == []


@pytest.mark.parametrize(("model", "key"), [(PodSpec, None), (Container, "container")])
def test_no_field_slips_through(model, key):
    """What is not done is refused by one of the cases above (or, where a type needs a deeper look, by name)."""
    refused = {name for one, _ in NOT_YET for name in (one.get(key, {}) if key else one)}
    assert patch_schema(model).keys() - SUPPORTED[model.__name__] <= refused
