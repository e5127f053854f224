"""Apps that eat what there is, or trip over what they find: the machine and the pods beside them do not notice."""

import asyncio
import os
import resource
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher, LaunchError
from executor.stage1 import caps, syscalls

pytestmark = pytest.mark.root

FLAVORS = pytest.mark.parametrize("flavor", ["linux", "fly"])


@pytest.fixture
async def neighbour(runner: Any) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A pod beside the one of the test; what the fixture gives asks it for an answer."""
    script = "while read line; do echo $line; done"
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script)))
    stdin, write_end = os.pipe()
    _, output = await pod.start(stdin=stdin)
    os.close(stdin)
    asked = False

    async def answers() -> None:
        nonlocal asked
        asked = True
        os.write(write_end, b"here\n")
        os.close(write_end)
        assert await output.text() == "here\n"
        assert (await pod.ended()).exit_code == 0

    yield answers
    if not asked:
        os.close(write_end)


@FLAVORS
async def test_a_fork_bomb(runner: Any, neighbour: Any, nothing_left: Any, flavor: str) -> None:
    script = "f() { f & f & }; f 2>/dev/null; while :; do f 2>/dev/null; done"
    isolators = [{"name": "gantry.io/pids", "value": {"limit": 100}}]
    app = runner.pods.app("/bin/sh", "-c", script)
    pod = await runner.pod(runner.pods.make(app, isolators=isolators, flavor=flavor))
    await pod.start()
    await asyncio.sleep(0.3)  # let it grow: there is no event to wait for
    assert (await runner.sh("echo others start")).lines == ["others start"]
    await neighbour()
    await pod.sandbox.stop()
    await nothing_left(pod.directory)


@FLAVORS
async def test_a_memory_bomb(runner: Any, neighbour: Any, flavor: str) -> None:
    limit = [{"name": "resource/memory", "value": {"limit": "32Mi"}}]
    result = await runner.app("/bin/tail", "/dev/zero", isolators=limit, flavor=flavor)
    assert (result.exit.signal, result.exit.oom_killed) == (9, True)
    await neighbour()


async def test_files_in_memory_count_as_the_app_s(runner: Any, neighbour: Any) -> None:
    limit = [{"name": "resource/memory", "value": {"limit": "32Mi"}}]
    volumes = [{"name": "memory", "kind": "empty", "gantry.io/medium": "Memory"}]
    result = await runner.sh(
        "exec cat /dev/zero > /memory/file",
        isolators=limit,
        mounts=[{"volume": "memory", "path": "/memory"}],
        pod={"volumes": volumes},
    )
    assert result.exit.oom_killed
    await neighbour()


async def test_shared_memory_and_dev_are_small(runner: Any) -> None:
    before = shutil.disk_usage("/dev/shm").used
    result = await runner.sh(
        "cat /dev/zero > /dev/shm/x; cat /dev/zero > /dev/x; stat -c %s /dev/shm/x /dev/x"
    )
    assert result.output.count("No space left on device") == 2
    shm, dev = map(int, result.lines[-2:])
    assert (shm <= 64 << 20, dev <= 64 << 10) == (True, True)
    assert shutil.disk_usage("/dev/shm").used - before < 64 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MiB, in a mount namespace that this thread, and what it starts, is in until the test has ended."""
    place = tmp_path / "small"
    place.mkdir()
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    here = os.getcwd()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    try:
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", str(place), "tmpfs", 0, "size=4m")
        yield place
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWNS)
        os.chdir(here)  # it is the root now
        os.close(home)


@FLAVORS
async def test_a_full_disk(small_disk: Path, pods: Any, flavor: str, nothing_left: Any) -> None:
    """The app that fills it is told; that it ends is told, though nothing can be written down any more."""
    pods.base = small_disk
    directory = pods.make(pods.app("/bin/sh", "-c", "cat /dev/zero > /full; echo $?; exit 7"), flavor=flavor)
    launcher = await Launcher.start()
    try:
        exits: asyncio.Queue[Any] = asyncio.Queue()
        sandbox = await launcher.run_pod(directory, exits.put_nowait, print)
        read_end, write_end = os.pipe()
        for _ in range(2):  # the second time it is full from the beginning
            await sandbox.start_app("app", stdin=None, stdout=write_end, stderr=write_end)
            ended = await asyncio.wait_for(exits.get(), 60)
            assert ended.exit_code == 7
        os.close(write_end)
        with os.fdopen(read_end, "rb") as file:
            assert file.read().count(b"No space left on device") == 2
        await sandbox.stop()
    finally:
        await launcher.close()
    await nothing_left(directory)


async def test_a_thousand_mounts(runner: Any, neighbour: Any, nothing_left: Any) -> None:
    script = "i=0; while [ $i -lt 1000 ]; do mount -t tmpfs x /tmp || exit 3; i=$((i+1)); done; echo $i"
    retain = [
        {"name": "os/linux/capabilities-retain-set", "value": {"set": [*caps.DEFAULT, "CAP_SYS_ADMIN"]}}
    ]
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    pod = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", script, isolators=retain), user_namespace="host")
    )
    _, output = await pod.start()
    assert await output.text() == "1000\n"
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before
    await neighbour()
    await pod.sandbox.stop()
    await nothing_left(pod.directory)


async def test_killing_everybody_kills_the_pod_s_apps_only(runner: Any, neighbour: Any) -> None:
    apps = [
        runner.pods.app("/bin/sleep", "1000", name="victim"),
        runner.pods.app("/bin/sh", "-c", "kill -9 -1; kill -9 1; kill -TERM 1; exit 3", name="killer"),
        runner.pods.app("/bin/echo", "the pod lives", name="later"),
    ]
    pod = await runner.pod(runner.pods.make(*apps))
    await pod.start("victim")
    await pod.start("killer")
    ends = {one.app: one for one in (await pod.ended(), await pod.ended())}
    assert ends["victim"].signal == 9
    assert ends["killer"].exit_code == 3
    assert await (await pod.start("later"))[1].text() == "the pod lives\n"
    await neighbour()


@pytest.mark.parametrize("users", ["private", "host"])
async def test_setuid_files_of_an_image(runner: Any, tmp_path: Path, users: str) -> None:
    """They make root of the pod of its users, as in any Linux, within its capabilities; not with no_new_privs."""
    layer = tmp_path / "layer"
    for name in ("bin", "lib", "lib64"):
        (layer / name).mkdir(parents=True) if name == "bin" else (layer / name).symlink_to(f"usr/{name}")
    shutil.copy("/usr/bin/cat", layer / "bin" / "root-cat")
    (layer / "bin" / "root-cat").chmod(0o4755)
    (layer / "secret").write_text("of root\n")
    (layer / "secret").chmod(0o600)
    more: dict[str, Any] = {
        "pod": {
            "layers": (layer,),
            "volumes": [{"name": "usr", "kind": "host", "source": "/usr", "readOnly": True}],
            "user_namespace": users,
        },
        "mounts": [{"volume": "usr", "path": "/usr"}],
        "user": "1234",
    }
    assert (await runner.app("/bin/root-cat", "/secret", **more)).output == "of root\n"
    sets = (await runner.app("/bin/root-cat", "/proc/self/status", **more)).output
    assert int(sets.split("CapEff:\t")[1].split()[0], 16) == caps.mask(caps.DEFAULT)
    quiet = [{"name": "os/linux/no-new-privileges", "value": True}]
    assert (
        "Permission denied" in (await runner.app("/bin/root-cat", "/secret", isolators=quiet, **more)).output
    )


LINKED = {
    "proc": "/bin", "sys": "/bin", "dev": "/bin", "etc/hosts": "/../../../{}", "data": "/../../..{}",
    "dev/shm": "{}", "etc/resolv.conf": "resolv.conf",
}  # fmt: skip


@FLAVORS
@pytest.mark.parametrize("where", sorted(LINKED))
async def test_mount_targets_that_are_links(
    runner: Any, tmp_path: Path, host_file: Path, where: str, flavor: str
) -> None:
    """They lead somewhere else in the image, or to an error; never out."""
    layer = tmp_path / "layer"
    (layer / where).parent.mkdir(parents=True)
    if "/" not in where and where != "data":
        (layer / ".wh..wh..opq").touch()
    (layer / where).symlink_to(LINKED[where].format(host_file.parent))
    volume = {"name": "v", "kind": "host", "source": str(tmp_path / "volume")}
    (tmp_path / "volume").mkdir()
    before = sorted(set(os.listdir(host_file.parent)) - {"pods"})
    refused, result = "", None
    try:
        result = await runner.sh(
            "touch /data/x; exit 5",
            mounts=[{"volume": "v", "path": "/data"}],
            pod={"volumes": [volume], "layers": (layer,)},
            flavor=flavor,
        )
    except LaunchError as error:
        refused = str(error)
    assert sorted(set(os.listdir(host_file.parent)) - {"pods"}) == before
    if where in ("proc", "sys", "dev", "etc/resolv.conf"):
        assert "Too many levels of symbolic links" in refused
    else:
        assert result is not None, refused
        assert result.exit.exit_code == 5
        assert (tmp_path / "volume" / "x").exists()


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("/../../../../bin/busybox", True),
        ("bin/busybox", True),
        ("./bin//./busybox", True),
        ("/proc/self/root/bin/busybox", False),
        ("/proc/self/cwd/bin/busybox", False),
        ("/proc/1/exe", False),
        ("/proc/self/fd/3", False),
        ("/dev/stdin", False),
        ("/dev/fd/0", False),
        ("/bin", False),
        ("/bin/busybox/", False),
        ("/plain.txt", False),
        ("-c", False),
        ("bin/busybox\0/x", False),
        ("x" * 5000, False),
        ("/bin/nope\n", False),
    ],
)
async def test_names_of_programs(runner: Any, name: str, runs: bool) -> None:
    if runs:
        assert (await runner.app(name, "echo", "ran")).output == "ran\n"
        return
    with pytest.raises(LaunchError, match=r"^exec "):
        await runner.app(name, "echo", "ran")


async def test_a_hundred_apps(runner: Any, nothing_left: Any) -> None:
    apps = [runner.pods.app("/bin/sleep", "1000", name=f"app{number}") for number in range(100)]
    pod = await runner.pod(runner.pods.make(*apps))
    pids = [pid for pid, _ in await asyncio.gather(*(pod.start(app["name"]) for app in apps))]
    assert len(set(pids)) == 100
    assert all(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in pids)
    await asyncio.gather(*(pod.sandbox.signal_app(app["name"], 9) for app in apps[:50]))
    assert {(await pod.ended()).app for _ in range(50)} == {app["name"] for app in apps[:50]}
    await pod.sandbox.stop()
    await nothing_left(pod.directory)


async def test_a_thousand_mounts_of_the_manifest(pods: Any, nothing_left: Any) -> None:
    """More than whoever starts the executor may have open files; the app has the limit that it would have had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("a thousand mounts take more descriptors than there may be")
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        launcher = await Launcher.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    mounts = [{"volume": "v", "path": f"/m/{n}", "gantry.io/sub-path": f"{n}"} for n in range(1000)]
    app = pods.app("/bin/sh", "-c", "ls /m | grep -c .; ulimit -Sn; ulimit -Hn", mounts=mounts)
    directory = pods.make(app, volumes=[{"name": "v", "kind": "empty"}])
    read_end, write_end = os.pipe()
    try:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sandbox = await launcher.run_pod(directory, ended.set_result, print)
        await sandbox.start_app("app", stdin=None, stdout=write_end, stderr=write_end)
        assert (await asyncio.wait_for(ended, 60)).exit_code == 0
        await sandbox.stop()
    finally:
        os.close(write_end)
        await launcher.close()
    with os.fdopen(read_end) as file:
        assert file.read().split() == ["1000", "512", str(hard)]
    await nothing_left(directory)
