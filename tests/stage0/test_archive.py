"""docker-save and OCI archives, made by skopeo and by hand; ACIs; told apart by what is inside."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from executor.stage0 import ImageError, ImageNotFound, ImageStore

pytestmark = pytest.mark.root

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
ACI_ARCH = {"x86_64": "amd64"}.get(os.uname().machine, os.uname().machine)


# -- archives of real tools


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress], ids=["plain", "gz", "zst"]
)
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
async def test_archives_of_skopeo(
    kind: str,
    pack: Callable[[bytes], bytes],
    store: ImageStore,
    umoci_layout: Path,
    tmp_path: Path,
    run: Any,
    refused: Callable[..., Awaitable[str]],
) -> None:
    target = tmp_path / "x.tar"
    tag = "real:v1" if kind == "docker-archive" else "v1"
    run("skopeo", "--insecure-policy", "copy", f"oci:{umoci_layout}:v1", f"{kind}:{target}:{tag}")
    target.write_bytes(pack(target.read_bytes()))
    reference = await store.pull("localhost/real:v1", "Always")
    for ref in (f"{kind}:{target}", f"{kind}:{target}:{tag}", f"file://{target}"):
        image = await store.pull(ref, "Always")
        assert image.layers == reference.layers
        assert image.config.entrypoint == ("/bin/sh",)
        assert await store.pull(ref, "IfNotPresent") == image
    wrong = await refused(f"{kind}:{target}:other", ImageNotFound)
    assert tag in wrong


async def test_two_images_in_one_docker_archive(
    store: ImageStore, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    path, made = tmp_path / "two.tar", tar()
    entries = [docker_parts(made, tar().add(n).bytes(), n, [f"{n}:latest"]) for n in ("one", "two")]
    path.write_bytes(made.add("manifest.json", json.dumps(entries).encode()).bytes())
    image = await store.pull(f"docker-archive:{path}:two", "Always")
    assert (image.layers[0] / "two").exists()
    assert "several images; name one: one:latest, two:latest" in await refused(
        f"file://{path}", ImageNotFound
    )


async def test_a_changed_archive_is_noticed(store: ImageStore, tar: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(docker(tar, tar().add("one").bytes()))
    one = await store.pull(f"file://{path}", "IfNotPresent")
    path.write_bytes(docker(tar, tar().add("two").bytes()))
    two = await store.pull(f"file://{path}", "IfNotPresent")
    assert one.id != two.id


def docker_parts(made: Any, layer: bytes, name: str, tags: list[str] | None) -> dict[str, Any]:
    diff = "sha256:" + hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": MACHINE,
        "os": "linux",
        "config": {"Cmd": [name]},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }
    data = json.dumps(config).encode()
    config_name = hashlib.sha256(data).hexdigest() + ".json"
    made.add(config_name, data).add(f"{name}/layer.tar", layer)
    return {"Config": config_name, "RepoTags": tags, "Layers": [f"{name}/layer.tar"]}


def docker(tar: Any, layer: bytes, edit: Callable[[Any, dict[str, Any]], object] | None = None) -> bytes:
    """A docker archive of one image; `edit(tar, entry)` makes it wrong."""
    made = tar()
    entry = docker_parts(made, layer, "app", None)
    if edit is not None:
        edit(made, entry)
    data: bytes = made.add("manifest.json", json.dumps([entry]).encode()).bytes()
    return data


async def test_links_between_equal_layers(store: ImageStore, tar: Any, tmp_path: Path) -> None:
    """`docker save` before 25 writes `ID/layer.tar` as a symlink to an equal layer's."""

    def edit(made: Any, entry: dict[str, Any]) -> None:
        made.link("other/layer.tar", "../app/layer.tar")
        entry["Layers"] = ["other/layer.tar"]

    (tmp_path / "a.tar").write_bytes(docker(tar, tar().add("x").bytes(), edit))
    assert ((await store.pull(f"file://{tmp_path}/a.tar", "Always")).layers[0] / "x").exists()


EDITS: list[tuple[str, Callable[[Any, dict[str, Any]], object], str]] = [
    ("outside", lambda t, e: (t.link("l", "../../../../etc/passwd"), e.update(Layers=["l"])), "is missing"),
    ("absolute", lambda t, e: (t.link("l", "/etc/passwd"), e.update(Layers=["l"])), "is missing"),
    (
        "circle",
        lambda t, e: (t.link("l", "m"), t.link("m", "l"), e.update(Layers=["l"])),
        "links in a circle",
    ),
    ("config-outside", lambda t, e: e.update(Config="../../etc/passwd"), "is missing"),
    ("config-absolute", lambda t, e: e.update(Config="/etc/passwd"), "is missing"),
    (
        "config-other",
        lambda t, e: e.update(Config="0" * 64 + ".json") or t.add("0" * 64 + ".json", b"{}"),
        "digest is",
    ),
    ("config-list", lambda t, e: e.update(Config=["a"]), "not a list of"),
    ("layers-text", lambda t, e: e.update(Layers="app/layer.tar"), "not a list of"),
    ("no-layers", lambda t, e: e.update(Layers=[]), "config names 1 layers, the archive 0"),
    ("layer-missing", lambda t, e: e.update(Layers=["nope"]), "layer 1 of 1"),
    ("layer-other", lambda t, e: t.add("n", b"x" * 512) and e.update(Layers=["n"]), "layer 1 of 1"),
    ("twice", lambda t, e: t.add("app/layer.tar", b"other"), "twice"),
    ("dotdot", lambda t, e: t.add("../x"), "'..'"),
    ("fifo", lambda t, e: (t.add("p", kind=b"6"), e.update(Layers=["p"])), "is a fifo"),
]


@pytest.mark.parametrize(("edit", "words"), [e[1:] for e in EDITS], ids=[e[0] for e in EDITS])
async def test_broken_docker_archives(
    edit: Any, words: str, store: ImageStore, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    (tmp_path / "a.tar").write_bytes(docker(tar, tar().add("x").bytes(), edit))
    assert words in await refused(f"docker-archive:{tmp_path}/a.tar")


async def test_every_cut_of_a_docker_archive_is_refused(store: ImageStore, tar: Any, tmp_path: Path) -> None:
    data = docker(tar, tar().add("x", b"y" * 600).bytes()).rstrip(b"\0")
    for cut in range(0, len(data), 1024):
        (tmp_path / "a.tar").write_bytes(data[:cut])
        with pytest.raises(ImageError):
            await store.pull(f"docker-archive:{tmp_path}/a.tar", "Always")


@pytest.mark.parametrize("scheme", ["file://", "oci-archive:", "docker-archive:"])
async def test_files_that_are_no_images(
    scheme: str, store: ImageStore, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    path = tmp_path / "x"
    assert "no such file" in await refused(f"{scheme}{path}", ImageNotFound)
    for data in (b"", b"hello\n" * 300, gzip.compress(b"hello"), tar().add("x").bytes(), tar().bytes()):
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            await store.pull(f"{scheme}{path}", "Always")
        assert str(caught.value).startswith(f"{scheme}{path}: ")


# -- ACIs

APP = {"exec": ["/bin/sh"], "user": "7", "group": "8"}


def manifest(**more: Any) -> dict[str, Any]:
    labels = [{"name": "os", "value": "linux"}, {"name": "arch", "value": ACI_ARCH}]
    return {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "example.com/app",
        "labels": labels,
        "app": APP,
        **more,
    }


def aci(tar: Any, obj: object = None) -> Any:
    return tar().add("manifest", json.dumps(manifest() if obj is None else obj).encode()).dir("rootfs/")


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["none", "gzip", "bzip2", "xz"]
)
async def test_an_aci(pack: Callable[[bytes], bytes], store: ImageStore, tar: Any, tmp_path: Path) -> None:
    app = {
        **APP,
        "supplementaryGids": [9],
        "workingDirectory": "/w",
        "environment": [{"name": "A", "value": "1"}],
        "mountPoints": [{"name": "data", "path": "/data"}],
        "userLabels": {"k": "v"},
        "ports": [
            {"name": "http", "protocol": "tcp", "port": 80},
            {"name": "r", "protocol": "udp", "port": 10, "count": 3},
        ],
        "isolators": [{"name": "resource/memory", "value": {"limit": "1G"}}],
    }
    made = (
        aci(tar, manifest(app=app))
        .add("rootfs/bin/tool", b"x", mode=0o755)
        .hard("rootfs/h", "rootfs/bin/tool")
    )
    plain = made.link("rootfs/l", "/bin/tool").add("rootfs/.wh.name", b"just a name").bytes()
    path = tmp_path / "a.aci"
    path.write_bytes(pack(plain))
    image = await store.pull(f"file://{path}", "IfNotPresent")
    assert image.id == image.digest == "sha512-" + hashlib.sha512(plain).hexdigest()
    (tree,) = image.layers
    assert (tree / "bin/tool").stat().st_nlink == 2
    assert (tree / ".wh.name").read_bytes() == b"just a name"
    config = image.config
    assert (config.entrypoint, config.user, config.working_dir) == (("/bin/sh",), "7:8", "/w")
    assert (config.ports, config.volumes, config.supplementary_gids) == (
        ("80/tcp", "10-12/udp"),
        ("/data",),
        (9,),
    )
    assert config.app is not None
    assert config.app["isolators"] == app["isolators"]
    again = ImageStore(tmp_path / "state", trust=store.trust)
    assert (await again.pull(f"file://{path}", "Always")) == image
    assert (await again.pull(image.id[:20], "Never")).layers == image.layers


async def test_a_path_whitelist(store: ImageStore, tar: Any, tmp_path: Path) -> None:
    made = aci(tar, manifest(pathWhitelist=["/a/keep", "/empty", "/l"]))
    made.add("rootfs/a/keep").add("rootfs/a/drop").dir("rootfs/empty/").add("rootfs/b/c/d")
    made.link("rootfs/l", "/").link("rootfs/m", "/etc")
    (tmp_path / "a.aci").write_bytes(made.bytes())
    (tree,) = (await store.pull(f"file://{tmp_path}/a.aci", "Always")).layers
    assert sorted(str(p.relative_to(tree)) for p in tree.rglob("*")) == ["a", "a/keep", "empty", "l"]


def _set(key: str, value: Any) -> Callable[[], dict[str, Any]]:
    return lambda: manifest(**{key: value})


def _app(key: str, value: Any) -> Callable[[], dict[str, Any]]:
    return lambda: manifest(app={**APP, key: value})


def _isolator(name: str, *values: Any) -> Callable[[], dict[str, Any]]:
    return _app("isolators", [{"name": name, "value": value} for value in values])


def _labels(*pairs: tuple[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: manifest(labels=[{"name": k, "value": v} for k, v in pairs])


OS_ARCH = (("os", "linux"), ("arch", ACI_ARCH))
MANIFESTS: list[tuple[Callable[[], Any], str]] = [
    (list, "not a JSON object"),
    (_set("acKind", "PodManifest"), "acKind"),
    (_set("acKind", None), "acKind"),
    (_set("acVersion", "1"), "acVersion"),
    (_set("acVersion", "0.0.0"), "acVersion"),
    (_set("acVersion", None), "acVersion"),
    (_set("name", ""), "name"),
    (_set("name", "Example.com/App"), "name"),
    (_set("name", "a//b"), "name"),
    (_set("name", "../etc"), "name"),
    (_set("name", "a..b"), "name"),
    (_set("name", None), "name"),
    (_labels(), "missing os label"),
    (_labels(("os", "linux")), "missing arch label"),
    (_labels(("os", "plan9"), ("arch", "amd64")), "os 'plan9'"),
    (_labels(("os", "linux"), ("arch", "x86")), "arch 'x86'"),
    (_labels(*OS_ARCH, ("os", "linux")), "'os' is there twice"),
    (_labels(*OS_ARCH, ("name", "x")), "'name' is forbidden"),
    (_labels(*OS_ARCH, ("version", 1)), "has no value"),
    (_labels(*OS_ARCH, ("Ver", "1")), "AC identifier"),
    (_labels(("os", "linux"), ("arch", "s390x")), "this machine is"),
    (_set("labels", {}), "labels: not a list"),
    (_set("app", []), "app: not an object"),
    (_app("exec", "sh"), "app.exec"),
    (_app("exec", [1]), "app.exec"),
    (_app("user", ""), "app.user"),
    (_app("group", None), "app.group"),
    (_app("workingDirectory", "w"), "app.workingDirectory"),
    (_app("environment", [{"name": "1A", "value": ""}]), "app.environment"),
    (_app("environment", [{"name": "A", "value": ""}] * 2), "'A' is there twice"),
    (_app("eventHandlers", [{"name": "on-fire", "exec": []}]), "app.eventHandlers"),
    (_app("mountPoints", [{"name": "a-", "path": "/x"}]), "AC name"),
    (_app("mountPoints", [{"name": "a", "path": "x"}]), "absolute path"),
    (_app("ports", [{"name": "a", "protocol": "tcp", "port": 0}]), "range of ports"),
    (_app("ports", [{"name": "a", "protocol": "tcp", "port": 65535, "count": 2}]), "range of ports"),
    (_app("ports", [{"name": "a", "port": 1}]), "no protocol"),
    (_app("isolators", [{"value": 1}]), "app.isolators"),
    (_app("supplementaryGIDs", [-1]), "supplementaryGIDs"),
    (_app("supplementaryGIDs", [True]), "supplementaryGIDs"),
    (_app("exec", ["a\0b"]), "app.exec"),
    (_app("workingDirectory", ["/"]), "app.workingDirectory"),
    (_app("environment", [{"name": "A", "value": "\0"}]), "app.environment"),
    (_app("eventHandlers", [{"name": "pre-start", "exec": []}]), "nothing to execute"),
    (_app("mountPoints", [{"name": "a", "path": "/x", "readOnly": 1}]), "readOnly is neither"),
    (_app("ports", [{"name": "a", "protocol": "tcp", "port": True}]), "range of ports"),
    (
        _app("ports", [{"name": "a", "protocol": "tcp", "port": 1, "socketActivated": "no"}]),
        "socketActivated",
    ),
    (_app("userLabels", {"a": 1}), "app.userLabels"),
    (_app("userAnnotations", []), "app.userAnnotations"),
    (_isolator("resource/memory", {"limit": "much"}), "app.isolators: resource/memory: limit"),
    (_isolator("resource/memory", {"limit": "-1"}), "is not a quantity"),
    (_isolator("resource/cpu", {}), "has no limit"),
    (_isolator("resource/cpu", {"limit": "1", "default": True}), "default must be false"),
    (_isolator("resource/block-iops", {"limit": "1"}), "default must be true"),
    (
        _isolator("resource/network-bandwidth", {"limit": "1", "request": "1", "default": True}),
        "request is forbidden",
    ),
    (_isolator("os/linux/capabilities-retain-set", {"set": []}), "set: not a list of names, or empty"),
    (_isolator("os/linux/seccomp-remove-set", {"set": ["read"], "errno": "perm"}), "errno"),
    (_isolator("os/linux/seccomp-remove-set", {"set": ["read"], "errno": {}}), "errno"),
    (_isolator("os/linux/no-new-privileges", "yes"), "neither true nor false"),
    (_isolator("os/linux/cpu-shares", 1), "not a number from 2 to 262144"),
    (_isolator("os/linux/oom-score-adj", 1001), "not a number from -1000 to 1000"),
    (
        _isolator("os/linux/selinux-context", {"user": "a:b", "role": "r", "type": "t", "level": "l"}),
        "are required",
    ),
    (_isolator("os/linux/apparmor-profile", {}), "profile is required"),
    (_isolator("os/unix/sysctl", {"a": "b"}), "is for pods only"),
    (_isolator("os/linux/oom-score-adj", 1, 2), "is there twice"),
    (
        _app(
            "isolators",
            [
                {"name": f"os/linux/capabilities-{k}-set", "value": {"set": ["CAP_KILL"]}}
                for k in ("retain", "remove")
            ],
        ),
        "exclude one another",
    ),
    (_set("annotations", [{"name": "created", "value": "yesterday"}]), "created"),
    (_set("annotations", [{"name": "homepage", "value": "ftp://x"}]), "homepage"),
    (_set("pathWhitelist", ["/a/../b"]), "pathWhitelist"),
    (_set("dependencies", [{"imageName": "a", "imageID": "sha256-aa"}]), "imageID"),
    (_set("dependencies", [{"imageName": "a", "imageID": []}]), "imageID"),
    (_set("dependencies", [{"imageName": "a", "size": -1}]), "size"),
    (
        _set("dependencies", [{"imageName": "a", "labels": [{"name": "name", "value": "x"}]}]),
        "'name' is forbidden",
    ),
    (_set("dependencies", [{"imageName": "a"}] * 65), "65 of them"),
    (_set("pathWhitelist", ["x"]), "pathWhitelist"),
    (_set("annotations", [{"name": "a"}]), "annotations"),
    (_set("dependencies", [{}]), "imageName"),
]


@pytest.mark.parametrize(("make", "words"), MANIFESTS)
async def test_aci_manifest_rules(
    make: Callable[[], Any],
    words: str,
    store: ImageStore,
    tar: Any,
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    (tmp_path / "a.aci").write_bytes(aci(tar, make()).bytes())
    assert words in await refused(f"file://{tmp_path}/a.aci")
    left = [
        p
        for part in ("layers", "images", "names", "tmp")
        for p in (tmp_path / "state/store" / part).iterdir()
    ]
    assert left == []


ARCHIVES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("no-manifest", lambda t: t().dir("rootfs/"), "no 'manifest'"),
    ("no-rootfs", lambda t: t().add("manifest", json.dumps(manifest()).encode()), "no 'rootfs'"),
    ("two-manifests", lambda t: aci(t).add("manifest", b"{}"), "twice"),
    ("two-manifests-dot", lambda t: aci(t).add("./manifest", b"{}"), "twice"),
    ("beside", lambda t: aci(t).add("rootfs-x/y"), "'manifest' and 'rootfs' only"),
    ("manifest-dir", lambda t: t().dir("manifest/").dir("rootfs/"), "a directory of"),
    ("manifest-link", lambda t: t().link("manifest", "/etc/passwd").dir("rootfs/"), "a symlink of"),
    (
        "rootfs-link",
        lambda t: t().add("manifest", b"{}").link("rootfs", "/etc").add("rootfs/x"),
        "root has to be a directory",
    ),
    ("escape", lambda t: aci(t).add("rootfs/../../x"), "'..'"),
    ("absolute", lambda t: aci(t).add("/etc/x"), "absolute"),
    ("hard-outside", lambda t: aci(t).hard("rootfs/h", "manifest"), "outside of rootfs"),
    ("hard-escape", lambda t: aci(t).hard("rootfs/h", "rootfs/../../x"), "'..'"),
    ("through-link", lambda t: aci(t).link("rootfs/d", "/etc").add("rootfs/d/x"), "which is a symlink"),
    ("device", lambda t: aci(t).add("rootfs/null", kind=b"3"), "device nodes"),
    ("twice", lambda t: aci(t).add("rootfs/a").add("rootfs/a"), "is there twice"),
    ("not-json", lambda t: t().add("manifest", b"{").dir("rootfs/"), "not JSON"),
]


@pytest.mark.parametrize(("make", "words"), [a[1:] for a in ARCHIVES], ids=[a[0] for a in ARCHIVES])
async def test_broken_acis(
    make: Any, words: str, store: ImageStore, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    (tmp_path / "a.aci").write_bytes(make(tar).bytes())
    assert words in await refused(f"file://{tmp_path}/a.aci")


async def test_a_truncated_aci(
    store: ImageStore, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    plain = aci(tar).add("rootfs/f", os.urandom(5000)).bytes()
    packed = gzip.compress(plain)
    for data in (packed[: len(packed) // 2], packed[:-4], plain[:4000], plain.rstrip(b"\0")):
        (tmp_path / "a.aci").write_bytes(data)
        assert "truncated" in await refused(f"file://{tmp_path}/a.aci")
