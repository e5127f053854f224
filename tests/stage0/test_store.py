"""ImageStore over OCI layouts: policies, verification, concurrency, crashes."""

import gzip
import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from executor.stage0 import (
    ImageNeverPull,
    ImageNotFound,
    ImageStore,
)

pytestmark = pytest.mark.root

APP = "localhost/app:v1"


# -- what comes out


async def test_an_image_made_by_umoci(store: ImageStore, umoci_layout: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    image = await store.pull("localhost/real:v1", "IfNotPresent", progress=lines.append)
    assert image.names == ("localhost/real:v1",)
    assert image.config.entrypoint == ("/bin/sh",)
    assert image.config.cmd == ("-c",)
    assert dict(image.config.env)["A"] == "1"
    assert (image.config.user, image.config.working_dir, image.config.stop_signal) == (
        "7:8",
        "/tmp",
        "SIGINT",
    )
    assert (image.config.ports, image.config.volumes, dict(image.config.labels)) == (
        ("80/tcp",),
        ("/data",),
        {"k": "v"},
    )
    assert len(image.layers) == 2
    upper, lower = image.layers
    assert (upper / "added").read_text() == "added\n"
    assert (lower / "etc/hostname").read_text() == "image\n"
    assert stat.S_IMODE((lower / "bin/busybox").stat().st_mode) == 0o4755
    for gone in ("gone", "etc/hostname", "replaced/old"):
        info = (upper / gone).lstat()
        assert stat.S_ISCHR(info.st_mode)
        assert info.st_rdev == 0
    assert image.verification.how == "none"
    assert any("layer 2/2" in line and "importing" in line for line in lines)
    assert umoci_layout.exists()


async def test_the_trees_are_an_overlay(
    store: ImageStore, umoci_layout: Path, tmp_path: Path, run: Callable[..., str], mount: Callable[..., None]
) -> None:
    """The kernel sees what `umoci unpack` makes of the same image."""
    image = await store.pull("localhost/real:v1", "Always")
    merged = tmp_path / "merged"
    mount(merged, "overlay", "lowerdir=" + ":".join(map(str, image.layers)))
    run("umoci", "unpack", "--image", f"{umoci_layout}:v1", tmp_path / "reference")
    run("diff", "-r", "--no-dereference", tmp_path / "reference/rootfs", merged)
    assert not (merged / "gone").exists()
    assert (merged / "replaced/new").read_text() == "new"


async def test_an_opaque_directory_hides_what_is_below(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("d/old").bytes(), tar().dir("d/").add("d/.wh..wh..opq").add("d/new").bytes())
    image = await store.pull(APP, "Always")
    assert os.getxattr(image.layers[0] / "d", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.ZstdCompressor().compress, bytes], ids=["gzip", "zstd", "plain"]
)
async def test_compressions_share_one_tree(
    pack: Callable[[bytes], bytes], store: ImageStore, layout: Any, tar: Any, state: Path
) -> None:
    plain = tar().add("f", b"x").bytes()
    first, diff_id = layout.layer(plain)
    layout.image("gz", layers=[(first, diff_id)])
    layout.image(
        "other", layers=[(layout.blob(pack(plain), "application/vnd.oci.image.layer.v1.tar"), diff_id)]
    )
    one, two = (
        await store.pull("localhost/app:gz", "Always"),
        await store.pull("localhost/app:other", "Always"),
    )
    assert one.layers == two.layers
    assert len(list((state / "store/layers").iterdir())) == 1


async def test_a_layer_used_twice_is_there_twice(store: ImageStore, layout: Any, tar: Any) -> None:
    a, b = tar().add("a").bytes(), tar().add("b").bytes()
    layout.image("v1", a, b, a)
    image = await store.pull(APP, "Always")
    assert image.layers[0] == image.layers[2] != image.layers[1]


async def test_the_platform_is_chosen_from_an_index(
    store: ImageStore, layout: Any, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    mine = layout.image("x", tar().add("mine").bytes())
    other = layout.image("y", tar().add("other").bytes(), config={"architecture": "vax"})
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    entries = [
        {**other, "platform": {"os": "linux", "architecture": "vax"}},
        {**mine, "platform": {"os": "linux", "architecture": machine}},
    ]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    layout.tag("multi", layout.blob(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json"))
    image = await store.pull("localhost/app:multi", "Always")
    assert (image.layers[0] / "mine").exists()
    assert image.digest != mine["digest"]
    entries.pop()
    layout.tag("foreign", layout.blob(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json"))
    assert f"no image for linux/{machine} (there are: linux/vax)" in await refused(
        "localhost/app:foreign", ImageNotFound
    )


async def test_a_digest_is_verified_and_remembered(store: ImageStore, layout: Any, tar: Any) -> None:
    entry = layout.image("v1", tar().add("a").bytes())
    pinned = await store.pull(f"localhost/app@{entry['digest']}", "Always")
    assert pinned.verification.how == "digest"
    assert pinned.verification.digest == pinned.digest == entry["digest"]
    tagged = await store.pull(APP, "Always")
    assert (tagged.id, tagged.verification.how) == (pinned.id, "digest")


async def test_by_id(
    store: ImageStore, layout: Any, tar: Any, refused: Callable[..., Awaitable[str]]
) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "Always")
    assert (await store.pull(image.id, "Never")).layers == image.layers
    assert "no image with this id" in await refused("sha256:" + "0" * 64, ImageNotFound)


# -- policies


async def test_never(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes())
    for ref in ("docker.io/library/nginx:1", f"oci:{layout.path}:v1"):
        with pytest.raises(ImageNeverPull, match="is not present on this node") as caught:
            await store.pull(ref, "Never")
        assert caught.value.reason == "ErrImageNeverPull"
    assert (await store.pull(APP, "Never")).id  # this node's own directory is "present"
    with pytest.raises(ImageNeverPull, match="no tag v2"):
        await store.pull("localhost/app:v2", "Never")
    await store.pull(f"oci:{layout.path}:v1", "Always")
    assert (await store.pull(f"oci:{layout.path}:v1", "Never")).id


@pytest.mark.parametrize("policy", ["Always", "IfNotPresent"])
@pytest.mark.parametrize("fresh", [False, True], ids=["same-process", "new-process"])
async def test_a_rebuilt_local_image_is_noticed(
    policy: Any, fresh: bool, store: ImageStore, layout: Any, tar: Any, state: Path, tmp_path: Path
) -> None:
    layout.image("v1", tar().add("old").bytes())
    old = await store.pull(APP, policy)
    again = ImageStore(state, local_images=tmp_path / "local") if fresh else store
    assert (await again.pull(APP, policy)).id == old.id
    layout.manifests.clear()
    layout.image("v1", tar().add("new").bytes())
    image = await again.pull(APP, policy)
    assert image.id != old.id
    assert (image.layers[0] / "new").exists()


async def test_a_present_image_outlives_its_source(
    store: ImageStore,
    layout: Any,
    tar: Any,
    state: Path,
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "IfNotPresent")
    (layout.path / "index.json").unlink()
    for again in (store, ImageStore(state, local_images=tmp_path / "local")):
        assert (await again.pull(APP, "IfNotPresent")).id == image.id
        assert "no such image in" in await refused(APP, ImageNotFound, by=again)


async def test_a_warm_pull_reads_nothing(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "IfNotPresent")
    (layout.path / "blobs").rename(layout.path / "elsewhere")
    assert await store.pull(APP, "IfNotPresent") is image
    assert (await store.pull(APP, "Always")).id == image.id  # the index still says the same


async def test_a_touched_index_is_read_once(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes())
    first = await store.pull(APP, "IfNotPresent")
    layout.image("v2", tar().add("b").bytes())
    image = await store.pull(APP, "IfNotPresent")
    assert image == first
    (layout.path / "oci-layout").unlink()
    assert await store.pull(APP, "IfNotPresent") is image
    (layout.path / "index.json").touch()
    with pytest.raises(ImageNotFound, match="is not an OCI layout"):
        await store.pull(APP, "IfNotPresent")


async def test_an_image_removed_meanwhile_is_imported_again(
    store: ImageStore, layout: Any, tar: Any, state: Path
) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "IfNotPresent")
    (state / "store/images" / f"{image.id.replace(':', '-')}.json").unlink()
    assert (await store.pull(APP, "IfNotPresent")).id == image.id


async def test_a_damaged_record_is_not_believed(
    store: ImageStore, layout: Any, tar: Any, state: Path, tmp_path: Path
) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "IfNotPresent")
    (state / "store/images" / f"{image.id.replace(':', '-')}.json").write_text('{"version": 1, ')
    again = ImageStore(state, local_images=tmp_path / "local")
    assert (await again.pull(APP, "IfNotPresent")).id == image.id
