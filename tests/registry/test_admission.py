"""What a new pod gets from its RuntimeClass and its ServiceAccount, and what they refuse."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.vectors import Vector
from scheduler.registry import RESOURCES
from scheduler.registry.admission import merge_tolerations, with_admission
from scheduler.registry.errors import Forbidden
from scheduler.registry.resource import Resource
from scheduler.registry.wishes import with_wishes

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STAGE1 = "rkt.alpha.kubernetes.io/stage1-name-override"
EXECUTOR = "gantry.io/executor"
Json = dict[str, Any]


def pods(*objects: Json, **namespace: str) -> Resource:
    """With the admission of an API whose store has these objects."""
    stored = {}
    for one in objects:
        meta = one["metadata"]
        kind = {"RuntimeClass": "runtimeclasses.node.k8s.io", "ServiceAccount": "serviceaccounts"}[
            one["kind"]
        ]
        stored[kind, meta.get("namespace", ""), meta["name"]] = one
    wished = with_wishes(RESOURCES, ("gantry",), lambda _: namespace)
    admitted = with_admission(wished, lambda *key: stored.get(key))
    return next(one for one in admitted if one.plural == "pods")


def runtime_class(name: str = "tight", **more: Any) -> Json:
    return {"kind": "RuntimeClass", "metadata": {"name": name}, "handler": "linux", **more}


def pod(notes: dict[str, str] | None = None, **spec: Any) -> Json:
    meta: Json = {"name": "p", "namespace": "default", "uid": "u"}
    if notes:
        meta["annotations"] = notes
    return {"metadata": meta, "spec": {"containers": [{"name": "main", "image": "x"}], **spec}}


def created(resource: Resource, obj: Json) -> tuple[Json, list[str]]:
    made = resource.prepare_create(copy.deepcopy(obj), NOW)
    return made, [str(one) for one in resource.validate_create(made)]


def refusal(resource: Resource, obj: Json) -> str:
    with pytest.raises(Forbidden) as caught:
        created(resource, obj)
    assert caught.value.code == 403
    return str(caught.value.message)


def test_a_class_that_is_not_there() -> None:
    message = refusal(pods(), pod(runtimeClassName="kata"))
    assert message == 'pods "p" is forbidden: pod rejected: RuntimeClass "kata" not found'


def test_rktnetes_may_name_a_class_of_ones_own() -> None:
    made, errors = created(pods(runtime_class("rkt-fly")), pod({STAGE1: "rkt-fly"}))
    assert errors == []
    assert made["spec"]["runtimeClassName"] == "rkt-fly"
    _, errors = created(pods(), pod({STAGE1: "rkt-fly"}))
    assert len(errors) == 1


def test_overhead_comes_from_the_class_alone_and_is_paid_for() -> None:
    fixed = {"cpu": "250m", "memory": "64Mi"}
    heavy = pods(runtime_class(overhead={"podFixed": fixed}), runtime_class("plain"))
    made, errors = created(heavy, pod(runtimeClassName="tight"))
    assert errors == []
    assert made["spec"]["overhead"] == fixed
    made["metadata"]["uid"] = "u"
    assert pod_from_object(made).needs.amounts == Vector(cpus=250, mem=64_000)
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1", "memory": "1Mi"}}
    assert pod_from_object(made).needs.amounts == Vector(cpus=1250, mem=65_000)

    repeated, errors = created(heavy, pod(runtimeClassName="tight", overhead={**fixed, "cpu": "0.25"}))
    assert (repeated["spec"]["overhead"], errors) == (fixed, [])
    doesnt_match = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
    assert doesnt_match in refusal(heavy, pod(runtimeClassName="tight", overhead={"cpu": "1"}))
    without = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    assert without in refusal(heavy, pod(runtimeClassName="plain", overhead=fixed))
    assert without in refusal(heavy, pod(overhead=fixed))


def test_scheduling_is_merged() -> None:
    taint = {"key": "vm", "operator": "Exists", "effect": "NoSchedule"}
    picky = pods(runtime_class(scheduling={"nodeSelector": {"vm": "yes"}, "tolerations": [taint]}))
    made, errors = created(picky, pod(runtimeClassName="tight", nodeSelector={"rack": "r1"}))
    assert errors == []
    assert made["spec"]["nodeSelector"] == {"rack": "r1", "vm": "yes"}
    assert made["spec"]["tolerations"][-1] == taint
    assert len(made["spec"]["tolerations"]) == 3
    message = refusal(picky, pod(runtimeClassName="tight", nodeSelector={"vm": "no"}))
    assert "runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no" in message


def test_a_manifest_that_does_not_repeat_all_this_changes_nothing() -> None:
    heavy = pods(runtime_class(overhead={"podFixed": {"cpu": "1"}}))
    old, _ = created(heavy, pod(runtimeClassName="tight"))
    new = heavy.prepare_update(pod(runtimeClassName="tight"), old, status=False)
    assert heavy.validate_update(new, old) == []
    assert new["spec"] == old["spec"]


@pytest.mark.parametrize(
    ("own", "of_class", "of_namespace", "result"),
    [
        (None, None, None, None),
        (None, None, "dedicated", "dedicated"),
        (None, "dedicated", None, "dedicated"),
        (None, "shared", "dedicated", "shared"),
        (None, "dedicated", "shared", "dedicated"),
        ("shared", "dedicated", "dedicated", "shared"),
        ("dedicated", "shared", "shared", "dedicated"),
    ],
)
def test_who_says_whether_the_executor_is_dedicated(
    own: str | None, of_class: str | None, of_namespace: str | None, result: str | None
) -> None:
    chosen = runtime_class()
    if of_class:
        chosen["metadata"]["annotations"] = {EXECUTOR: of_class}
    resource = pods(chosen, **({EXECUTOR: of_namespace} if of_namespace else {}))
    made, errors = created(resource, pod({EXECUTOR: own} if own else None, runtimeClassName="tight"))
    assert errors == []
    assert (made["metadata"].get("annotations") or {}).get(EXECUTOR) == result
    made["metadata"]["uid"] = "u"
    assert pod_from_object(made).needs.dedicated is (result == "dedicated")


# ---- rktnetes

BUILT_IN = (runtime_class("linux"), runtime_class("fly"), runtime_class("kvm"))


@pytest.mark.parametrize(
    ("image", "chosen"),
    [
        ("coreos.com/rkt/stage1-coreos", "linux"),
        ("coreos.com/rkt/stage1-fly", "fly"),
        ("coreos.com/rkt/stage1-fly:1.30.0", "fly"),
        ("coreos.com/rkt/stage1-kvm", "kvm"),
    ],
)
def test_rktnetes_way_to_choose_a_stage1(image: str, chosen: str) -> None:
    resource = pods(*BUILT_IN)
    made, errors = created(resource, pod({STAGE1: image}))
    assert (made["spec"]["runtimeClassName"], errors) == (chosen, [])
    same = resource.prepare_update(pod({STAGE1: image}, runtimeClassName=chosen), made, status=False)
    assert resource.validate_update(same, made) == []
    gone = resource.prepare_update(pod(runtimeClassName=chosen), made, status=False)
    assert "may not be changed" in str(resource.validate_update(gone, made)[0])


@pytest.mark.parametrize("image", ["coreos.com/rkt/stage1-xen", "example.com/own"])
def test_a_stage1_that_there_is_not(image: str) -> None:
    _, errors = created(pods(*BUILT_IN), pod({STAGE1: image}))
    assert len(errors) == 1
    assert f'Unsupported value: "{image}": supported values: "coreos.com/rkt/stage1-coreos"' in errors[0]


def test_two_words_about_the_stage1() -> None:
    _, errors = created(pods(*BUILT_IN), pod({STAGE1: "coreos.com/rkt/stage1-fly"}, runtimeClassName="linux"))
    assert len(errors) == 1
    assert "means runtimeClassName fly, the pod has linux" in errors[0]


# ---- virtual machines


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("spec.hostNetwork", {"hostNetwork": True}),
        ("spec.volumes[0].hostPath.type",
         {"volumes": [{"name": "v", "hostPath": {"path": "/dev/x", "type": "CharDevice"}}]}),
        ("spec.initContainers[0].resources.limits[nvidia.com/gpu]",
         {"initContainers": [{"name": "i", "image": "x", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}),
        ("spec.initContainers[0].volumeMounts[0].mountPropagation",
         {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}], "initContainers": [{"name": "i", "image": "x",
          "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"}]}]}),
        ("spec.initContainers[0].securityContext.procMount",
         {"hostUsers": False, "initContainers": [{"name": "i", "image": "x",
          "securityContext": {"procMount": "Unmasked"}}]}),
    ],
)  # fmt: skip
def test_what_a_virtual_machine_does_not_have(field: str, more: Json) -> None:
    resource = pods(runtime_class("own", handler="kvm"), runtime_class("other"))
    _, errors = created(resource, pod(runtimeClassName="own", **more))
    assert errors[0].startswith(f"{field}: Forbidden: ")
    assert errors[0].endswith("(RuntimeClass own, flavor kvm)")
    _, errors = created(resource, pod(runtimeClassName="other", **more))
    assert [one for one in errors if "machine" in one] == []


def test_everything_else_a_virtual_machine_has() -> None:
    volumes = [{"name": "v", "hostPath": {"path": "/x", "type": "Directory"}}, {"name": "e", "emptyDir": {}}]
    assert (
        created(pods(runtime_class("own", handler="kvm")), pod(runtimeClassName="own", volumes=volumes))[1]
        == []
    )


# ---- ServiceAccount


def account(name: str, *secrets: str) -> Json:
    meta = {"name": name, "namespace": "default"}
    listed = [{"name": one} for one in secrets]
    return {"kind": "ServiceAccount", "metadata": meta, **({"imagePullSecrets": listed} if listed else {})}


def test_the_accounts_pull_secrets_are_for_pods_without_some() -> None:
    resource = pods(account("default", "a", "b"), account("plain"))
    made, errors = created(resource, pod())
    assert (made["spec"]["imagePullSecrets"], errors) == ([{"name": "a"}, {"name": "b"}], [])
    same = resource.prepare_update(pod(), made, status=False)
    assert resource.validate_update(same, made) == []
    made, _ = created(resource, pod(imagePullSecrets=[{"name": "own"}]))
    assert made["spec"]["imagePullSecrets"] == [{"name": "own"}]
    made, _ = created(resource, pod(serviceAccountName="plain"))
    assert "imagePullSecrets" not in made["spec"]


def test_an_account_that_is_not_there() -> None:
    message = refusal(pods(account("default")), pod(serviceAccountName="robot"))
    assert message == (
        'pods "p" is forbidden: error looking up service account default/robot: serviceaccount "robot" not found'
    )
    assert created(pods(), pod())[1] == [], "the default one comes by itself"


# ---- tolerations

KEYS = st.fixed_dictionaries(
    {},
    optional={
        "key": st.sampled_from(["a", "b"]),
        "operator": st.sampled_from(["Exists", "Equal"]),
        "value": st.sampled_from(["1", "2"]),
        "effect": st.sampled_from(["NoExecute", "NoSchedule"]),
        "tolerationSeconds": st.integers(0, 2),
    },
)


def tolerates(one: Json, key: str, value: str, effect: str, after: int) -> bool:
    """The Kubernetes rule of what a toleration does, told once more."""
    if one.get("key") not in (None, key) or one.get("effect") not in (None, effect):
        return False
    if one.get("operator") != "Exists" and (one.get("key") is None or one.get("value", "") != value):
        return False
    limited = effect == "NoExecute" and one.get("effect") == "NoExecute" and "tolerationSeconds" in one
    return not limited or after <= one["tolerationSeconds"]


@given(st.lists(KEYS, max_size=4), st.lists(KEYS, max_size=4))
def test_merged_tolerations_tolerate_what_both_did(first: list[Json], second: list[Json]) -> None:
    valid = [
        one
        for one in (*first, *second)
        if (one.get("operator") == "Exists" and "value" not in one)
        or (one.get("operator") != "Exists" and "key" in one)
    ]
    valid = [one for one in valid if "tolerationSeconds" not in one or one.get("effect") == "NoExecute"]
    cut = len(valid) // 2
    merged = merge_tolerations(valid[:cut], valid[cut:])
    assert [one for one in valid if one in merged] or not valid
    for key in ("a", "b", "c"):
        for value in ("", "1", "2", "3"):
            for effect in ("NoExecute", "NoSchedule"):
                for after in (0, 1, 2, 99):
                    asked = (key, value, effect, after)
                    assert any(tolerates(one, *asked) for one in merged) is any(
                        tolerates(one, *asked) for one in valid
                    )
