"""Images and stores that are missing, damaged or malicious: each refused in one line that names the part."""

import gzip
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import (
    ImageNotFound,
    ImageStore,
    InvalidImageName,
    StoreError,
)

pytestmark = pytest.mark.root

APP = "localhost/app:v1"


async def test_what_is_not_there(
    store: ImageStore, layout: Any, tar: Any, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    layout.image("latest", tar().add("a").bytes())
    local = tmp_path / "local"
    message = await refused("localhost/nope:latest", ImageNotFound)
    assert message == f"localhost/nope:latest: no such image in {local} (there are: app:latest)"
    message = await refused("localhost/app:v9", ImageNotFound)
    assert message == f"localhost/app:v9: no tag v9 in {local}/app (there are: latest)"
    assert "is not an OCI layout" in await refused(f"oci:{tmp_path}:x", ImageNotFound)
    bare = ImageStore(tmp_path / "state2")
    assert "--local-images" in await refused("localhost/app", ImageNotFound, by=bare)
    with pytest.raises(InvalidImageName):
        await store.pull("UPPER", "Always")


def _wrong_layer(layout: Any, tar: Any) -> None:
    layout.image("v1", layers=[(layout.layer(tar().add("a").bytes())[0], "sha256:" + "0" * 64)])


def _flipped(layout: Any, tar: Any) -> None:
    blob, diff = layout.layer(tar().add("a", b"content" * 100).bytes())
    layout.image("v1", layers=[(blob, diff)])
    path = layout.path / "blobs/sha256" / blob["digest"][7:]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _replaced(layout: Any, tar: Any) -> None:
    blob, diff = layout.layer(tar().add("a").bytes())
    layout.image("v1", layers=[(blob, diff)])
    data = gzip.compress(tar().add("evil").bytes(), 1, mtime=0)
    (layout.path / "blobs/sha256" / blob["digest"][7:]).write_bytes(
        data[: blob["size"]].ljust(blob["size"], b"\0")
    )


def _truncated(layout: Any, tar: Any) -> None:
    blob, diff = layout.layer(tar().add("a", os.urandom(5000)).bytes())
    layout.image("v1", layers=[(blob, diff)])
    os.truncate(layout.path / "blobs/sha256" / blob["digest"][7:], blob["size"] // 2)


def _missing(layout: Any, tar: Any) -> None:
    blob, diff = layout.layer(tar().add("a").bytes())
    layout.image("v1", layers=[(blob, diff)])
    (layout.path / "blobs/sha256" / blob["digest"][7:]).unlink()


def _no_layers(layout: Any, tar: Any) -> None:
    layout.image("v1", layers=[])


def _few_diff_ids(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), config={"rootfs": {"type": "layers", "diff_ids": []}})


def _path_diff_id(layout: Any, tar: Any) -> None:
    layout.image("v1", layers=[(layout.layer(tar().add("a").bytes())[0], "sha256:../../../../etc")])


def _path_digest(layout: Any, tar: Any) -> None:
    blob, diff = layout.layer(tar().add("a").bytes())
    layout.image("v1", layers=[({**blob, "digest": "sha256:../../index.json"}, diff)])


def _foreign(layout: Any, tar: Any) -> None:
    blob, diff = layout.layer(tar().add("a").bytes())
    layout.image("v1", layers=[({**blob, "urls": ["https://example.com/x"]}, diff)])


def _windows(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), config={"os": "windows"})


def _artifact(layout: Any, tar: Any) -> None:
    layout.image(
        "v1", tar().add("a").bytes(), edit=lambda m: m["config"].update(mediaType="application/x-helm")
    )


def _both(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), edit=lambda m: m.update(manifests=[]))


def _schema1(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), edit=lambda m: m.update(schemaVersion=1))


def _odd_size(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), edit=lambda m: m["layers"][0].update(size=-1))


def _short_size(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), edit=lambda m: m["layers"][0].update(size=3))


def _wrong_manifest(layout: Any, tar: Any) -> None:
    entry = layout.image("v1", tar().add("a").bytes())
    path = layout.path / "blobs/sha256" / entry["digest"][7:]
    path.write_bytes(path.read_bytes().replace(b" ", b"\t"))


def _not_json(layout: Any, tar: Any) -> None:
    layout.tag("v1", layout.blob(b"{nope", "application/vnd.oci.image.manifest.v1+json"))


def _deep_json(layout: Any, tar: Any) -> None:
    layout.tag("v1", layout.blob(b'{"a":' * 100_000, "application/vnd.oci.image.manifest.v1+json"))


def _deep_index(layout: Any, tar: Any) -> None:
    entry = layout.image("x", tar().add("a").bytes())
    for _ in range(5):
        index = {"schemaVersion": 2, "manifests": [entry]}
        entry = layout.blob(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
    layout.tag("v1", entry)


def _many_layers(layout: Any, tar: Any) -> None:
    layer = layout.layer(tar().add("a").bytes())
    layout.image("v1", layers=[layer] * 501)


def _bomb_size(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a", bytes(65 << 20)).bytes())


def _bomb_ratio(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a", bytes(16 << 20)).bytes())


def _bomb_entries(layout: Any, tar: Any) -> None:
    made = tar()
    for i in range(501):
        made.add(f"f{i}")
    layout.image("v1", made.bytes())


def _bomb_trailer(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes() + bytes(65 << 20))


def _escape(layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), tar().link("d", "/tmp").add("d/x").bytes())


def _xz_layer(layout: Any, tar: Any) -> None:
    import lzma

    plain = tar().add("a").bytes()
    blob = layout.blob(lzma.compress(plain), "application/vnd.oci.image.layer.v1.tar+xz")
    layout.image("v1", layers=[(blob, layout.layer(plain)[1])])


BROKEN: list[tuple[Callable[..., None], str]] = [
    (_wrong_layer, "layer 1 of 1"), (_wrong_layer, "expected sha256:000"), (_flipped, "layer 1 of 1"),
    (_replaced, "layer 1 of 1"), (_truncated, "layer 1 of 1"), (_missing, "its blob is missing"),
    (_no_layers, "no layers"), (_few_diff_ids, "config names 0 layers, the manifest 1"),
    (_path_diff_id, "is not a digest"), (_path_digest, "layers[0]: digest"), (_foreign, "foreign layers are refused"),
    (_windows, "for windows"), (_artifact, "not a runnable image"), (_both, "both an image and an index"),
    (_schema1, "schema 1"), (_odd_size, "is not a size"), (_short_size, "longer than the 3 bytes"),
    (_wrong_manifest, "manifest: digest is"), (_not_json, "not JSON"), (_deep_json, "not JSON"),
    (_deep_index, "indexes within one another"), (_many_layers, "501 layers"), (_bomb_size, "larger than the limit"),
    (_bomb_ratio, "decompression bomb"), (_bomb_entries, "more than 500 entries"),
    (_bomb_trailer, "unpacks to more than"), (_escape, "layer 2 of 2"), (_escape, "which is a symlink"),
    (_xz_layer, "compressed with xz"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), BROKEN, ids=[f"{m.__name__[1:]}-{w[:20]}" for m, w in BROKEN])
async def test_broken_images(
    make: Callable[..., None],
    words: str,
    store: ImageStore,
    layout: Any,
    tar: Any,
    state: Path,
    refused: Callable[..., Awaitable[str]],
    left_behind: Callable[[], list[str]],
) -> None:
    make(layout, tar)
    message = await refused(APP)
    assert words in message
    assert len(message) < 1000
    # A whole layer of a broken image may stay: it is what its name says.
    assert [p for p in left_behind() if not (p.startswith("layers/") and make is _escape)] == []


async def test_a_newer_store_is_left_alone(
    store: ImageStore, layout: Any, tar: Any, state: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    layout.image("v1", tar().add("a").bytes())
    (state / "store").mkdir(parents=True)
    (state / "store/version").write_text("2\n")
    assert "has layout '2'" in await refused(APP, StoreError)


async def test_a_full_disk_is_a_clean_failure(
    layout: Any,
    tar: Any,
    store: ImageStore,
    state: Path,
    mount: Callable[..., None],
    run: Callable[..., str],
    refused: Callable[..., Awaitable[str]],
    left_behind: Callable[[], list[str]],
) -> None:
    """A small tmpfs for a store: the pull fails, says so, and the next one works when there is room."""
    mount(state, "tmpfs", "size=2m")
    layout.image("v1", tar().add("big", os.urandom(4 << 20)).bytes())
    assert "No space left on device" in await refused(APP, StoreError)
    assert left_behind() == []
    run("mount", "-o", "remount,size=16m", state)
    assert (await store.pull(APP, "Always")).id
