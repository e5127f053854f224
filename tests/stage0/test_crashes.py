"""Imports that run beside one another, are given up, or are killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import (
    ImageStore,
)

pytestmark = pytest.mark.root

APP = "localhost/app:v1"


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
        outputs.append(process.communicate(timeout=90)[0])
        assert process.returncode == 0
    assert sum(output.count(": done\n") for output in outputs) == 1
    assert len({line for output in outputs for line in output.splitlines() if line.startswith("image")}) == 1


@pytest.mark.parametrize("moment", ["resolving", "importing", "unpacking"])
async def test_kill_9_leaves_nothing_to_believe(
    moment: str,
    store: ImageStore,
    layout: Any,
    tar: Any,
    state: Path,
    tmp_path: Path,
    left_behind: Callable[[], list[str]],
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
        deadline = time.monotonic() + 60
        while not list((state / "store/tmp").glob("*/tree/second")):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    if writer is not None:
        os.close(writer)
    assert [p for p in left_behind() if not p.startswith("tmp/")] == []
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
