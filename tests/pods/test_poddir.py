"""Pod directories and host paths on a real file system."""

import contextlib
import fcntl
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from executor.pods.hostpath import VolumeError, check_host_path
from executor.pods.poddir import Phase, PodDir, PodDirs


@pytest.fixture
def dirs(tmp_path: Path) -> PodDirs:
    made = PodDirs(tmp_path / "pods")
    made.open()
    return made


def forget_lock(pod: PodDir) -> None:
    """As if the executor that held it had died."""
    os.close(pod._lock)


def test_a_pod_goes_through_its_phases(dirs: PodDirs) -> None:
    pod = dirs.create("u-1.1")
    assert pod.path == dirs.root / "embryo" / "u-1.1"
    pod.prepare(["web"])
    pod.write_app("web", "busybox", "sha256:1", [Path("/l/2"), Path("/l/1")])
    pod.write_manifest({"acKind": "PodManifest"})
    pod.move(Phase.PREPARED)
    pod.move(Phase.RUN)
    assert pod.path == dirs.root / "run" / "u-1.1"
    assert (pod.path / "appsinfo/web/lower").read_text() == "/l/2\n/l/1\n"
    assert (pod.path / "pod").read_text() == '{"acKind": "PodManifest"}'
    assert (pod.path / "termination/web").stat().st_mode & 0o777 == 0o666
    pod.log("web", 0).write_text("hello")
    pod.move(Phase.EXITED)
    pod.strip()
    assert [p.name for p in pod.path.iterdir()] == ["logs"]
    pod.remove()
    assert all(not list((dirs.root / phase).iterdir()) for phase in Phase)


def test_one_name_is_one_pod(dirs: PodDirs) -> None:
    pod = dirs.create("u-1.1")
    with pytest.raises(FileExistsError):
        dirs.create("u-1.1")
    pod.remove()


@pytest.mark.parametrize("phase", list(Phase))
def test_leftovers_are_collected_whatever_their_phase(dirs: PodDirs, phase: Phase) -> None:
    gone, alive = dirs.create("gone.1"), dirs.create("alive.1")
    for pod in (gone, alive):
        pod.prepare(["web"])
        pod.move(phase)
    forget_lock(gone)
    assert dirs.collect() == ["gone.1"]
    assert not gone.path.exists()
    assert alive.path.exists()
    alive.remove()


def test_the_lock_is_held_while_the_pod_lives(dirs: PodDirs) -> None:
    pod = dirs.create("u-1.1")
    fd = os.open(pod.path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(fd)
        pod.remove()


def test_termination_messages(dirs: PodDirs, tmp_path: Path) -> None:
    pod = dirs.create("u-1.1")
    pod.prepare(["web"])
    file = pod.path / "termination/web"
    assert pod.termination_message("web", 4096) == ""
    file.write_bytes(b"y" + b"x" * 4999 + b"z")
    assert pod.termination_message("web", 4096) == "x" * 4095 + "z", "its end, as the kubelet has it"
    pod.empty_termination_log("web")
    assert pod.termination_message("web", 4096) == ""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    file.unlink()
    file.symlink_to(secret)
    assert pod.termination_message("web", 4096) == ""
    file.unlink()
    os.mkfifo(file)
    assert pod.termination_message("web", 4096) == ""
    file.unlink()
    file.mkdir()
    assert pod.termination_message("web", 4096) == ""
    pod.remove()


def test_old_logs_are_dropped_and_new_ones_kept(dirs: PodDirs) -> None:
    pod = dirs.create("u-1.1")
    pod.prepare(["web"])
    for name in ("0.log", "1.log", "1.log.1", "2.log", "3.log"):
        (pod.path / "logs/web" / name).write_text("x")
    pod.drop_logs("web", 1)
    assert sorted(p.name for p in (pod.path / "logs/web").iterdir()) == ["2.log", "3.log"]
    pod.remove()


def test_a_directory_that_two_threads_remove_is_gone(dirs: PodDirs, caplog: pytest.LogCaptureFixture) -> None:
    """What is left of a dead pod is removed while the pod itself is."""
    for number in range(20):
        pod = dirs.create(f"u-{number}")
        for place in range(20):
            (pod.path / f"overlay/{place}/upper/a/b").mkdir(parents=True)
        pod.move(Phase.EXITED)
        with ThreadPoolExecutor(2) as threads:
            stripping, removing = threads.submit(pod.strip), threads.submit(pod.remove)
        removing.result()
        with contextlib.suppress(FileNotFoundError):  # it began too late
            stripping.result()
        assert not [path for phase in Phase for path in (dirs.root / phase).iterdir()]
    assert not caplog.messages


def test_two_that_collect_do_not_trip_over_one_another(dirs: PodDirs) -> None:
    for number in range(100):
        pod = dirs.create(f"u-{number}")
        pod.prepare(["web"])
        forget_lock(pod)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(PodDirs(dirs.root).collect) for _ in range(2)]
    found = [name for one in both for name in one.result()]
    assert sorted(found) == sorted(f"u-{number}" for number in range(100))
    assert not [path for phase in Phase for path in (dirs.root / phase).iterdir()]


@pytest.fixture
def things(tmp_path: Path) -> dict[str, Path]:
    there = {name: tmp_path / name for name in ("Directory", "File", "Socket")}
    there["Directory"].mkdir()
    there["File"].write_text("x")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(there["Socket"]))
    listener.close()
    return {**there, "CharDevice": Path("/dev/null"), "Nothing": tmp_path / "Nothing"}


def volume(path: Path, kind: str) -> dict[str, Any]:
    return {"name": "data", "hostPath": {"path": str(path), "type": kind}}


@pytest.mark.parametrize("thing", ["Directory", "File", "Socket", "CharDevice", "Nothing"])
@pytest.mark.parametrize("kind", ["Directory", "File", "Socket", "CharDevice", "BlockDevice"])
def test_host_path_types_are_checked(things: dict[str, Path], thing: str, kind: str) -> None:
    if thing == kind:
        check_host_path(volume(things[thing], kind))
        return
    with pytest.raises(VolumeError, match='volume "data"') as error:
        check_host_path(volume(things[thing], kind))
    assert str(things[thing]) in str(error.value)
    assert not things["Nothing"].exists()


@pytest.mark.parametrize(
    ("thing", "kind", "fine"),
    [
        ("Nothing", "DirectoryOrCreate", True),
        ("Directory", "DirectoryOrCreate", True),
        ("File", "DirectoryOrCreate", False),
        ("Nothing", "FileOrCreate", True),
        ("File", "FileOrCreate", True),
        ("Directory", "FileOrCreate", False),
        ("Nothing", "", True),
        ("Socket", "", True),
        ("Directory", "Tree", False),
    ],
)
def test_host_paths_that_are_made(things: dict[str, Path], thing: str, kind: str, fine: bool) -> None:
    if fine:
        check_host_path(volume(things[thing], kind))
        assert things[thing].is_file() if kind == "FileOrCreate" else things[thing].exists()
    else:
        with pytest.raises(VolumeError):
            check_host_path(volume(things[thing], kind))
