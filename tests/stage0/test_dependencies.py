"""ACIs that depend on others: what lies above what, whitelists over all of it, circles, trust of each."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import ImageBroken, ImageError, ImageNotFound, ImageStore, ImageUntrusted
from executor.stage0.trust import Gate, Policy

pytestmark = pytest.mark.root


def on(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"imageName": name, **more} for name in names]


@pytest.fixture
def fetched(store: ImageStore, make_aci: Callable[..., Path]) -> Callable[..., Awaitable[Any]]:
    """await fetched(NAME, {path: content}, **manifest fields): make an ACI and bring it into the store."""

    async def call(name: str, files: dict[str, str] | None = None, **fields: Any) -> Any:
        return await store.pull(f"file://{make_aci(name, files, **fields)}", "Always")

    return call


@pytest.fixture
def merged(tmp_path: Path, mount: Callable[..., None]) -> Callable[[Any], dict[str, str]]:
    """What the kernel shows of an image: path → content."""

    def call(image: Any) -> dict[str, str]:
        target = tmp_path / f"merged-{len(list(tmp_path.glob('merged-*')))}"
        (tmp_path / "empty").mkdir(exist_ok=True)
        layers = [*image.layers, tmp_path / "empty"]  # overlay wants two at least
        mount(target, "overlay", "lowerdir=" + ":".join(map(str, layers)))
        return {str(p.relative_to(target)): p.read_text() for p in sorted(target.rglob("*")) if p.is_file()}

    return call


async def test_the_order_of_the_spec(fetched: Any, merged: Any) -> None:
    """A → [B, C], C → [D] is rendered as B, D, C, A."""
    b = await fetched("x/b", {"b": "b", "bc": "b", "bd": "b", "ab": "b"})
    d = await fetched("x/d", {"d": "d", "bd": "d", "cd": "d"})
    c = await fetched("x/c", {"c": "c", "bc": "c", "cd": "c"}, dependencies=on("x/d"))
    a = await fetched("x/a", {"a": "a", "ab": "a"}, dependencies=on("x/b", "x/c"))
    assert a.layers == (a.layers[0], *c.layers, *b.layers)
    assert c.layers[1:] == d.layers
    assert merged(a) == {"a": "a", "b": "b", "c": "c", "d": "d", "ab": "a", "bc": "c", "bd": "d", "cd": "c"}
    assert [fact.subject for fact in a.verification.dependencies] == ["x/b", "x/d", "x/c"]


async def test_a_layer_that_is_below_twice_is_mounted_once(fetched: Any, merged: Any) -> None:
    await fetched("x/base", {"f": "base", "g": "base"})
    await fetched("x/one", {"f": "one"}, dependencies=on("x/base"))
    await fetched("x/two", {"h": "two"}, dependencies=on("x/base"))
    top = await fetched("x/top", {"t": "t"}, dependencies=on("x/one", "x/two"))
    assert len(top.layers) == len(set(top.layers)) == 4
    assert merged(top)["f"] == "base"  # two's base lies above one


async def test_a_whitelist_covers_dependencies(
    fetched: Any, merged: Any, state: Path, store: ImageStore
) -> None:
    await fetched("x/base", {"etc/keep": "k", "etc/drop": "d", "bin/tool": "t", "over": "base"})
    image = await fetched(
        "x/app", {"own": "o", "other": "o", "over": "app"}, dependencies=on("x/base"),
        pathWhitelist=["/etc/keep", "/own", "/over", "/nowhere", "/bin"],
    )  # fmt: skip
    assert len(image.layers) == 1
    assert merged(image) == {"etc/keep": "k", "own": "o", "over": "app"}
    assert (image.layers[0] / "bin").is_dir()
    record = json.loads((state / f"store/images/{image.id}.json").read_text())
    assert len(record["sources"]) == 2
    assert (await store.pull(image.id, "Never")).layers == image.layers
    above = await fetched("x/above", {"z": "z"}, dependencies=on("x/app"))
    assert merged(above) == {"etc/keep": "k", "own": "o", "over": "app", "z": "z"}


async def test_what_a_whitelist_copies(store: ImageStore, tar: Any, tmp_path: Path, make_aci: Any) -> None:
    """Owners, modes, times, links and attributes are those of the image."""
    plain = make_aci("x/y", pathWhitelist=["/d", "/d/f", "/d/h", "/d/l", "/d/p"]).read_bytes()
    import gzip

    head = gzip.decompress(plain)[: 512 + 1024]
    made = tar().dir("rootfs/d", uid=5, gid=6, mode=0o2750, mtime=77)
    made.add(
        "rootfs/d/f", b"x", uid=7, gid=8, mode=0o4711, mtime=99, pax_headers={"SCHILY.xattr.user.a": "b"}
    )
    made.hard("rootfs/d/h", "rootfs/d/f").link("rootfs/d/l", "/etc/x").add(
        "rootfs/d/p", kind=b"6", mode=0o640
    )
    at = head.index(b"rootfs", 512) if b"rootfs" in head[512:] else len(head)
    path = tmp_path / "a.aci"
    path.write_bytes(head[: at - at % 512] + made.bytes())
    (tree,) = (await store.pull(f"file://{path}", "Always")).layers
    info = (tree / "d/f").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, int(info.st_mtime), info.st_nlink) == (
        7,
        8,
        0o4711,
        99,
        2,
    )
    assert (tree / "d/h").stat().st_ino == info.st_ino
    assert os.getxattr(tree / "d/f", "user.a") == b"b"
    assert os.readlink(tree / "d/l") == "/etc/x"
    assert (tree / "d/p").is_fifo()
    info = (tree / "d").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, int(info.st_mtime)) == (5, 6, 0o2750, 77)


async def test_by_id_labels_and_size(fetched: Any, make_aci: Any, store: ImageStore, refused: Any) -> None:
    labels = [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}]
    if os.uname().machine != "x86_64":
        labels[1]["value"] = os.uname().machine
    one = await fetched("x/base", {"v": "1"}, labels=[*labels, {"name": "version", "value": "1"}])
    two = await fetched("x/base", {"v": "2"}, labels=[*labels, {"name": "version", "value": "2"}])
    for wanted, expected in (
        ({"labels": [{"name": "version", "value": "1"}]}, one), ({"imageID": two.id}, two),
        ({"imageID": one.id[: 7 + 64]}, one),
    ):  # fmt: skip
        top = await fetched("x/top", {"t": json.dumps(wanted)}, dependencies=on("x/base", **wanted))
        assert top.layers[1:] == expected.layers
    path = make_aci("x/size", dependencies=on("x/base", imageID=one.id, size=3))
    assert "dependency x/base: has " in await refused(f"file://{path}", ImageBroken)
    assert "where 3 are wanted" in await refused(f"file://{path}", ImageBroken)


async def test_circles(
    store: ImageStore, fetched: Any, make_aci: Any, refused: Callable[..., Awaitable[str]]
) -> None:
    await fetched("x/a", {"v": "first"})
    b = await fetched("x/b", dependencies=on("x/a"))
    a = await fetched(
        "x/a", {"v": "second"}, dependencies=on("x/b")
    )  # of an older x/a: no circle in what is there
    assert a.layers[1:] == b.layers
    path = make_aci("x/self", dependencies=on("x/self"))
    message = await refused(f"file://{path}", ImageBroken)
    assert message.endswith("dependencies go in a circle: x/self → x/self")


async def test_a_long_chain(fetched: Any) -> None:
    """What is in the store has been resolved once, however deep it is."""
    await fetched("x/n0")
    for number in range(1, 30):
        image = await fetched(f"x/n{number}", {f"f{number}": ""}, dependencies=on(f"x/n{number - 1}"))
    assert len(image.layers) == 30


async def test_a_missing_dependency(
    store: ImageStore,
    make_aci: Any,
    refused: Callable[..., Awaitable[str]],
    left_behind: Callable[[], list[str]],
) -> None:
    path = make_aci("x/app", dependencies=on("localhost/nothing/here"))
    message = await refused(f"file://{path}", ImageError)
    assert "dependency localhost/nothing/here: " in message
    assert not [name for name in left_behind() if name.startswith(("images/", "names/", "tmp/"))]
    assert ImageNotFound.reason == "ErrImagePull"


async def test_each_dependency_has_to_be_trusted(
    store: ImageStore, fetched: Any, make_aci: Any, state: Path, tmp_path: Path
) -> None:
    await fetched("localhost/base")
    path = make_aci("x/app", {"a": "b"}, dependencies=on("localhost/base"))
    mine = {"prefixes": {f"file:{tmp_path}": "none"}}
    strict = ImageStore(state, trust=Gate(Policy.from_table(mine)))
    with pytest.raises(ImageError, match="dependency localhost/base: "):
        await strict.pull(f"file://{path}", "Always")
    image = await store.pull(f"file://{path}", "Always")
    with pytest.raises(
        ImageUntrusted, match="dependency localhost/base: it was imported without a signature"
    ):
        await strict.pull(image.id, "Never")
    with pytest.raises(ImageUntrusted, match="dependency localhost/base: "):
        await strict.pull(f"file://{path}", "IfNotPresent")
