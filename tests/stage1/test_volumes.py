"""Volumes and mount targets, the hostile ones too."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from executor.pods.launcher import Launcher, LaunchError
from executor.stage1 import nspawn, syscalls

pytestmark = pytest.mark.root


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_empty_volume_is_shared_and_outlives_its_apps(runner: Any, flavor: str) -> None:
    mounts = [{"volume": "data", "path": "/deep/er/data"}]
    one = runner.pods.app(
        "/bin/sh", "-c", "echo one > /deep/er/data/f; stat -c %a:%u /deep/er/data", name="one", mounts=mounts
    )
    two = runner.pods.app("/bin/cat", "/d/f", name="two", mounts=[{"volume": "data", "path": "/d"}])
    volumes = [{"name": "data", "kind": "empty", "mode": "0770", "uid": 7}]
    pod = await runner.pod(runner.pods.make(one, two, volumes=volumes, flavor=flavor))
    assert await (await pod.start("one"))[1].text() == "770:7\n"
    assert await (await pod.start("two"))[1].text() == "one\n"


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_volume_in_memory(runner: Any, flavor: str) -> None:
    volume = {
        "name": "m",
        "kind": "empty",
        "mode": "1777",
        "gantry.io/medium": "Memory",
        "gantry.io/size-limit": "1Mi",
    }
    mounts = [{"volume": "m", "path": "/m"}]
    one = runner.pods.app(
        "/bin/sh", "-c", "echo x > /m/x; dd if=/dev/zero of=/m/big bs=64k count=32", name="one", mounts=mounts
    )
    two = runner.pods.app(
        "/bin/sh", "-c", "cat /m/x; grep ' /m ' /proc/self/mountinfo", name="two", mounts=mounts
    )
    pod = await runner.pod(runner.pods.make(one, two, volumes=[volume], flavor=flavor))
    assert "No space left" in await (await pod.start("one"))[1].text()
    text = await (await pod.start("two"))[1].text()
    assert text.startswith("x\n")
    assert " - tmpfs " in text


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_host_volumes(runner: Any, tmp_path: Path, flavor: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("hello\n")
    os.symlink(source, tmp_path / "link")
    volumes = [
        {"name": "dir", "kind": "host", "source": str(tmp_path / "link")},
        {"name": "file", "kind": "host", "source": str(source / "f")},
        {"name": "ro", "kind": "host", "source": str(source), "readOnly": True},
    ]
    mounts = [
        {"volume": "dir", "path": "/dir"},
        {"volume": "file", "path": "/etc/some/file"},
        {"volume": "ro", "path": "/ro"},
        {"volume": "dir", "path": "/also-ro", "readOnly": True},
    ]
    script = "cat /etc/some/file; echo new > /dir/n; for d in /ro /also-ro /point; do touch $d/x; done; ls -d /point/f"
    points = [{"name": "dir", "path": "/point", "readOnly": True}]
    result = await runner.sh(
        script, mounts=mounts, mountPoints=points, flavor=flavor, pod={"volumes": volumes}
    )
    assert result.lines[0] == "hello"
    assert result.lines[-1] == "/point/f"
    assert result.output.count("Read-only file system") == 3
    assert sorted(os.listdir(source)) == ["f", "n"]


async def test_etc_hosts_may_be_a_volume(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 mine\n")
    volumes = [{"name": "hosts", "kind": "host", "source": str(tmp_path / "hosts")}]
    result = await runner.sh(
        "cat /etc/hosts; grep -c /etc/hosts /proc/self/mountinfo",
        mounts=[{"volume": "hosts", "path": "/etc/hosts"}],
        pod={"volumes": volumes},
    )
    assert result.lines == ["10.0.0.1 mine", "1"]


async def test_termination_log_in_dev(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    volumes = [{"name": "log", "kind": "host", "source": str(tmp_path / "log")}]
    mounts = [{"volume": "log", "path": "/dev/termination-log"}]
    await runner.sh("echo the end > /dev/termination-log", mounts=mounts, pod={"volumes": volumes})
    assert (tmp_path / "log").read_text() == "the end\n"


async def test_nested_mounts_in_any_order(runner: Any) -> None:
    volumes = [{"name": name, "kind": "empty"} for name in ("outer", "inner")]
    mounts = [{"volume": "inner", "path": "/a/b"}, {"volume": "outer", "path": "/a"}]
    script = "touch /a/b/in /a/out; ls /a /a/b; grep -c ' /a' /proc/self/mountinfo"
    result = await runner.sh(script, mounts=mounts, pod={"volumes": volumes})
    assert result.lines == ["/a:", "b", "out", "", "/a/b:", "in", "2"]


async def test_missing_host_source_is_named(runner: Any) -> None:
    volumes = [{"name": "v", "kind": "host", "source": "/no/such/place"}]
    with pytest.raises(LaunchError, match=r"^take volume /no/such/place: No such file or directory$"):
        await runner.sh("true", mounts=[{"volume": "v", "path": "/v"}], pod={"volumes": volumes})


async def test_sub_path(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "v" / "a").mkdir(parents=True)
    (tmp_path / "v" / "a" / "f").write_text("deep\n")
    volumes = [{"name": "v", "kind": "host", "source": str(tmp_path / "v")}]
    mounts = [
        {"volume": "v", "path": "/d", "gantry.io/sub-path": "a"},
        {"volume": "v", "path": "/f", "gantry.io/sub-path": "a/f"},
        {"volume": "v", "path": "/n", "gantry.io/sub-path": "new/dir"},
    ]
    result = await runner.sh("cat /d/f /f; touch /n/x", mounts=mounts, pod={"volumes": volumes})
    assert result.output == "deep\ndeep\n"
    assert (tmp_path / "v" / "new" / "dir" / "x").exists()


@pytest.mark.parametrize("path", ["../secret", "out", "out/secret", "abs", "abs/secret"])
async def test_sub_path_cannot_leave_its_volume(
    runner: Any, tmp_path: Path, host_file: Path, path: str
) -> None:
    volume = tmp_path / "v"
    volume.mkdir()
    (volume / "out").symlink_to("..")
    (volume / "abs").symlink_to(tmp_path)
    volumes = [{"name": "v", "kind": "host", "source": str(volume)}]
    mounts = [{"volume": "v", "path": "/x", "gantry.io/sub-path": path}]
    with pytest.raises(LaunchError, match="Invalid cross-device link"):
        await runner.sh("cat /x/secret /x", mounts=mounts, pod={"volumes": volumes})


async def test_symlinks_in_mount_targets_stay_inside(runner: Any, tmp_path: Path) -> None:
    """An image whose mount target is a link to a path of the host: the volume lands on that path of the app."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "abs").symlink_to(outside)
    (layer / "up").symlink_to("../../../../../.." + str(outside))
    (layer / "magic").symlink_to("/proc/self/root")
    volumes = [{"name": "v", "kind": "empty"}]
    for target in ("/abs", "/up", "/abs/below"):
        script = f"touch {target}/x; grep -c ' {outside}' /proc/self/mountinfo"
        mounts = [{"volume": "v", "path": target}]
        result = await runner.sh(script, mounts=mounts, pod={"volumes": volumes, "layers": (layer,)})
        assert result.output == "1\n"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
async def test_system_directories_may_not_be_links(runner: Any, tmp_path: Path, name: str) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / name).symlink_to("/etc")
    with pytest.raises(LaunchError, match=rf"^mount /?{name}.*: Too many levels of symbolic links$"):
        await runner.sh("true", pod={"layers": (layer,)})


async def test_resolv_conf_as_a_dangling_link(runner: Any, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc" / "resolv.conf").symlink_to("../run/resolve/stub.conf")
    result = await runner.sh("cat /etc/resolv.conf; ls /run/resolve", pod={"layers": (layer,)})
    assert result.lines[-1] == "stub.conf"
    assert result.output.startswith(Path("/etc/resolv.conf").read_text())


async def test_a_working_directory_cannot_be_a_magic_link(runner: Any) -> None:
    with pytest.raises(LaunchError, match=r"^chdir /proc/1/cwd: Too many levels"):
        await runner.sh("pwd", workingDirectory="/proc/1/cwd", pod={"user_namespace": "host"})


@pytest.mark.parametrize("flavor", ["linux", "fly", "nspawn"])
async def test_volumes_of_the_image_s_own(runner: Any, tmp_path: Path, flavor: str) -> None:
    """What the image has there, with its owners; a mount; writable below a read-only root; new at every start."""
    if flavor == "nspawn" and nspawn.why_not():
        pytest.skip(nspawn.why_not())
    layer = tmp_path / "layer"
    (layer / "data/deep").mkdir(parents=True)
    (layer / "data/file").write_text("of the image\n")
    os.chown(layer / "data/file", 1234, 2345)
    (layer / "link").symlink_to("data/deep")
    script = (
        "cat /data/file; stat -c %u:%g /data/file; echo x >> /data/file; touch /data/new /fresh/new && echo written; "
        "touch /new || echo read-only; grep -c ' /data \\| /fresh \\| /data/deep ' /proc/self/mountinfo; ls /data/new"
    )
    volumes = [{"name": "v", "kind": "empty"}]
    app = runner.pods.app(
        *("/bin/sh", "-c", script),
        mounts=[{"volume": "v", "path": "/fresh/v"}],
        readOnlyRootFS=True,
        **{"gantry.io/image-volumes": ["/data", "/fresh", "/link"]},
    )
    pod = await runner.pod(runner.pods.make(app, volumes=volumes, layers=(layer,), flavor=flavor))
    for _ in range(2):
        _, output = await pod.start()
        lines = (await output.text()).splitlines()
        assert lines[:3] == ["of the image", "1234:2345", "written"]
        assert lines[-3:] == ["read-only", "3", "/data/new"]
        await pod.ended()
        await pod.sandbox.remove_app("app")
    assert (layer / "data/file").read_text() == "of the image\n"


@pytest.mark.parametrize("path", ["/", "data", "//"])
async def test_paths_that_are_no_volumes(runner: Any, path: str) -> None:
    with pytest.raises(LaunchError, match="is not a path below /"):
        await runner.sh("true", **{"gantry.io/image-volumes": [path]})


@pytest.fixture
def shared_place(tmp_path: Path) -> Iterator[Path]:
    """A shared mount, in a mount namespace that this thread, and what it starts, is in until the test has ended."""
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    here = os.getcwd()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    try:
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        place = tmp_path / "place"
        place.mkdir()
        syscalls.mount("tmpfs", str(place), "tmpfs", 0, "size=1m")
        syscalls.mount("none", str(place), None, 1 << 20)  # MS_SHARED
        yield place
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWNS)
        os.chdir(here)  # it is the root now
        os.close(home)


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_mounts_travel_as_asked(shared_place: Path, pods: Any, flavor: str) -> None:
    """From the host to the app; and back from a privileged one only, which here mounts what the other then sees."""
    (shared_place / "late").mkdir()
    (shared_place / "back").mkdir()
    volumes = [{"name": "v", "kind": "host", "source": str(shared_place)}]

    def app(name: str, way: str, script: str, **more: Any) -> dict[str, Any]:
        mounts = [{"volume": "v", "path": "/v", "gantry.io/propagation": way}]
        return cast("dict[str, Any]", pods.app("/bin/sh", "-c", script, name=name, mounts=mounts, **more))

    see = "until [ -e /v/late/file ]; do usleep 10000; done; mount -t tmpfs x /v/back; touch /v/back/file; echo seen"
    privileged = {"annotations": [{"name": "gantry.io/privileged", "value": "true"}]}
    one = app("one", "HostToContainer", see)
    both = app("both", "Bidirectional", see, **privileged)
    none = app("none", "None", "sleep 0.1; ls /v/late")
    launcher = await Launcher.start()
    try:
        for chosen, comes_back in ((one, False), (both, True), (none, False)):
            exits: asyncio.Queue[Any] = asyncio.Queue()
            sandbox = await launcher.run_pod(
                pods.make(chosen, volumes=volumes, flavor=flavor), exits.put_nowait, print
            )
            read_end, write_end = os.pipe()
            await sandbox.start_app(chosen["name"], stdin=None, stdout=write_end, stderr=write_end)
            os.close(write_end)
            syscalls.mount("tmpfs", str(shared_place / "late"), "tmpfs", 0, "size=64k")
            (shared_place / "late" / "file").touch()
            await asyncio.wait_for(exits.get(), 60)
            with os.fdopen(read_end) as file:
                assert ("seen" in file.read()) == (chosen is not none)
            back = str(shared_place / "back")
            assert (back in Path("/proc/thread-self/mountinfo").read_text()) == comes_back
            if comes_back:
                syscalls.umount(back)
            for name in ("late/file", "back/file"):
                (shared_place / name).unlink(missing_ok=True)
            syscalls.umount(str(shared_place / "late"))
            await sandbox.stop()
    finally:
        await launcher.close()


async def test_mounts_that_cannot_travel_are_refused(runner: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    volumes = [{"name": "v", "kind": "host", "source": str(place)}, {"name": "e", "kind": "empty"}]
    mounts = [{"volume": "v", "path": "/v", "gantry.io/propagation": "HostToContainer"}]
    numbers = Path("/proc/self/mountinfo").read_text().splitlines()
    root = next(line.split() for line in numbers if line.split()[4] == "/")
    if not any(tag.startswith(("shared:", "master:")) for tag in root[6 : root.index("-")]):
        with pytest.raises(
            LaunchError, match=r"pass mounts on below .*: / is not a shared mount, nor a slave"
        ):
            await runner.sh("true", mounts=mounts, pod={"volumes": volumes})
    for entry, message in (
        ({"volume": "v", "path": "/v", "gantry.io/propagation": "Bidirectional"}, "for privileged apps"),
        ({"volume": "e", "path": "/v", "gantry.io/propagation": "HostToContainer"}, "not of kind host"),
        (
            {"volume": "v", "path": "/v", "gantry.io/propagation": "Sideways"},
            "is none of None, HostToContainer",
        ),
    ):
        with pytest.raises(LaunchError, match=message):
            await runner.sh("true", mounts=[entry], pod={"volumes": volumes})


@pytest.mark.parametrize("medium", ["", "Memory"])
async def test_a_path_that_is_made_has_the_volume_s_rights(runner: Any, medium: str) -> None:
    """As the kubelet makes them: who may write to the volume may write there, and its group has it."""
    volume = {"name": "v", "kind": "empty", "mode": "2777", "gid": 3000, "gantry.io/medium": medium}
    result = await runner.sh(
        "stat -c '%g %a' /all /all/a /all/a/b; touch /deep/x && echo written",
        user="1234",
        group="2345",
        mounts=[
            {"volume": "v", "path": "/deep", "gantry.io/sub-path": "a/b"},
            {"volume": "v", "path": "/all"},
        ],
        pod={"volumes": [volume]},
    )
    assert result.lines == ["3000 2777"] * 3 + ["written"]
