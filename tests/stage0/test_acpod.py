"""Pod manifests by the spec's rules: ours among them."""

from typing import Any

import orjson
import pytest

from executor.stage0 import ImageBroken, acrules
from executor.stage0.acpod import parse_pod

IMAGE = {"id": "sha512-" + "0" * 64}
GOOD: dict[str, Any] = {
    "acVersion": "0.8.11",
    "acKind": "PodManifest",
    "apps": [
        {
            "name": "web", "image": {**IMAGE, "name": "example.com/web", "labels": [{"name": "version", "value": "1"}]},
            "app": {"exec": ["/web"], "user": "0", "group": "/etc", "isolators": [{"name": "example/own", "value": 3}]},
            "mounts": [{"volume": "data", "path": "/data"},
                       {"volume": "own", "path": "/own", "appVolume": {"name": "own", "kind": "empty"}}],
            "readOnlyRootFS": True,
        },
        {"name": "side", "image": IMAGE},
    ],
    "volumes": [{"name": "data", "kind": "host", "source": "/srv", "readOnly": True, "recursive": False},
                {"name": "scratch", "kind": "empty", "mode": "0755", "uid": 1, "gid": 2}],
    "isolators": [{"name": "os/unix/sysctl", "value": {"net.core.somaxconn": "10"}}],
    "annotations": [{"name": "created", "value": "2026-01-02T03:04:05Z"}],
    "ports": [{"name": "http", "hostPort": 80, "hostIP": "127.0.0.1", "podPort": {"name": "http", "port": 8080}}],
    "userAnnotations": {"Any Key": "x"},
}  # fmt: skip


def changed(path: str, value: Any) -> bytes:
    """GOOD with one place (`apps/0/name`) set, or removed when the value is ...."""
    made = orjson.loads(orjson.dumps(GOOD))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = made
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return orjson.dumps(made)


def test_a_good_one() -> None:
    made = parse_pod(orjson.dumps(GOOD).replace(b"readOnlyRootFS", b"READONLYrootfs"))
    assert made == GOOD
    assert acrules.unknown_isolators(made["apps"][0]["app"]) == ["example/own"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("acKind", "ImageManifest", "acKind"), ("acVersion", ..., "acVersion"), ("acVersion", "x", "acVersion"),
        ("apps", {}, "apps: not a list"), ("apps/1/name", "web", "'web' is there twice"),
        ("apps/1/name", "Side", "AC name"), ("apps/1/image", ..., "apps: side: has no image"),
        ("apps/1/image/id", "sha256-00", "not an image ID"), ("apps/0/image/name", "A", "AC identifier"),
        ("apps/0/image/labels/0/name", "name", "forbidden"), ("apps/0/app/user", "", "apps: web: app.user"),
        ("apps/0/mounts/0/volume", "nope", "there is no volume 'nope'"), ("apps/0/mounts/0/path", "x", "absolute"),
        ("apps/0/mounts/1/appVolume", [], "not an object"), ("apps/0/readOnlyRootFS", "yes", "readOnlyRootFS"),
        ("volumes/0/kind", "nfs", "neither host nor empty"), ("volumes/0/kind", [], "neither host nor empty"),
        ("volumes/0/source", ..., "source"), ("volumes/0/mode", "0755", "mode is for empty volumes only"),
        ("volumes/1/source", "/x", "has no source"), ("volumes/1/mode", "rwx", "mode"), ("volumes/1/uid", -1, "uid"),
        ("volumes/1/name", "data", "'data' is there twice"), ("volumes/0/recursive", 1, "recursive"),
        ("isolators/0/value", [], "os/unix/sysctl"), ("isolators/0/name", "os/linux/cpu-shares", "is for apps only"),
        ("annotations/0/value", "x", "created"), ("ports/0/hostPort", 0, "hostPort"), ("ports/0/hostIP", "x", "hostIP"),
        ("ports/0/hostIP", {}, "hostIP"), ("ports/0/podPort", 80, "podPort"),
        ("ports/0/podPort/port", 70000, "podPort"),
        ("userAnnotations", {"a": 1}, "userAnnotations"),
    ],
)  # fmt: skip
def test_refused(path: str, value: Any, words: str) -> None:
    with pytest.raises(ImageBroken) as caught:
        parse_pod(changed(path, value))
    assert str(caught.value).startswith("pod manifest: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b'{"a":' * 990 + b"1" + b"}" * 990, b" " * (5 << 20)]
)
def test_not_a_manifest_at_all(data: bytes) -> None:
    with pytest.raises(ImageBroken):
        parse_pod(data)
