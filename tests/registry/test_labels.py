"""Profiles of AppArmor, as field and as annotation; how much of the network a pod may use."""

import pytest

from scheduler.registry import PODS

INVALID, REQUIRED, FORBIDDEN = "FieldValueInvalid", "FieldValueRequired", "FieldValueForbidden"
NOT_SUPPORTED = "FieldValueNotSupported"
KEY = "container.apparmor.security.beta.kubernetes.io/app"
AT = "spec.containers[0].securityContext.appArmorProfile"


def own(kind, name=None):
    return {"container": {"securityContext": {"appArmorProfile": profile(kind, name)}}}


def profile(kind, name=None):
    return {"type": kind} | ({} if name is None else {"localhostProfile": name})


def noted(value, **spec):
    return {"metadata": {"annotations": {KEY: value}}, **spec}


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        (own("Odd"), f"{AT}.type", NOT_SUPPORTED),
        ({"container": {"securityContext": {"appArmorProfile": {"localhostProfile": "x"}}}}, f"{AT}.type", REQUIRED),
        (own("Localhost"), f"{AT}.localhostProfile", REQUIRED),
        (own("Localhost", " "), f"{AT}.localhostProfile", REQUIRED),
        (own("Localhost", " x"), f"{AT}.localhostProfile", INVALID),
        (own("Localhost", "x" * 4096), f"{AT}.localhostProfile", "FieldValueTooLong"),
        (own("RuntimeDefault", "x"), f"{AT}.localhostProfile", INVALID),
        (
            {"securityContext": {"appArmorProfile": profile("Odd")}},
            "spec.securityContext.appArmorProfile.type",
            NOT_SUPPORTED,
        ),
        (noted("docker"), f"metadata.annotations[{KEY}]", INVALID),
        (noted("unconfined", **own("RuntimeDefault")), f"{AT}.type", FORBIDDEN),
        (noted("localhost/a", **own("Localhost", "b")), f"{AT}.localhostProfile", FORBIDDEN),
        ({"metadata": {"annotations": {f"{KEY}x": "unconfined"}}}, f"metadata.annotations[{KEY}x]", INVALID),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_profile(create, manifest, spec, field, reason):
    _, errors = create(manifest(**spec))
    assert [(one.field, one.reason) for one in errors] == [(field, reason)]


@pytest.mark.parametrize(
    ("note", "field"),
    [
        ("runtime/default", profile("RuntimeDefault")),
        ("unconfined", profile("Unconfined")),
        ("localhost/a/b", profile("Localhost", "a/b")),
    ],
)
def test_annotations_and_fields_say_the_same(create, manifest, note, field):
    pod, errors = create(manifest(**noted(note)))
    assert errors == []
    assert pod["spec"]["containers"][0]["securityContext"] == {"appArmorProfile": field}
    pod, errors = create(manifest(**own(*field.values())))
    assert errors == []
    assert pod["metadata"]["annotations"] == {KEY: note}
    pod, errors = create(manifest(securityContext={"appArmorProfile": field}))
    assert errors == []
    assert pod["metadata"]["annotations"] == {KEY: note}
    assert "securityContext" not in pod["spec"]["containers"][0]
    pod, errors = create(manifest(**noted(note, securityContext={"appArmorProfile": field})))
    assert errors == []
    assert "securityContext" not in pod["spec"]["containers"][0], "the pod says it already"


def test_the_annotations_stay(create, update, manifest):
    old, _ = create(manifest(**noted("unconfined")))
    for notes, what in (({}, "remove or update"), ({KEY: "runtime/default"}, "remove or update")):
        new = {**old, "metadata": {**old["metadata"], "annotations": notes}}
        _, errors = update(new, old)
        assert [(one.field, one.reason) for one in errors] == [(f"metadata.annotations[{KEY}]", FORBIDDEN)]
        assert what in errors[0].message
    plain, _ = create(manifest())
    new = {**plain, "metadata": {**plain["metadata"], "annotations": {KEY: "unconfined"}}}
    assert "may not add" in update(new, plain)[1][0].message


def test_contexts_of_selinux(create, manifest):
    options = {"user": "u", "role": "r", "type": "t", "level": "s0:c1,c2"}
    spec = {"container": {"securityContext": {"seLinuxOptions": options}}}
    assert create(manifest(**spec, securityContext={"seLinuxOptions": options}))[1] == []


@pytest.mark.parametrize(("rate", "right"), [("10M", True), ("999", False), ("2P", False), ("fast", False)])
def test_the_share_of_the_network(create, manifest, rate, right):
    for way in ("ingress", "egress"):
        name = f"kubernetes.io/{way}-bandwidth"
        _, errors = create(manifest(metadata={"annotations": {name: rate}}))
        expected = [] if right else [(f"metadata.annotations[{name}]", INVALID)]
        assert [(one.field, one.reason) for one in errors] == expected


def test_the_annotation_is_the_old_way(manifest):
    warning = f'metadata.annotations[{KEY}]: deprecated since v1.30; use the "appArmorProfile" field instead'
    assert PODS.warn(manifest(**noted("unconfined"))) == [warning]
    assert PODS.warn(manifest(**noted("unconfined", **own("Unconfined")))) == []
    assert (
        PODS.warn(manifest(**noted("unconfined", securityContext={"appArmorProfile": profile("Unconfined")})))
        == []
    )
    assert PODS.warn(manifest()) == []


def test_what_has_no_effect_is_told(manifest):
    gone = {"seccomp.security.alpha.kubernetes.io/pod": "unconfined", "example.com/mine": "x"}
    gone["container.seccomp.security.alpha.kubernetes.io/app"] = "unconfined"
    why = 'non-functional in v1.27+; use the "seccompProfile" field instead'
    told = PODS.warn(manifest(metadata={"annotations": gone}, automountServiceAccountToken=True))
    assert told[:2] == [f"metadata.annotations[{key}]: {why}" for key in gone if "seccomp" in key]
    assert [text.split(":")[0] for text in told[2:]] == ["spec.automountServiceAccountToken"]
    assert PODS.warn(manifest(automountServiceAccountToken=False)) == []
