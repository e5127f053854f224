"""What somebody changes in the store: found at a run where it matters first, and by `verify` wherever it is."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import Image, ImageBroken, ImageStore, check
from executor.stage0.cas import Cas
from executor.stage0.guard import paths
from executor.stage0.split import Joined
from executor.stage0.streams import Hashing, Limits

pytestmark = pytest.mark.root

APP = "localhost/app:v1"


@pytest.fixture
def cas(state: Path) -> Cas:
    return Cas(state / "store", Limits())


@pytest.fixture
def verify(cas: Cas) -> Callable[..., list[str]]:
    def call(image: Image, *, content: bool = True) -> list[str]:
        record = cas.load_image(image.id)
        assert record is not None
        return check.image(cas, record, content=content)

    return call


def of_all_kinds(tar: Any) -> tuple[bytes, bytes]:
    """Two layers with everything that a layer can have."""
    lower = (
        tar()
        .dir("etc/", uid=3, mtime=5)
        .add("etc/passwd", b"root:x:0:0\n")
        .add("bin/app", b"#!\n" * 9, mode=0o4755)
    )
    lower.hard("bin/again", "bin/app").link("sbin", "bin").link("lib", "/usr/lib").add("pipe", kind=b"6")
    lower.add("big", os.urandom(700_000)).add("empty").add(
        "x", b"y", pax_headers={"SCHILY.xattr.user.k": "v"}
    )
    lower.add("twice", b"first").add("twice", b"second, longer").add("gone/file", b"z").add(
        "n" * 150, b"long"
    )
    upper = (
        tar().add("etc/.wh.passwd").dir("gone/").add("gone/.wh..wh..opq", b"ignored").add("deep/er/f", b"1")
    )
    return lower.bytes(), upper.link("twice", "x").bytes()


@pytest.fixture
async def image(store: ImageStore, layout: Any, tar: Any) -> Image:
    layout.image("v1", *of_all_kinds(tar), config={"config": {"Entrypoint": ["/bin/app"]}})
    return await store.pull(APP, "Always")


def base(image: Image) -> Path:
    return image.layers[-1]


async def test_an_image_as_it_was_imported(image: Image, verify: Any, cas: Cas, tar: Any) -> None:
    assert verify(image) == []
    assert verify(image, content=False) == []
    root = os.open(base(image), os.O_RDONLY)
    joined = Joined(base(image).parent / "split", root)
    data = b"".join(iter(lambda: joined.read(1000), b""))
    os.close(root)
    assert data.count(b"first") == data.count(b"second, longer") == 1
    assert (base(image).parent / "split").stat().st_size < 8000


@pytest.mark.parametrize(
    "pack", [lambda d: d, lambda d: d + bytes(100_000), lambda d: d[:-1024], lambda d: d + b"junk" * 400]
)
async def test_the_tar_comes_back_whatever_its_end(
    pack: Callable[[bytes], bytes], store: ImageStore, layout: Any, tar: Any, cas: Cas
) -> None:
    plain = pack(of_all_kinds(tar)[0])
    layout.image("v1", plain)
    image = await store.pull(APP, "Always")
    root = os.open(base(image), os.O_RDONLY)
    joined = Hashing(Joined(base(image).parent / "split", root), "sha256")
    joined.drain()
    os.close(root)
    assert joined.count == len(plain)
    assert joined.digest().replace(":", "-") == base(image).parent.name


async def test_an_aci_and_what_is_rendered_of_it(make_aci: Any, store: ImageStore, verify: Any) -> None:
    await store.pull(f"file://{make_aci('x/base', {'a': 'b', 'c/d': 'e'})}", "Always")
    path = make_aci("x/app", {"f": "g"}, dependencies=[{"imageName": "x/base"}], pathWhitelist=["/f", "/c/d"])
    image = await store.pull(f"file://{path}", "Always")
    assert verify(image) == []
    (image.layers[0] / "c/d").write_text("E")
    (problem,) = verify(image)
    assert problem.endswith("/c/d was changed")


def _rewritten(tree: Path) -> None:
    """The same size and times: only the kernel's own time of change tells."""
    path = tree / "bin/app"
    info = path.stat()
    path.write_bytes(b"#!x" * 9)
    os.chmod(path, 0o4755)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _patched(tree: Path) -> None:
    with (tree / "big").open("r+b") as file:
        file.write(b"nine bytes")


def _fifo_for_a_file(tree: Path) -> None:
    (tree / "empty").unlink()
    os.mkfifo(tree / "empty")


def _link_for_a_file(tree: Path) -> None:
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to("/etc/passwd")


def _swapped(tree: Path) -> None:
    shutil.copytree(tree, tree.with_name("other"), symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    tree.rename(tree.with_name("old"))
    tree.with_name("other").rename(tree)


# what is done to the base layer; whether a run finds it; what verify says of it
TAMPERING: list[tuple[Callable[[Path], object], bool, str]] = [
    (_rewritten, True, "the content of its files was changed"),
    (lambda tree: (tree / "bin/app").chmod(0o755), True, "/bin/a"),
    (lambda tree: (tree / "etc/passwd").write_text("root::0:0\n"), True, "has 10 bytes, the image says 11"),
    (lambda tree: (tree / "etc/ld.so.preload").touch(), True, "/etc: has another time"),
    (lambda tree: (tree / "evil").touch(), True, "another time"),
    (lambda tree: (tree / "etc/passwd").unlink(), True, "No such file"),
    (_link_for_a_file, True, "etc/passwd"),
    (_swapped, True, ""),
    (lambda tree: os.chown(tree / "big", 9, 9), False, "/big: belongs to 9:9, the image says 0:0"),
    (lambda tree: (tree / "big").chmod(0o4755), False, "/big: has mode 4755, the image says 644"),
    (_patched, False, "the content of its files was changed"),
    (lambda tree: os.setxattr(tree / "x", "user.k", b"w"), False, "/x: has other attributes: user.k"),
    (lambda tree: os.setxattr(tree / "big", "trusted.overlay.opaque", b"y"), False, "/big: has other attributes"),
    (lambda tree: os.utime(tree / "big", (1, 1)), False, "/big: has another time"),
    (_fifo_for_a_file, True, "/empty: is not a file any more"),
    (lambda tree: (tree / "gone/more").touch(), False, "/gone"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tamper", "at_run", "words", "fresh"),
    [(*case, False) for case in TAMPERING] + [(*case, True) for case in TAMPERING[::3]],
)
async def test_tampering(
    tamper: Callable[[Path], object], at_run: bool, words: str, fresh: bool, image: Image, store: ImageStore,
    verify: Any, state: Path, tmp_path: Path,
) -> None:  # fmt: skip
    if fresh:
        store = ImageStore(state, local_images=tmp_path / "local")
    tamper(base(image))
    for ref, policy in ((APP, "IfNotPresent"), (APP, "Always"), (APP, "Never"), (image.id, "Never")):
        if at_run:
            with pytest.raises(
                ImageBroken, match=r"layer .*: somebody changed the image in the store"
            ) as caught:
                await store.pull(ref, policy)  # type: ignore[arg-type]
            assert str(caught.value).startswith(f"{ref}: ")
        else:
            assert (await store.pull(ref, policy)).id == image.id  # type: ignore[arg-type]
    problems = verify(image)
    assert any(words in problem for problem in problems), problems
    assert verify(image, content=False)


async def test_a_store_that_was_copied(image: Image, state: Path, run: Callable[..., str]) -> None:
    """A backup has other inodes and times of change; verify reads all of it once and is content."""
    backup = state.with_name("backup")
    run("cp", "-a", state, backup)
    moved = ImageStore(backup)
    with pytest.raises(ImageBroken, match="somebody changed"):
        await moved.pull(image.id, "Never")
    cas = Cas(backup / "store", Limits())
    record = cas.load_image(image.id)
    assert record is not None
    assert check.image(cas, record) == []
    assert (await moved.pull(image.id, "Never")).id == image.id


@pytest.mark.parametrize("field", ["entrypoint", "user", "layers"])
async def test_a_record_that_was_edited(
    field: str, image: Image, store: ImageStore, state: Path, verify: Any
) -> None:
    path = state / f"store/images/{image.id.replace(':', '-')}.json"
    record = json.loads(path.read_text())
    match field:
        case "entrypoint":
            record["config"]["entrypoint"] = ["/bin/evil"]
        case "user":
            record["config"]["user"] = "1234"
        case "layers":
            record["layers"].pop(0)
    path.write_text(json.dumps(record))
    with pytest.raises(ImageBroken, match=r"its record .*somebody changed the image"):
        await store.pull(APP, "Never")
    assert "its record" in verify(image)[0]


async def test_a_document_that_was_edited(image: Image, store: ImageStore, state: Path, verify: Any) -> None:
    path = state / f"store/blobs/{image.id.replace(':', '-')}"
    path.write_bytes(path.read_bytes().replace(b"/bin/app", b"/bin/bad"))
    with pytest.raises(ImageBroken, match="was changed"):
        await store.pull(APP, "Never")
    assert "was changed" in verify(image)[0]


@pytest.mark.parametrize("how", ["gone", "cut", "flipped", "empty"])
@pytest.mark.parametrize("what", ["split", "seal"])
async def test_damaged_notes(how: str, what: str, image: Image, store: ImageStore, verify: Any) -> None:
    path = base(image).parent / what
    data = bytearray(path.read_bytes())
    match how:
        case "gone":
            path.unlink()
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
        case "empty":
            path.write_bytes(b"")
    problems = verify(image)
    assert bool(problems) is (what == "split"), problems
    assert verify(image) == problems  # a broken seal is made anew where the content is right


async def test_what_a_run_looks_at_does_not_grow_with_the_image(
    store: ImageStore, layout: Any, tar: Any
) -> None:
    made = tar()
    for number in range(400):
        made.add(f"d{number % 7}/f{number}")
    layout.image("v1", made.bytes(), config={"config": {"Entrypoint": ["/d1/f1"]}})
    image = await store.pull(APP, "Always")
    assert len(paths(image.config)) < 15
    assert paths(image.config)[-2:] == ("d1", "d1/f1")


async def test_a_file_that_was_replaced_and_lives_on(
    store: ImageStore, layout: Any, tar: Any, verify: Any
) -> None:
    """Its content is not in the way of the hash; the seal still tells, and is not made anew."""
    layout.image("v1", tar().add("a", b"first").hard("b", "a").add("a", b"other").bytes())
    image = await store.pull(APP, "Always")
    assert verify(image) == []
    info = (base(image) / "b").stat()
    (base(image) / "b").write_bytes(b"worst")
    os.utime(base(image) / "b", ns=(info.st_atime_ns, info.st_mtime_ns))
    for _ in range(2):
        (problem,) = verify(image)
        assert problem.endswith("/b was changed")
