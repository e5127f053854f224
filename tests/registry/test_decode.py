"""Decoding: unknown and duplicate fields, wrong types, kinds."""

import pytest

from scheduler.registry import NODES, PODS
from scheduler.registry.decode import decode, duplicate_fields
from scheduler.registry.errors import BadRequest


def test_unknown_fields_are_refused_when_strict(manifest):
    pod = manifest(container={"imagee": "x"}, hostnamee="y")
    with pytest.raises(BadRequest) as caught:
        decode(PODS, pod, "Strict")
    assert caught.value.message == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        'unknown field "spec.containers[0].imagee", unknown field "spec.hostnamee"'
    )


def test_unknown_fields_are_dropped_with_a_warning(manifest):
    pod, warnings = decode(PODS, manifest(container={"imagee": "x"}), "Warn", ["metadata.name"])
    assert warnings == ['duplicate field "metadata.name"', 'unknown field "spec.containers[0].imagee"']
    assert "imagee" not in pod["spec"]["containers"][0]


def test_unknown_fields_are_dropped_in_silence_when_asked(manifest):
    pod, warnings = decode(PODS, manifest(container={"imagee": "x"}), "Ignore", ["metadata.name"])
    assert warnings == []
    assert "imagee" not in pod["spec"]["containers"][0]


def test_names_are_case_sensitive(manifest):
    _, warnings = decode(PODS, manifest(HostNetwork=True, host_network=True))
    assert warnings == ['unknown field "spec.HostNetwork"', 'unknown field "spec.host_network"']


def test_duplicates_are_refused_when_strict(manifest):
    with pytest.raises(BadRequest, match=r'strict decoding error: duplicate field "spec\.x"'):
        decode(PODS, manifest(), "Strict", ["spec.x"])


def test_an_unknown_mode_is_refused(manifest):
    with pytest.raises(BadRequest, match='fieldValidation: Unsupported value: "Maybe"'):
        decode(PODS, manifest(), "Maybe")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image": 5}, 'cannot unmarshal number into field "spec.containers[0].image" of type string'),
        ({"image": ["a"]}, 'cannot unmarshal array into field "spec.containers[0].image" of type string'),
        ({"tty": "yes"}, 'cannot unmarshal string into field "spec.containers[0].tty" of type boolean'),
        ({"ports": {}}, 'cannot unmarshal object into field "spec.containers[0].ports" of type array'),
        ({"ports": [1]}, 'cannot unmarshal number into field "spec.containers[0].ports[0]" of type object'),
        (
            {"ports": [{"containerPort": "80"}]},
            'cannot unmarshal string into field "spec.containers[0].ports[0].containerPort" of type integer',
        ),
        (
            {"ports": [{"containerPort": 1.5}]},
            'cannot unmarshal number into field "spec.containers[0].ports[0].containerPort" of type integer',
        ),
        (
            {"ports": [{"containerPort": 2**40}]},
            'cannot unmarshal number 1099511627776 into field "spec.containers[0].ports[0].containerPort": out of',
        ),
        ({"env": [None]}, 'cannot unmarshal null into field "spec.containers[0].env[0]" of type object'),
        (
            {"resources": {"limits": {"cpu": "1x"}}},
            'field "spec.containers[0].resources.limits[cpu]": quantities must match the regular expression',
        ),
        (
            {"livenessProbe": {"tcpSocket": {"port": True}}},
            'bool into field "spec.containers[0].livenessProbe.tcpSocket.port" of type integer or string',
        ),
    ],
)
@pytest.mark.parametrize("mode", ["Strict", "Ignore"])
def test_wrong_types_name_the_place(manifest, change, complaint, mode):
    with pytest.raises(BadRequest) as caught:
        decode(PODS, manifest(container=change), mode)
    assert complaint in caught.value.message
    assert caught.value.message.startswith('Pod in version "v1" cannot be handled as a Pod: ')


def test_a_wrong_type_is_told_before_unknown_fields(manifest):
    with pytest.raises(BadRequest, match="cannot unmarshal"):
        decode(PODS, manifest(aaa=1, hostname=5), "Strict")


@pytest.mark.parametrize(
    "time",
    [
        "yesterday",
        "2024-05-01",
        "2024-05-01T12:00:00",
        "2024-13-01T12:00:00Z",
        "2024-05-01T25:00:00Z",
        "2024-05-01T12:00:00+25:00",
        "0001-01-01T00:00:00+01:00",
    ],
)
def test_bad_times_are_told(manifest, time):
    with pytest.raises(BadRequest) as caught:
        decode(PODS, manifest(metadata={"creationTimestamp": time}))
    assert f'"metadata.creationTimestamp": parsing time "{time}"' in caught.value.message


def test_labels_must_be_text(manifest):
    with pytest.raises(BadRequest, match=r'number into field "metadata.labels\[a\]" of type string'):
        decode(PODS, manifest(metadata={"labels": {"a": 1}}))


@pytest.mark.parametrize("body", [None, [], "x", 1, True])
def test_only_objects_are_objects(body):
    with pytest.raises(BadRequest, match="must be a JSON object of kind Pod"):
        decode(PODS, body)


def test_kind_and_version_are_filled_in():
    pod, _ = decode(PODS, {"metadata": {"name": "x"}})
    assert (pod["kind"], pod["apiVersion"]) == ("Pod", "v1")


def test_another_kind_or_version_is_refused(manifest):
    with pytest.raises(BadRequest, match="must be of type Node"):
        decode(NODES, manifest())
    with pytest.raises(BadRequest, match=r"\(v2\) does not match the expected API version \(v1\)"):
        decode(PODS, manifest() | {"apiVersion": "v2"})


def test_what_says_nothing_is_dropped(manifest):
    said_nothing = manifest(
        container={"command": [], "stdin": False, "workingDir": "", "securityContext": {}, "tty": None},
        metadata={"creationTimestamp": None, "labels": {}, "annotations": {"a": ""}, "managedFields": [{}]},
        hostNetwork=False,
        volumes=[],
        nodeSelector={},
        hostAliases=None,
        enableServiceLinks=False,
        terminationGracePeriodSeconds=0,
    )
    pod, _ = decode(PODS, said_nothing, "Strict")
    assert pod["metadata"] == {"name": "web", "namespace": "default", "annotations": {"a": ""}}
    assert pod["spec"] == {
        "containers": [{"name": "app", "image": "nginx:1", "securityContext": {}}],
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
    }


@pytest.mark.parametrize(
    ("raw", "paths"),
    [
        ('{"a": 1, "b": {"a": 2}}', []),
        ('{"a": 1, "a": 2}', ["a"]),
        ('{"a": 1, "a": 2, "a": 3}', ["a"]),
        ('{"s": {"c": [{"i": 1}, {"i": 1, "i": 2}]}}', ["s.c[1].i"]),
        ('[{"a": {"b": 1, "b": 1}}]', ["[0].a.b"]),
        ("3", []),
    ],
)
def test_duplicate_keys_are_found(raw, paths):
    assert duplicate_fields(raw) == paths
    assert duplicate_fields(raw.encode()) == paths


def test_a_body_nested_without_end_is_refused():
    with pytest.raises(BadRequest, match="nested too deeply"):
        duplicate_fields("[" * 200_000 + "]" * 200_000)
