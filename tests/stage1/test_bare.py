"""The mount namespace that pods begin with a copy of."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.stage1 import bare, ops, syscalls
from tests.ground import mounts

pytestmark = pytest.mark.root


def in_a_child(check: Callable[[], None]) -> None:
    """Run it in a process of its own, and a mount namespace that tells nobody."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
            check()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def kinds() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.partition(" - ")[2].split()[0] for line in lines}


def test_it_has_no_cgroups_and_we_are_where_we_were(tmp_path: Path) -> None:
    def check() -> None:
        os.chdir(tmp_path)
        before, mounted = os.readlink("/proc/self/ns/mnt"), mounts(tmp_path)
        made = bare.make(())
        assert os.readlink("/proc/self/ns/mnt") == before
        assert mounts(tmp_path) == mounted
        assert Path.cwd() == tmp_path
        syscalls.setns(made.namespace, syscalls.CLONE_NEWNS)
        assert kinds().isdisjoint({"cgroup", "cgroup2", "devpts"})
        assert {"proc", "sysfs"} <= kinds()
        assert not list(Path("/sys/fs/cgroup").iterdir())

    in_a_child(check)


def test_what_is_below_its_roots_can_be_opened_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "root" / "pod").mkdir(parents=True)
    (tmp_path / "root" / "pod" / "tasks").write_text("1\n")
    (tmp_path / "rooted").write_text("2\n")

    def check() -> None:
        made = bare.make([str(tmp_path / "root")])
        syscalls.mount("tmpfs", str(tmp_path / "root"), "tmpfs", 0)
        for name, text in (("root/pod/tasks", b"1\n"), ("rooted", b"2\n")):
            fd = made.open(str(tmp_path / name), os.O_RDONLY)
            assert os.read(fd, 10) == text
            assert not os.get_inheritable(fd)

    in_a_child(check)


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bare.make([str(tmp_path / "missing")])


def test_inits_begin_with_nothing_that_could_be_written_to() -> None:
    def check() -> None:
        made = bare.make(())
        syscalls.setns(made.void, syscalls.CLONE_NEWNS)
        assert set(os.listdir("/")) == {*ops.DIRECTORIES, ops.MORE, "empty", "null"}
        assert not any(os.listdir(f"/{name}") for name in (*ops.DIRECTORIES, ops.MORE, "empty"))
        assert os.stat("/null").st_rdev == os.makedev(1, 3)
        for path in ("/x", "/empty/x", f"/{ops.MORE}/x"):
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(path)
        syscalls.mount("proc", "/proc", "proc", 0)
        assert kinds() == {"tmpfs", "devtmpfs", "proc"}

    in_a_child(check)


def test_apps_begin_with_nothing_but_places_that_nobody_can_write_to() -> None:
    def check() -> None:
        made = bare.make(())
        syscalls.setns(made.ground, syscalls.CLONE_NEWNS)
        places = {str(number) for number in range(ops.PLACES)}
        assert set(os.listdir("/")) == {*places, "dev", ops.FURTHER}
        assert not any(os.listdir(f"/{name}") for name in (*places, ops.FURTHER))
        for path in ("/x", "/0/x", f"/{ops.FURTHER}/x", "/dev/x"):
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(path)
        for name in ("null", "console", "tty"):
            with pytest.raises(OSError, match="Read-only"):
                os.chmod(f"/dev/{name}", 0o600)
        with open("/dev/zero", "rb") as zero, open("/dev/null", "wb", buffering=0) as null:
            assert null.write(zero.read(8)) == 8
        syscalls.mount("proc", "/0", "proc", 0)
        mounted = Path("/0/self/mountinfo").read_text().splitlines()
        assert [line.split()[4] for line in mounted] == ["/", "/0"]

    in_a_child(check)


def test_what_is_mounted_on_the_ground_s_root_is_the_root() -> None:
    """And of the user namespaces that are made there, nothing is shown that lies below (mount_namespaces(7))."""

    def check() -> None:
        made = bare.make(())
        host = os.stat("/").st_ino, os.stat("/").st_dev
        syscalls.setns(made.ground, syscalls.CLONE_NEWNS)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        below = os.stat("/").st_dev
        syscalls.mount("tmpfs", "/", "tmpfs", 0)
        context = ops.Context({"root": os.open("/..", os.O_PATH | os.O_DIRECTORY)})
        ops.ChangeRoot().execute(context)
        root = os.stat("/").st_dev
        assert root not in (below, host[1])
        os.mkdir("/proc")
        syscalls.mount("proc", "/proc", "proc", 0)
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        syscalls.setns(own, syscalls.CLONE_NEWNS)
        assert os.stat("/").st_dev == os.stat("/..").st_dev == root
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        with pytest.raises(OSError, match="Invalid argument"):
            syscalls.umount("/")
        assert os.stat("/").st_dev == root
        assert [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()] == [
            "/",
            "/proc",
        ]

    in_a_child(check)
