"""ImageStore over OCI layouts: policies, verification, concurrency, crashes."""

import asyncio
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from executor.stage0 import (
    ImageBroken,
    ImageError,
    ImageNeverPull,
    ImageNotFound,
    ImageStore,
    InvalidImageName,
    StoreError,
)
from executor.stage0.streams import Limits

pytestmark = pytest.mark.root

APP = "localhost/app:v1"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(tmp_path: Path, state: Path) -> ImageStore:
    limits = Limits(unpacked_bytes=64 << 20, entries=500, ratio=100, ratio_from=8 << 20)
    return ImageStore(state, local_images=tmp_path / "local", limits=limits)


def left_behind(state: Path) -> list[str]:
    """Anything in the store that could be believed, or that nobody will clean up."""
    store = state / "store"
    return [
        str(p.relative_to(store))
        for part in ("layers", "images", "names", "tmp")
        for p in (store / part).iterdir()
    ]


async def refused(store: ImageStore, ref: str, kind: type[ImageError] = ImageBroken) -> str:
    with pytest.raises(kind) as caught:
        await store.pull(ref, "Always")
    message = str(caught.value)
    assert message.startswith(f"{ref}: ")
    assert "\n" not in message
    return message


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
    store: ImageStore, layout: Any, tar: Any, tmp_path: Path
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
        store, "localhost/app:foreign", ImageNotFound
    )


async def test_a_digest_is_verified_and_remembered(store: ImageStore, layout: Any, tar: Any) -> None:
    entry = layout.image("v1", tar().add("a").bytes())
    pinned = await store.pull(f"localhost/app@{entry['digest']}", "Always")
    assert pinned.verification.how == "digest"
    assert pinned.verification.digest == pinned.digest == entry["digest"]
    tagged = await store.pull(APP, "Always")
    assert (tagged.id, tagged.verification.how) == (pinned.id, "digest")


async def test_by_id(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "Always")
    assert (await store.pull(image.id, "Never")).layers == image.layers
    assert "no image with this id" in await refused(store, "sha256:" + "0" * 64, ImageNotFound)


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
    store: ImageStore, layout: Any, tar: Any, state: Path, tmp_path: Path
) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "IfNotPresent")
    (layout.path / "index.json").unlink()
    for again in (store, ImageStore(state, local_images=tmp_path / "local")):
        assert (await again.pull(APP, "IfNotPresent")).id == image.id
        assert "no such image in" in await refused(again, APP, ImageNotFound)


async def test_a_warm_pull_reads_nothing(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes())
    image = await store.pull(APP, "IfNotPresent")
    (layout.path / "blobs").rename(layout.path / "elsewhere")
    assert await store.pull(APP, "IfNotPresent") is image
    assert (await store.pull(APP, "Always")).id == image.id  # the index still says the same


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


# -- refusals


async def test_what_is_not_there(store: ImageStore, layout: Any, tar: Any, tmp_path: Path) -> None:
    layout.image("latest", tar().add("a").bytes())
    local = tmp_path / "local"
    message = await refused(store, "localhost/nope:latest", ImageNotFound)
    assert message == f"localhost/nope:latest: no such image in {local} (there are: app:latest)"
    message = await refused(store, "localhost/app:v9", ImageNotFound)
    assert message == f"localhost/app:v9: no tag v9 in {local}/app (there are: latest)"
    assert "is not an OCI layout" in await refused(store, f"oci:{tmp_path}:x", ImageNotFound)
    bare = ImageStore(tmp_path / "state2")
    assert "--local-images" in await refused(bare, "localhost/app", ImageNotFound)
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
    make: Callable[..., None], words: str, store: ImageStore, layout: Any, tar: Any, state: Path
) -> None:
    make(layout, tar)
    message = await refused(store, APP)
    assert words in message
    assert len(message) < 1000
    # A whole layer of a broken image may stay: it is what its name says.
    assert [p for p in left_behind(state) if not (p.startswith("layers/") and make is _escape)] == []


async def test_a_newer_store_is_left_alone(store: ImageStore, layout: Any, tar: Any, state: Path) -> None:
    layout.image("v1", tar().add("a").bytes())
    (state / "store").mkdir(parents=True)
    (state / "store/version").write_text("2\n")
    assert "has layout '2'" in await refused(store, APP, StoreError)


async def test_a_full_disk_is_a_clean_failure(
    layout: Any, tar: Any, tmp_path: Path, mount: Callable[..., None], run: Callable[..., str]
) -> None:
    """A small tmpfs for a store: the pull fails, says so, and the next one works when there is room."""
    state = tmp_path / "small"
    mount(state, "tmpfs", "size=2m")
    layout.image("v1", tar().add("big", os.urandom(4 << 20)).bytes())
    store = ImageStore(state, local_images=tmp_path / "local")
    assert "No space left on device" in await refused(store, APP, StoreError)
    assert left_behind(state) == []
    run("mount", "-o", "remount,size=16m", state)
    assert (await store.pull(APP, "Always")).id


# -- concurrency and crashes


async def test_concurrent_pulls_are_one(store: ImageStore, layout: Any, tar: Any) -> None:
    layout.image("v1", tar().add("a").bytes(), tar().add("b").bytes())
    lines: list[str] = []
    images = await asyncio.gather(*(store.pull(APP, "Always", progress=lines.append) for _ in range(20)))
    assert len({id(image) for image in images}) == 1
    assert len([line for line in lines if "importing" in line]) == 2


async def test_a_caller_that_gives_up_does_not_stop_the_others(
    store: ImageStore, layout: Any, tar: Any
) -> None:
    layout.image("v1", tar().add("a", os.urandom(1 << 20)).bytes())
    first = asyncio.create_task(store.pull(APP, "Always"))
    second = asyncio.create_task(store.pull(APP, "Always"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).id
    with pytest.raises(asyncio.CancelledError):
        await first


PULL = """
import asyncio, sys
from pathlib import Path
from executor.stage0 import ImageStore
store = ImageStore(Path(sys.argv[1]), local_images=Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
def progress(line):
    print(line, flush=True)
image = asyncio.run(store.pull(sys.argv[3], "Always", progress=progress))
print("image", image.id, flush=True)
"""


def puller(state: Path, local: Path, ref: str = APP) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, state, local, ref],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_import_a_layer_once(layout: Any, tar: Any, state: Path, tmp_path: Path) -> None:
    layout.image("v1", tar().add("a", os.urandom(8 << 20)).bytes())
    processes = [puller(state, tmp_path / "local") for _ in range(3)]
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate(timeout=50)[0])
        assert process.returncode == 0
    assert sum(output.count(": done\n") for output in outputs) == 1
    assert len({line for output in outputs for line in output.splitlines() if line.startswith("image")}) == 1


@pytest.mark.parametrize("moment", ["resolving", "importing", "unpacking"])
async def test_kill_9_leaves_nothing_to_believe(
    moment: str, store: ImageStore, layout: Any, tar: Any, state: Path, tmp_path: Path
) -> None:
    """The layer comes through a fifo, so the import stops in the middle for as long as we like."""
    blob, diff = layout.layer(tar().add("first", b"x" * 1000).add("second", os.urandom(4 << 20)).bytes())
    layout.image("v1", layers=[(blob, diff)])
    path = layout.path / "blobs/sha256" / blob["digest"][7:]
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    process = puller(state, tmp_path / "local")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    while "resolving" not in (line := process.stdout.readline()):
        assert line
    if moment != "resolving":
        while "importing" not in (line := process.stdout.readline()):
            assert line
    writer = None
    if moment == "unpacking":
        writer = os.open(path, os.O_WRONLY)
        os.write(writer, data[: len(data) // 2])
        deadline = time.monotonic() + 20
        while not list((state / "store/tmp").glob("*/tree/second")):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    if writer is not None:
        os.close(writer)
    assert [p for p in left_behind(state) if not p.startswith("tmp/")] == []
    path.unlink()
    path.write_bytes(data)
    image = await store.pull(APP, "IfNotPresent")
    assert (image.layers[0] / "second").stat().st_size == 4 << 20
    assert list((state / "store/tmp").iterdir()) == []  # the next import swept it


async def test_a_living_import_is_not_swept(
    layout: Any, tar: Any, state: Path, tmp_path: Path, store: ImageStore
) -> None:
    blob, diff = layout.layer(tar().add("a", os.urandom(1 << 20)).bytes())
    layout.image("v1", layers=[(blob, diff)])
    layout.image("v2", tar().add("b").bytes())
    path = layout.path / "blobs/sha256" / blob["digest"][7:]
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    process = puller(state, tmp_path / "local")
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    writer = await asyncio.to_thread(os.open, path, os.O_WRONLY)
    try:
        os.write(writer, data[:60_000])
        assert (await store.pull("localhost/app:v2", "Always")).id  # opens, and sweeps, the same store
        for at in range(60_000, len(data), 60_000):
            await asyncio.to_thread(os.write, writer, data[at : at + 60_000])
    finally:
        os.close(writer)
    output, _ = await asyncio.to_thread(process.communicate, timeout=50)
    assert process.returncode == 0
    assert "image sha256:" in output
