"""The light reader of the PodManifest: what it takes and what it refuses."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.stage1 import caps, manifest
from executor.stage1.manifest import ManifestError, Mount


def pod(app: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A minimal manifest; `app` goes into the app proper, `more` on top."""
    inner = {"exec": ["/bin/true"], "user": "0", "group": "0", **(app or {})}
    return {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": [{"name": "a", "app": inner}], **more}


def read(raw: Any) -> manifest.Pod:
    return manifest.read(json.dumps(raw))


def test_defaults() -> None:
    parsed = read(pod())
    assert (parsed.flavor, parsed.hostname, parsed.host_network, parsed.volumes) == ("linux", "", False, {})
    app = parsed.apps["a"]
    assert app.working_directory == "/"
    assert app.capabilities is None
    assert app.limits == manifest.Limits()
    assert (app.no_new_privileges, app.read_only_root, app.privileged, app.oom_score_adj) == (
        False,
        False,
        False,
        None,
    )


def test_isolators() -> None:
    isolators = [
        {"name": "resource/cpu", "value": {"request": "100m", "limit": "1.5"}},
        {"name": "resource/memory", "value": {"limit": "1Gi"}},
        {"name": "os/linux/capabilities-remove-set", "value": {"set": ["CAP_MKNOD"]}},
        {"name": "os/linux/no-new-privileges", "value": True},
        {"name": "os/linux/oom-score-adj", "value": -5},
    ]
    app = read(pod({"isolators": isolators})).apps["a"]
    assert app.limits == manifest.Limits(100, 1500, 1 << 30)
    assert app.capabilities == caps.DEFAULT - {"CAP_MKNOD"}
    assert (app.no_new_privileges, app.oom_score_adj) == (True, -5)


def test_a_cpu_request_defaults_to_the_limit() -> None:
    app = read(pod({"isolators": [{"name": "resource/cpu", "value": {"limit": 2}}]})).apps["a"]
    assert app.limits == manifest.Limits(2000, 2000, None)


def test_mounts_and_mount_points() -> None:
    raw = pod(
        {"mountPoints": [{"name": "own", "path": "/own"}, {"name": "x", "path": "/b", "readOnly": True}]},
        volumes=[{"name": name, "kind": "empty"} for name in ("own", "v")]
        + [{"name": "r", "kind": "empty", "readOnly": True}],
    )
    raw["apps"][0]["mounts"] = [
        {"volume": "v", "path": "/b/c", "gantry.io/sub-path": "s"},
        {"volume": "v", "path": "/b"},
        {"volume": "r", "path": "/a"},
    ]
    assert read(raw).apps["a"].mounts == (
        Mount("r", "/a", "", True),
        Mount("v", "/b", "", True),
        Mount("v", "/b/c", "s", False),
        Mount("own", "/own", "", False),
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "acKind is not PodManifest"),
        ({"acKind": "ImageManifest"}, "acKind is not PodManifest"),
        (
            pod(isolators=[{"name": "os/linux/oom-score-adj", "value": 1}]),
            "pod isolator os/linux/oom-score-adj: not supported on a pod",
        ),
        (pod({"isolators": [{"name": "os/x", "value": 1}]}), "app a: isolator os/x: not supported"),
        (
            pod({"isolators": [{"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_X"]}}]}),
            "no capability CAP_X",
        ),
        (pod({"isolators": [{"name": "resource/memory", "value": {"limit": "1Q"}}]}), "quantity '1Q'"),
        (pod({"exec": []}), "app a: exec is empty"),
        (pod({"workingDirectory": "x"}), "workingDirectory 'x' is not absolute"),
        (pod({"mountPoints": [{"name": "v", "path": "/v"}]}), "app a: mount /v: the pod has no volume 'v'"),
        (pod(volumes=[{"name": "v", "kind": "magic"}]), "volume v: kind 'magic'"),
        (pod(volumes=[{"name": "v", "kind": "host", "source": "x"}]), "source 'x' is not an absolute path"),
        (
            pod({"mountPoints": [{"name": "v", "path": "/a/.."}]}, volumes=[{"name": "v", "kind": "empty"}]),
            "app a: mount '/a/..': nothing is mounted on an app's root",
        ),
        (pod(volumes=[{"name": "../v", "kind": "empty"}]), "not a valid name"),
        (
            pod(volumes=[{"name": "v", "kind": "empty", "gantry.io/medium": "Tape"}]),
            "gantry.io/medium 'Tape'",
        ),
        (pod(annotations=[{"name": "gantry.io/flavor", "value": "x"}]), "'x' is not one of linux, fly"),
        ({**pod(), "apps": [*pod()["apps"], *pod()["apps"]]}, "app a: there are two of that name"),
        ({"acKind": "PodManifest"}, "malformed: KeyError: 'apps'"),
        ({**pod(), "apps": [{"name": "../a", "app": {}}]}, "app '../a': not a valid name"),
    ],
)
def test_refusals_name_the_place(raw: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message.replace("(", r"\(")):
        read(raw)


def test_not_json() -> None:
    with pytest.raises(ManifestError, match="not JSON"):
        manifest.read("{")


@pytest.mark.parametrize(
    ("text", "scale", "value"),
    [
        ("1", 3, 1000),
        ("0.5", 3, 500),
        ("250m", 3, 250),
        ("1u", 3, 1),
        ("64Mi", 0, 64 << 20),
        ("1.5Gi", 0, 3 << 29),
        (7, 0, 7),
        ("1.5e3", 0, 1500),
        ("5E-1", 3, 500),
    ],
)
def test_quantities(text: Any, scale: int, value: int) -> None:
    assert manifest.quantity(text, scale) == value


@pytest.mark.parametrize("text", ["", "x", "1 ", "-1", "1KiB", "1..2", "²", "1e", "1e2Ki", "1e2e3"])
def test_bad_quantities(text: str) -> None:
    with pytest.raises(ManifestError, match="not a number with a suffix"):
        manifest.quantity(text)


@given(st.integers(0, 10**9), st.sampled_from(["", "k", "M", "Ki", "Mi"]))
def test_whole_quantities_are_exact(number: int, suffix: str) -> None:
    factor = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20}[suffix]
    assert manifest.quantity(f"{number}{suffix}") == number * factor
    assert manifest.quantity(f"{number}{suffix}", 3) == number * factor * 1000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_garbage_is_refused_not_crashed_on(raw: Any) -> None:
    with pytest.raises(ManifestError):
        read({**pod(), "apps": [{"name": "a", "app": {"exec": ["x"], "mountPoints": [raw]}}]})


@pytest.mark.parametrize(
    "asked",
    [{"user": "65536"}, {"group": "65536"}, {"supplementaryGIDs": [65536]}],
)
def test_ids_beyond_those_of_a_user_namespace(asked: dict[str, Any]) -> None:
    """Such a pod does without one, rather than with ids that are another pod's."""
    app = {"name": "a", "app": {"exec": ["/x"], "user": "1", "group": "1", **asked}}
    raw = {"acKind": "PodManifest", "apps": [app]}
    assert not manifest.read(json.dumps(raw)).may_have_users
    volume = {"name": "v", "kind": "empty", "gid": 65536}
    assert not manifest.read(
        json.dumps({"acKind": "PodManifest", "apps": [], "volumes": [volume]})
    ).may_have_users
    raw["annotations"] = [{"name": "gantry.io/user-namespace", "value": "private"}]
    with pytest.raises(manifest.ManifestError, match="users and groups below 65536"):
        manifest.read(json.dumps(raw))
