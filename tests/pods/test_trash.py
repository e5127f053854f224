"""What is removed later."""

import asyncio
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from executor.pods.poddir import Phase, PodDirs, remove_layers
from executor.pods.trash import MOST, Trash
from executor.stage0.removal import Known, remove_known
from tests.waiting import until

WORK = "/".join(("work", "work", "incompat", "volatile"))
"""What overlayfs makes in an app's work directory."""
LAYER = ("upper", WORK)


async def test_work_is_begun_in_its_order_by_threads_that_go() -> None:
    trash = Trash()
    done: list[int] = []
    threads: set[threading.Thread] = set()

    def work(number: int) -> None:
        done.append(number)
        threads.add(threading.current_thread())

    await trash.settle()
    for number in range(10):
        trash.later(partial(work, number))
        await asyncio.sleep(0.001)
    await trash.settle()
    assert done == list(range(10))
    for number in range(10, 500):
        trash.later(partial(work, number))
        if number % 100 == 0:
            await trash.settle()
    await trash.settle()
    assert sorted(done) == list(range(500))
    assert len(trash) == 0
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


async def test_who_waits_for_a_disk_gets_company_and_not_more_than_that() -> None:
    trash, meet, more = Trash(), threading.Barrier(5), threading.Semaphore(0)
    for _ in range(100):
        trash.later(more.acquire)
    for _ in range(100):
        more.release()
    await trash.settle()
    for _ in range(4):  # a thread each, or they would not meet the test itself
        trash.later(partial(meet.wait, 60))
    for _ in range(100):
        trash.later(more.acquire)
    await asyncio.to_thread(meet.wait, 60)
    assert sum(thread.name == "gantry-trash" for thread in threading.enumerate()) <= 4
    for _ in range(100):
        more.release()
    await trash.settle()


async def test_what_takes_long_is_in_the_way_of_nobody() -> None:
    trash, go = Trash(), threading.Event()
    long: list[threading.Thread] = []
    short: list[int] = []

    def rest() -> None:
        assert go.wait(60)
        long.append(threading.current_thread())

    for _ in range(10):
        trash.later(lambda: rest)
    for number in range(50):
        trash.later(partial(short.append, number))
    await asyncio.to_thread(until, "all that is short to be done", lambda: len(trash) == 10)
    assert (long, sorted(short)) == ([], list(range(50)))
    go.set()
    await trash.settle()
    assert len(long) == 10
    assert len(set(long)) <= 3


async def test_what_fails_is_told_and_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    trash = Trash()
    done: list[int] = []
    trash.later(partial(os.rmdir, "/proc/self/fd"))
    trash.later(lambda: partial(os.rmdir, "/proc/self/ns"))
    trash.later(partial(done.append, 1))
    await trash.settle()
    assert done == [1]
    assert caplog.text.count("collecting a dead pod failed") == 2


async def test_who_leaves_too_much_waits_until_it_is_less() -> None:
    trash, go = Trash(), threading.Semaphore(0)
    for _ in range(MOST):
        trash.later(partial(go.acquire, timeout=60))
    await asyncio.wait_for(trash.room(), 60)  # there is still some
    trash.later(partial(go.acquire, timeout=60))
    waits = asyncio.create_task(trash.room())
    await asyncio.sleep(0)
    assert not waits.done()
    go.release()
    await asyncio.wait_for(waits, 60)
    assert len(trash) == MOST
    go.release(MOST)
    await asyncio.wait_for(trash.settle(), 60)


def layers(place: Path, *apps: str) -> None:
    for app in apps:
        for name in LAYER:
            (place / app / name).mkdir(parents=True)
        (place / app / LAYER[1] / "dirty").touch()


def test_layers_go_whatever_is_in_them(tmp_path: Path) -> None:
    place, other = tmp_path / "overlay", tmp_path / "other"
    other.mkdir()
    (other / "upper").mkdir()
    layers(place, "a", "b")
    (place / "a/upper/file").write_text("x")
    (place / "a/upper/directory/below").mkdir(parents=True)
    (place / "c").symlink_to(other)
    remove_layers(str(place), ["a", "b", "c", "d"])
    assert not place.exists()
    assert (other / "upper").exists(), "a link was followed"


def test_nothing_is_followed_out_of_a_tree(tmp_path: Path) -> None:
    """Somebody with a hostPath may have put links in place of directories."""
    host, tree = tmp_path / "host", tmp_path / "tree"
    (host / "empty").mkdir(parents=True)
    (host / "hosts").touch()
    tree.mkdir()
    (tree / "etc").symlink_to(host)
    (tree / "deep").mkdir()
    (tree / "deep/etc").symlink_to(host)
    known: Known = {"etc": {"hosts": None, "empty": {}}}
    remove_known(tree, {**known, "deep": known})
    remove_known(tree / "etc", {"hosts": None, "empty": {}})
    remove_known(tree / "missing", known)
    assert sorted(path.name for path in host.iterdir()) == ["empty", "hosts"]


def test_a_pod_s_directory_is_stripped_to_its_logs(tmp_path: Path) -> None:
    dirs = PodDirs(tmp_path / "pods")
    dirs.open()
    pod = dirs.create("u")
    pod.prepare(["a", "b"])
    for app in ("a", "b"):
        pod.write_app(app, "image", "sha256:1", [Path("/l/1")])
        pod.log(app, 0).write_text("line\n")
    pod.write_manifest({})
    pod.move(Phase.EXITED)
    layers(pod.path / "overlay", "a", "b")
    (pod.path / "overlay/b/upper/more").write_text("x")
    (pod.path / "stage1/rootfs/rkt/status").mkdir(parents=True)
    (pod.path / "stage1/rootfs/rkt/status/a").write_text("0")
    (pod.path / "else").mkdir()
    rest = pod.strip_known(["a", "b"])
    assert not (pod.path / "overlay/a").exists()
    assert rest is not None
    rest()
    assert pod.strip_known(["a", "b"]) is None
    assert sorted(str(path.relative_to(pod.path)) for path in pod.path.rglob("*")) == [
        "logs", "logs/a", "logs/a/0.log", "logs/b", "logs/b/0.log",
    ]  # fmt: skip
    pod.remove()
    assert not pod.path.exists()
    assert pod.strip_known(["a", "b"]) is None  # which comes late
    rest()


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from executor.pods.poddir import Phase, PodDirs
root = Path(sys.argv[1], "pods")

def live(left):
    def count(event, _):
        if event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    dirs = PodDirs(root, spread=True)
    dirs.open()
    pod = dirs.create("u")
    pod.prepare(["a"])
    pod.write_app("a", "image", "sha256:1", [Path("/l/1")])
    (pod.path / "overlay/a" / sys.argv[3]).mkdir(parents=True)
    (pod.path / "overlay/a/upper/directory").mkdir(parents=True)
    pod.move(Phase.EXITED)
    pod.strip_known(["a"])()
    pod.remove()

PodDirs(root, spread=True).open()
for killed in range(1000):
    pid = os.fork()
    if not pid:
        live([killed])
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    PodDirs(root, spread=True).collect()
    assert not any(any((root / phase).iterdir()) for phase in Phase)
    assert not list(root.glob("places/*/*"))
    if not status:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
print(killed)
"""


def test_whoever_is_killed_leaves_nothing_that_is_not_collected(tmp_path: Path) -> None:
    """Before every single rename, mkdir and removal in a pod's directory, from its making to its end."""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, tmp_path, root, WORK], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 40
