"""What of a securityContext is refused, and in which words."""

import pytest

INVALID, REQUIRED, DUPLICATE = "FieldValueInvalid", "FieldValueRequired", "FieldValueDuplicate"
NOT_SUPPORTED = "FieldValueNotSupported"
UNMASKED = {"container": {"securityContext": {"procMount": "Unmasked"}}}
ODD = {"container": {"securityContext": {"procMount": "Odd"}}}
PROC = "spec.containers[0].securityContext.procMount"


def sysctls(*names, **spec):
    return {"securityContext": {"sysctls": [{"name": name, "value": "1"} for name in names]}, **spec}


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        (sysctls(""), "sysctls[0].name", REQUIRED),
        (sysctls("kernel/../x"), "sysctls[0].name", INVALID),
        (sysctls("Kernel.x"), "sysctls[0].name", INVALID),
        (sysctls("a" * 254), "sysctls[0].name", INVALID),
        (sysctls("net.ipv4.a", "net/ipv4/a"), "sysctls[1].name", DUPLICATE),
        (sysctls("net/ipv4/a", hostNetwork=True), "sysctls[0].name", INVALID),
        ({"securityContext": {"supplementalGroupsPolicy": "Odd"}}, "supplementalGroupsPolicy", NOT_SUPPORTED),
        ({"securityContext": {"fsGroupChangePolicy": "Odd"}}, "fsGroupChangePolicy", NOT_SUPPORTED),
        ({"securityContext": {"fsGroup": -1}}, "fsGroup", INVALID),
    ],
)
def test_what_is_wrong_with_a_pod_s(create, manifest, spec, field, reason):
    _, errors = create(manifest(**spec))
    assert [(one.field, one.reason) for one in errors] == [(f"spec.securityContext.{field}", reason)]


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"hostPID": True, "hostUsers": False}, "spec.HostPID", "FieldValueForbidden"),
        ({"hostIPC": True, "hostUsers": False}, "spec.HostIPC", "FieldValueForbidden"),
        (
            {"hostPID": True, "shareProcessNamespace": True},
            "spec.securityContext.shareProcessNamespace",
            INVALID,
        ),
        (sysctls("kernel.shm_rmid_forced", hostIPC=True), "spec.securityContext.sysctls[0].name", INVALID),
        (sysctls("kernel.shm_rmid_forced", hostNetwork=True), "", ""),
        ({"hostPID": True, "hostIPC": True, "hostNetwork": True, "shareProcessNamespace": False}, "", ""),
    ],
)
def test_namespaces_of_the_node(create, manifest, spec, field, reason):
    _, errors = create(manifest(**spec))
    assert [(one.field, one.reason) for one in errors] == ([(field, reason)] if field else [])


def test_the_whole_proc_needs_a_user_namespace(create, manifest):
    for spec, reason in (
        (UNMASKED, INVALID),
        ({**UNMASKED, "hostUsers": True}, INVALID),
        (ODD, NOT_SUPPORTED),
    ):
        assert [(one.field, one.reason) for one in create(manifest(**spec))[1]] == [(PROC, reason)]
    assert create(manifest(**UNMASKED, hostUsers=False))[1] == []


def test_what_is_right(create, manifest):
    context = {
        "sysctls": [{"name": "net/ipv4/conf/eth0.1/x", "value": "1"}],
        "supplementalGroupsPolicy": "Strict",
        "fsGroup": 2000,
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    assert create(manifest(securityContext=context))[1] == []


def mount(privileged=False, source="hostPath", **fields):
    volume = {"name": "v", source: {"path": "/x"} if source == "hostPath" else {}}
    made = {"volumeMounts": [{"name": "v", "mountPath": "/v", **fields}]}
    return {
        "volumes": [volume],
        "container": made | ({"securityContext": {"privileged": True}} if privileged else {}),
    }


FORBIDDEN = "FieldValueForbidden"


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        (mount(mountPropagation="Sideways"), "mountPropagation", NOT_SUPPORTED),
        (mount(mountPropagation="Bidirectional"), "mountPropagation", FORBIDDEN),
        (mount(mountPropagation="HostToContainer", source="emptyDir"), "mountPropagation", FORBIDDEN),
        (mount(recursiveReadOnly="Maybe"), "recursiveReadOnly", NOT_SUPPORTED),
        (mount(recursiveReadOnly="Enabled"), "recursiveReadOnly", FORBIDDEN),
        (
            mount(recursiveReadOnly="Enabled", readOnly=True, mountPropagation="HostToContainer"),
            "recursiveReadOnly",
            FORBIDDEN,
        ),
        (mount(mountPropagation="HostToContainer"), "", ""),
        (mount(mountPropagation="Bidirectional", privileged=True), "", ""),
        (mount(mountPropagation="None", source="emptyDir"), "", ""),
        (mount(subPathExpr="$(A)/b"), "", ""),
        (mount(subPathExpr="$(A)", subPath="b"), "subPathExpr", INVALID),
        (mount(subPathExpr="/$(A)"), "subPathExpr", INVALID),
        (mount(subPathExpr="../$(A)"), "subPathExpr", INVALID),
        (mount(recursiveReadOnly="IfPossible", readOnly=True), "", ""),
    ],
)
def test_how_volumes_are_mounted(create, manifest, spec, field, reason):
    _, errors = create(manifest(**spec))
    expected = [(f"spec.containers[0].volumeMounts[0].{field}", reason)] if field else []
    assert [(one.field, one.reason) for one in errors] == expected
