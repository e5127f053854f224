"""What a container gets of ConfigMaps, Secrets and the pod itself, as variables and as files."""

import base64
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.pods import atomic
from executor.pods.env import ConfigError, Node, environment
from executor.pods.files import Files
from executor.pods.objects import MissingError, Objects
from executor.pods.projections import File, Payload, payload
from executor.pods.supplies import unpack
from shared.wire import Launch

NODE = Node("n1", "10.0.0.1", Fraction(4), 8 << 30)
POD: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "default", "uid": "u", "labels": {"b": 'say "x"', "a": "1"}},
    "spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"cpu": "500m"}}}]},
}
OBJECTS = Objects.from_json(
    {
        "configMaps": {
            "config": {"data": {"level": "debug", "path": "/x"}, "binaryData": {"blob": "AAE="}},
            "empty": {},
        },
        "secrets": {"login": {"data": {"user": base64.b64encode(b"me").decode(), "key": "/w=="}}},
    }
)


def env(*variables: dict[str, Any], sources: tuple[dict[str, Any], ...] = ()) -> dict[str, str]:
    container = {"name": "main", "env": list(variables), "envFrom": list(sources)}
    return environment(container, POD, NODE, "", OBJECTS)


def of(kind: str, name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"name": "V", "valueFrom": {f"{kind}KeyRef": {"name": name, "key": key, **more}}}


def test_variables_from_keys() -> None:
    assert env(of("configMap", "config", "level")) == {"V": "debug"}
    assert env(of("secret", "login", "user")) == {"V": "me"}
    assert env(of("secret", "login", "key")) == {"V": "\udcff"}, "bytes that are no text come through exec"
    for missing in (("configMap", "no", "x"), ("secret", "no", "x"), ("configMap", "config", "no")):
        assert env(of(*missing, optional=True)) == {}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("configMap", "no", "x"), 'configmap "no" not found'),
        (("secret", "no", "x"), 'secret "no" not found'),
        (("configMap", "config", "no"), "couldn't find key no in ConfigMap default/config"),
        (("configMap", "config", "blob"), "couldn't find key blob in ConfigMap default/config"),
        (("secret", "login", "no"), "couldn't find key no in Secret default/login"),
    ],
)
def test_a_key_that_is_not_there(asked: tuple[str, str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        env(of(*asked))
    assert (str(caught.value), caught.value.reason) == (says, "CreateContainerConfigError")


def test_variables_from_whole_objects() -> None:
    sources = (
        {"configMapRef": {"name": "config"}, "prefix": "C_"},
        {"secretRef": {"name": "login"}},
        {"secretRef": {"name": "no", "optional": True}},
        {"configMapRef": {"name": "empty"}},
    )
    made = env({"name": "user", "value": "$(C_level)"}, sources=sources)
    assert made == {"C_level": "debug", "C_path": "/x", "user": "debug", "key": "\udcff"}
    with pytest.raises(ConfigError, match='secret "no" not found'):
        env(sources=({"secretRef": {"name": "no"}},))


def files(volume: dict[str, Any]) -> dict[str, tuple[bytes, int]]:
    return {
        path: (one.content, one.mode)
        for path, one in payload({"name": "v", **volume}, OBJECTS, POD, NODE).items()
    }


def test_files_from_objects() -> None:
    assert files({"configMap": {"name": "config"}}) == {
        "level": (b"debug", 0o644),
        "path": (b"/x", 0o644),
        "blob": (b"\0\1", 0o644),
    }
    items = [{"key": "user", "path": "a/b", "mode": 0o400}, {"key": "key", "path": "k"}]
    secret = {"secretName": "login", "items": items, "defaultMode": 0o440}
    assert files({"secret": secret}) == {"a/b": (b"me", 0o400), "k": (b"\xff", 0o440)}
    assert files({"secret": {"secretName": "no", "optional": True}}) == {}
    gone = {"name": "config", "items": [{"key": "no", "path": "p"}]}
    assert files({"configMap": {**gone, "optional": True}}) == {}
    with pytest.raises(MissingError, match="configmap references non-existent config key: no"):
        files({"configMap": gone})
    with pytest.raises(MissingError, match='secret "no" not found'):
        files({"secret": {"secretName": "no"}})


def test_files_about_the_pod() -> None:
    def item(path: str, field: str) -> dict[str, Any]:
        return {"path": path, "fieldRef": {"fieldPath": field}}

    cpu = {"resource": "limits.cpu", "containerName": "main", "divisor": "1m"}
    items = [
        item("labels", "metadata.labels"),
        item("one", "metadata.labels['a']"),
        item("n", "metadata.name"),
    ]
    made = files({"downwardAPI": {"items": [*items, {"path": "cpu", "resourceFieldRef": cpu}]}})
    assert {path: content for path, (content, _) in made.items()} == {
        "labels": b'a="1"\nb="say \\"x\\""',
        "one": b"1",
        "n": b"web",
        "cpu": b"500",
    }


def test_several_sources_in_one_directory() -> None:
    sources = [
        {"configMap": {"name": "config", "items": [{"key": "level", "path": "etc/level"}]}},
        {"secret": {"name": "login", "items": [{"key": "user", "path": "etc/user", "mode": 0o600}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"secret": {"name": "no", "optional": True}},
    ]
    assert files({"projected": {"sources": sources, "defaultMode": 0o444}}) == {
        "etc/level": (b"debug", 0o444),
        "etc/user": (b"me", 0o600),
        "name": (b"web", 0o444),
    }


def test_which_files_may_change() -> None:
    def may_change(*volumes: dict[str, Any]) -> bool:
        named = [{"name": f"v{n}", **one} for n, one in enumerate(volumes)]
        return Files({**POD, "spec": {**POD["spec"], "volumes": named}}, NODE).may_change

    about = {"downwardAPI": {"items": []}}
    assert not may_change(about, {"emptyDir": {}}, {"projected": {"sources": [about]}})
    assert may_change(about, {"projected": {"sources": [about, {"secret": {"name": "s"}}]}})
    assert may_change({"configMap": {"name": "c"}})


# ---- the envelope


def test_nothing_of_what_is_secret_shows() -> None:
    auth = base64.b64encode(b"me:hunter2").decode()
    documents = (
        {"auths": {"r.example": {"auth": auth}, "bad": {"auth": "!"}}},
        {"auths": {"r.example": {"username": "you", "password": "x"}}},
    )
    launch = Launch({"kind": "Pod"}, "n", "token", "", documents, {"secrets": {"s": {"data": {"k": auth}}}})
    supplies = unpack(Launch.decode(launch.encode()))
    assert supplies.credentials == {"r.example": ("me", "hunter2")}
    assert supplies.objects.secret({"name": "s"}) == {"k": b"me:hunter2"}
    for shown in (repr(supplies), repr(launch)):
        assert "hunter2" not in shown
        assert auth not in shown


@pytest.mark.parametrize("raw", [{"secrets": {"s": {"data": {"k": 5}}}}, {"configMaps": {"c": 1}}])
def test_objects_that_are_none(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="objects: not as expected"):
        Objects.from_json(raw)


# ---- the files on disk

NAMES = st.sampled_from(["a", "b", "c", "d/a", "d/b", "e/f/g"])
PAYLOADS = st.dictionaries(NAMES, st.builds(File, st.binary(max_size=9), st.sampled_from([0o400, 0o644])))


def shown(volume: Path) -> Payload:
    """What somebody sees who does not look at names with two dots."""
    found = {}
    for top in volume.iterdir():
        if top.name.startswith(".."):
            continue
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            if not path.is_dir():
                found[str(path.relative_to(volume))] = File(path.read_bytes(), path.stat().st_mode & 0o777)
    return found


@settings(deadline=None)
@given(st.lists(PAYLOADS, min_size=1, max_size=4))
def test_a_volume_holds_just_what_was_written_last(payloads: list[Payload]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for one in payloads:
            atomic.write(directory, one)
            assert shown(Path(directory)) == one
            hidden = sorted(name for name in os.listdir(directory) if name.startswith(".."))
            assert len(hidden) == 2
            assert os.readlink(f"{directory}/..data") == hidden[0]


@pytest.mark.root
def test_all_is_the_owner_s_of_the_volume(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(tmp_path, 7, 8)
    atomic.write(str(tmp_path), {"a": File(b"1", 0o644), "d/b": File(b"1", 0o644)})
    found = [tmp_path / "..data", *tmp_path.rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in found} == {(7, 8)}


def test_a_reader_sees_the_old_files_or_the_new_ones(tmp_path: Path) -> None:
    atomic.write(str(tmp_path), {"a": File(b"1", 0o644), "d/b": File(b"1", 0o644)})
    before = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert os.readlink(tmp_path / "d") == "..data/d"
    atomic.write(str(tmp_path), {"a": File(b"2", 0o644)})
    assert (tmp_path / "a").read_bytes() == b"2"
    assert not (tmp_path / "d").is_symlink()
    assert os.listdir(before) == []
    os.close(before)
