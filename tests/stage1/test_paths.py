"""Paths and names that are looked up in a root which an attacker may have made."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.stage1 import channel, pause, process, syscalls, users
from executor.stage1.ops import IN_ROOT, StageError, open_or_make


def _has_openat2() -> bool:
    try:
        os.close(syscalls.openat2(syscalls.AT_FDCWD, "/", os.O_PATH, 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_openat2(), reason="needs openat2 (Linux 5.6)")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A directory that is somebody's root, and its descriptor."""
    path = tmp_path / "root"
    path.mkdir()
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    yield path, fd
    os.close(fd)


def make(fd: int, path: str, *, directory: bool) -> str:
    """Where the kernel says the result is."""
    made = open_or_make(fd, path, IN_ROOT, directory=directory)
    try:
        return os.readlink(f"/proc/self/fd/{made}")
    finally:
        os.close(made)


def test_targets_are_made_with_their_parents(root: tuple[Path, int]) -> None:
    path, fd = root
    assert make(fd, "/a/b/c", directory=True) == f"{path}/a/b/c"
    assert make(fd, "a/file", directory=False) == f"{path}/a/file"
    assert make(fd, "a/file", directory=False) == f"{path}/a/file"
    assert (path / "a/file").is_file()
    assert make(fd, "/", directory=True) == str(path)
    assert make(fd, "../../up", directory=True) == f"{path}/up"


def test_links_stay_inside(root: tuple[Path, int], tmp_path: Path) -> None:
    path, fd = root
    (tmp_path / "outside").mkdir()
    (path / "abs").symlink_to(tmp_path / "outside")
    (path / "rel").symlink_to("../outside")
    assert make(fd, "abs/x", directory=True) == f"{path}{tmp_path}/outside/x"
    assert make(fd, "rel/x", directory=False) == f"{path}/outside/x"
    assert os.listdir(tmp_path / "outside") == []


def test_link_loops_end(root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "a").symlink_to("b")
    (path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        open_or_make(fd, "a", IN_ROOT, directory=True)


def test_magic_links_are_refused(root: tuple[Path, int]) -> None:
    fd = os.open("/", os.O_PATH)
    try:
        with pytest.raises(OSError, match="Too many levels"):
            open_or_make(fd, "/proc/self/cwd", IN_ROOT, directory=True)
    finally:
        os.close(fd)


def test_users(root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text("bad line\nweb:x:10:20::/srv:/bin/sh\nodd:x:no:1::/:\n")
    (path / "etc/group").write_text("www:x:20:web\nextra:x:30:web,x\nother:x:40:x\n")
    assert users.resolve(fd, "web", "www", (7,)) == users.Identity(10, 20, (7, 30), "/srv", "web")
    assert users.resolve(fd, "10", "99", ()) == users.Identity(10, 99, (20, 30), "/srv", "web")
    assert users.resolve(fd, "0", "0", ()) == users.Identity(0, 0, (), "/root", "root")
    assert users.resolve(fd, "55", "0", ()).home == "/"
    assert users.resolve(fd, "/etc/passwd", "/etc/group", ())[:2] == (os.getuid(), os.getgid())
    assert users.resolve(fd, "root", "root", ())[:2] == (0, 0)  # whatever the image's files say
    with pytest.raises(
        StageError, match="user of /etc/passwd: the pod's user namespace does not have its id"
    ):
        users.resolve(fd, "/etc/passwd", "0", (), ids=1 << 30)
    for user, group, message in (
        ("odd", "0", '"odd" user not found'),
        ("0", "none", '"none" group not found'),
        ("/no", "0", "user of /no: No such"),
    ):
        with pytest.raises(StageError, match=f"^{message}"):
            users.resolve(fd, user, group, ())


def test_users_of_large_files_are_not_remembered(root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text("web:x:10:20::/srv:/bin/sh\n" + "# not any one's\n" * 1000)
    before = users._look_up.cache_info().currsize
    assert users.resolve(fd, "web", "20", ()) == users.Identity(10, 20, (), "/srv", "web")
    assert users._look_up.cache_info().currsize == before


def test_a_passwd_that_is_no_file_does_not_block(root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "etc").mkdir()
    os.mkfifo(path / "etc/passwd")
    (path / "etc/group").symlink_to("/proc/self/environ")
    assert users.resolve(fd, "5", "6", ()) == users.Identity(5, 6, (), "/")


def test_programs(root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    path, fd = root
    for name in ("one", "two"):
        (path / name).mkdir()
        (path / name / "prog").touch(mode=0o755)
    (path / "one/prog").chmod(0o644)
    (path / "one/dir").mkdir()
    assert process.find_program(fd, "prog", "/one:/two") == "/two/prog"
    assert process.find_program(fd, "/one/prog", "") == "/one/prog"
    monkeypatch.chdir(path)
    assert process.find_program(fd, "./two/prog", "") == "./two/prog"
    for name, message in (
        ("dir", "executable file not found"),
        ("/none", "No such file"),
        ("two/none", "No such file"),
    ):
        with pytest.raises(StageError, match=f"^exec {name}: {message}"):
            process.find_program(fd, name, "/one:/two")


def test_long_messages_and_descriptors_arrive() -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        for size in (10, 1_000_000):
            channel.send(ours, ("x" * size, size), [ours.fileno()])
            message, fds = channel.receive(theirs)
            assert message == ("x" * size, size)
            assert len(fds) == 1
            assert os.fstat(fds[0]).st_ino == os.fstat(ours.fileno()).st_ino
            os.close(fds[0])
        ours.close()
        assert channel.receive(theirs) == (None, [])


def test_pause_program_is_well_formed() -> None:
    image = pause.image()
    if image is not None:
        assert image[:4] == b"\x7fELF"
        assert len(image) < 256
        assert int.from_bytes(image[24:32], "little") == 0x400000 + 120
