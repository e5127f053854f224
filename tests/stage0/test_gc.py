"""Removing images: what goes, in which order, and what never does; a disk that is full."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import Image, ImageNotFound, ImageRefused, ImageStore, StoreError, inventory
from executor.stage0.cas import Cas
from executor.stage0.gc import collect
from executor.stage0.settings import Collection, Settings
from executor.stage0.streams import Limits

pytestmark = pytest.mark.root

MiB = 1 << 20
FULL = Collection(high_percent=60, low_percent=55, minimum_age=0)
DAY = 24 * 3600


@pytest.fixture
def disk(state: Path, mount: Callable[..., None]) -> Path:
    """The state directory, on a disk of 32 MiB."""
    mount(state, "tmpfs", "size=32m")
    return state


@pytest.fixture
def make(store: ImageStore, layout: Any, tar: Any, state: Path) -> Callable[..., Awaitable[Image]]:
    """await make(name, idle=SECONDS, size=MiB, base=…) → an image of `localhost/app:NAME`, last used so long ago."""

    async def call(name: str, *, idle: float = 0.0, size: int = 8, base: bytes = b"") -> Image:
        own = tar().add(name, os.urandom(size * MiB)).bytes()
        layout.image(name, *([base] if base else []), own)
        image = await store.pull(f"localhost/app:{name}", "Always")
        aged(state, image, idle)
        return image

    return call


def aged(state: Path, image: Image, idle: float) -> None:
    when = time.time() - idle
    for path in (Cas(state / "store", Limits()).used_path(image.id), record_of(state, image)):
        os.utime(path, (when, when))


def record_of(state: Path, image: Image) -> Path:
    return Cas(state / "store", Limits()).image_path(image.id)


async def test_the_unused_for_longest_go_first(disk: Path, make: Callable[..., Awaitable[Image]]) -> None:
    """24 of 32 MiB: down to 55 %."""
    new, old, middle = await make("new", idle=10), await make("old", idle=30), await make("middle", idle=20)
    done = collect(disk, FULL)
    assert done.images == [old.id]
    assert done.freed > 7 * MiB
    assert done.full <= 55.0
    assert not old.layers[0].exists()
    assert new.layers[0].exists()
    assert middle.layers[0].exists()
    names = {name for row in inventory.images(disk) for name in row["names"]}
    assert names == {"localhost/app:new", "localhost/app:middle"}
    assert collect(disk, FULL).images == []  # below the high mark


async def test_what_is_held_stays(
    disk: Path, store: ImageStore, make: Callable[..., Awaitable[Image]]
) -> None:
    old, new, newer = await make("old", idle=30), await make("new", idle=20), await make("newer", idle=10)
    hold = store.hold(old)
    aged(disk, old, 30)
    done = collect(disk, FULL)
    assert (done.images, done.kept) == ([new.id], [old.id])
    assert old.layers[0].exists()
    with pytest.raises(ImageRefused, match=r"^localhost/app:old: is in use by a pod or a pull"):
        inventory.remove(disk, "localhost/app:old")
    hold.close()
    assert inventory.remove(disk, "localhost/app:old")[:2] == ["localhost/app:old", old.id]
    with pytest.raises(ImageNotFound, match="removed a moment ago"):
        store.hold(old)
    store.hold(newer).close()
    assert list((disk / "store/pins").iterdir()) == []


async def test_what_many_hold_is_held_once(
    disk: Path, store: ImageStore, make: Callable[..., Awaitable[Image]]
) -> None:
    one, other = await make("one"), await make("other")

    def files() -> int:
        return len(list((disk / "store/pins").iterdir()))

    assert store.hold_again(one) is None
    first = store.hold(one)
    again = store.hold_again(one)
    assert again is not None
    assert store.hold_again(other) is None
    more = [store.hold(one) for _ in range(3)]
    assert files() == 1
    for hold in (first, first, *more):
        hold.close()
    assert files() == 1
    with pytest.raises(ImageRefused, match="is in use by a pod or a pull"):
        inventory.remove(disk, "localhost/app:one")
    del again  # forgotten, as by a pod that failed
    assert files() == 0
    assert store.hold_again(one) is None
    inventory.remove(disk, "localhost/app:one")


HOLD = """
import asyncio, sys
from pathlib import Path
from executor.stage0 import ImageStore
store = ImageStore(Path(sys.argv[1]))
hold = store.hold(asyncio.run(store.pull(sys.argv[2], "Never")))
print("held", flush=True)
sys.stdin.read()
"""


def holder(state: Path, image_id: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, state, image_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_a_dead_process_holds_nothing(disk: Path, make: Callable[..., Awaitable[Image]]) -> None:
    images = [await make(name, idle=idle) for name, idle in (("a", 30), ("b", 20), ("c", 10))]
    process = holder(disk, images[0].id)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        assert len(list((disk / "store/pins").iterdir())) == 1
        with pytest.raises(ImageRefused, match="is in use"):
            inventory.remove(disk, images[0].id)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    aged(disk, images[0], 30)
    assert collect(disk, FULL).images == [images[0].id]
    assert list((disk / "store/pins").iterdir()) == []


async def test_shared_layers_stay(disk: Path, make: Callable[..., Awaitable[Image]], tar: Any) -> None:
    base = tar().add("base", os.urandom(8 * MiB)).bytes()
    old = await make("old", idle=30, base=base, size=4)
    new = await make("new", idle=10, base=base, size=8)
    done = collect(disk, Collection(high_percent=60, low_percent=55, minimum_age=0))
    assert done.images == [old.id]
    assert len(done.layers) == 1
    assert old.layers[1] == new.layers[1]
    assert new.layers[1].exists()


async def test_ages(state: Path, make: Callable[..., Awaitable[Image]]) -> None:
    old, new = await make("old", idle=2 * DAY, size=1), await make("new", idle=DAY / 2, size=1)
    assert collect(state, Collection()).images == []
    assert collect(state, Collection(high_percent=100, maximum_age=DAY)).images == [old.id]
    # However full the disk, what was used just now is not removed.
    assert collect(state, Collection(high_percent=0.0001, low_percent=0, minimum_age=DAY)).images == []
    assert collect(state, Collection(high_percent=0.0001, low_percent=0, minimum_age=60)).images == [new.id]
    assert inventory.images(state) == []
    for part in ("layers", "blobs", "names", "used", "pins", "tmp"):
        assert list((state / "store" / part).iterdir()) == []


async def test_what_nobody_refers_to_goes(
    state: Path, store: ImageStore, layout: Any, tar: Any, make: Callable[..., Awaitable[Image]]
) -> None:
    """A pull of two layers of which the second is broken leaves the first for the next try, for a while."""
    kept = await make("kept", size=1)
    good, bad = layout.layer(tar().add("a").bytes()), layout.layer(tar().add("b").bytes())
    layout.image("broken", layers=[good, (bad[0], "sha256:" + "0" * 64)])
    with pytest.raises(Exception, match="layer 2 of 2"):
        await store.pull("localhost/app:broken", "Always")
    layers = state / "store/layers"
    assert len(list(layers.iterdir())) == 2
    assert collect(state, Collection()).layers == []
    for path in layers.iterdir():
        os.utime(path, (1, 1))
    assert collect(state, Collection()).layers == [good[1]]
    assert kept.layers[0].exists()


async def test_a_full_disk_fails_the_pull_and_nothing_else(
    disk: Path,
    store: ImageStore,
    make: Callable[..., Awaitable[Image]],
    left_behind: Callable[[], list[str]],
    refused: Callable[..., Awaitable[str]],
    layout: Any,
    tar: Any,
) -> None:
    running = await make("running", idle=60)
    hold = store.hold(running)
    unused = await make("unused", idle=60)
    before = sorted(left_behind())
    layout.image("big", tar().add("small").bytes(), tar().add("large", os.urandom(20 * MiB)).bytes())
    message = await refused("localhost/app:big", StoreError)
    assert "layer 2 of 2" in message
    assert "No space left on device" in message
    after = sorted(left_behind())
    assert len(after) == len(before) + 1  # the small layer is whole
    assert not [path for path in after if path.startswith("tmp/")]
    assert (running.layers[0] / "running").stat().st_size == 8 * MiB
    assert (await store.pull("localhost/app:running", "IfNotPresent")).id == running.id
    done = collect(disk, Collection(high_percent=45, low_percent=30, minimum_age=0))
    assert done.images == [unused.id]
    assert (await store.pull("localhost/app:big", "Always")).layers[0].exists()
    hold.close()


def test_a_lock_that_is_removed_while_somebody_waits(state: Path) -> None:
    """The waiter ends up with the lock that others will see."""
    cas = Cas(state / "store", Limits())
    cas.open()
    path = state / "store/locks/x"
    inodes: list[int] = []

    def wait() -> None:
        with cas.lock("x"):
            inodes.append(path.stat().st_ino)

    with cas.lock("x"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        path.unlink()
    waiter.join(60)
    assert inodes
    assert collect(state, Collection()).images == []


async def test_a_full_disk_is_collected_at_once(
    disk: Path, layout: Any, tar: Any, make: Callable[..., Awaitable[Image]], tmp_path: Path
) -> None:
    """The executor's collector does not wait for its next look when a pull has failed for want of room."""
    unused = await make("unused", idle=60, size=20)
    rare = Collection(high_percent=60, low_percent=50, minimum_age=10, interval=DAY)
    store = ImageStore(disk, local_images=tmp_path / "local", settings=Settings(gc=rare))
    collecting = asyncio.create_task(store.collect_forever())
    layout.image("big", tar().add("large", os.urandom(20 * MiB)).bytes())
    with pytest.raises(StoreError, match="No space left"):
        await store.pull("localhost/app:big", "Always")
    async with asyncio.timeout(60):
        while unused.layers[0].exists():  # noqa: ASYNC110 - another task removes it, in a thread
            await asyncio.sleep(0.01)
        assert (await store.pull("localhost/app:big", "Always")).layers[0].exists()
    collecting.cancel()
