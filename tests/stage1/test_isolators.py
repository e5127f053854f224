"""What holds an app or a pod back beyond cpu and memory: processes, rlimits, sysctls, limits of the whole pod."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import cgroups, lsm, manifest, ops, plan
from executor.stage1.manifest import Limits

pytestmark = pytest.mark.root


def test_pids_and_shares_in_both_versions() -> None:
    limits = Limits(cpu_request_milli=100, cpu_shares=2048, pids=64)
    assert cgroups.limit_writes(1, limits) == [("cpu", "cpu.shares", "2048"), ("pids", "pids.max", "64")]
    assert cgroups.limit_writes(2, limits) == [("cpu", "cpu.weight", "79"), ("pids", "pids.max", "64")]


async def test_a_fork_bomb_ends_at_its_limit(runner: Any) -> None:
    script = "i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); done; echo all"
    result = await runner.sh(script, isolators=[{"name": "gantry.io/pids", "value": {"limit": 16}}])
    assert "Resource temporarily unavailable" in result.output
    assert "all" not in result.lines


async def test_the_limit_of_a_pod_holds_for_all_its_apps(runner: Any) -> None:
    script = "i=0; while [ $i -lt 9 ]; do sleep 1000 >&- 2>&- & i=$((i+1)); done; echo all; exec sleep 1000 >&- 2>&-"
    apps = [runner.pods.app("/bin/sh", "-c", script, name=name) for name in ("a", "b", "c")]
    directory = runner.pods.make(*apps, isolators=[{"name": "gantry.io/pids", "value": {"limit": 26}}])
    running = await runner.pod(directory)
    texts = []
    for name in ("a", "b", "c"):
        _, output = await running.start(name)
        texts.append(await output.text())
    assert texts[:2] == ["all\n", "all\n"]
    assert "Resource temporarily unavailable" in texts[2]


async def test_rlimits(runner: Any) -> None:
    limits = {"nofile": {"soft": 100, "hard": 200}, "core": {"soft": 0}}
    result = await runner.sh(
        "ulimit -n; ulimit -Hn; ulimit -c", isolators=[{"name": "gantry.io/rlimits", "value": limits}]
    )
    assert result.lines == ["100", "200", "0"]


@pytest.mark.parametrize("users", ["private", "host"])
async def test_sysctls_are_the_pod_s_own(runner: Any, users: str) -> None:
    names = ("net/ipv4/ip_unprivileged_port_start", "kernel/shm_rmid_forced", "fs/mqueue/msg_max")
    before = [Path(f"/proc/sys/{name}").read_text() for name in names]
    settings = {
        "net.ipv4.ip_unprivileged_port_start": "7",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "11",
    }
    result = await runner.sh(
        "cat "
        + " ".join(f"/proc/sys/{name}" for name in names)
        + "; echo 9 > /proc/sys/fs/mqueue/msg_max; ls /proc.sysctl",
        pod={"isolators": [{"name": "os/unix/sysctl", "value": settings}], "user_namespace": users},
    )
    assert result.lines[:3] == ["7", "1", "11"]
    assert "Read-only file system" in result.output
    assert [Path(f"/proc/sys/{name}").read_text() for name in names] == before


@pytest.mark.parametrize(
    ("isolator", "message"),
    [
        ({"name": "os/unix/sysctl", "value": {"kernel.panic": "1"}}, "kernel.panic is not the pod's own"),
        ({"name": "os/unix/sysctl", "value": {"net.../../kernel/panic": "1"}}, "is not the pod's own"),
        (
            {"name": "os/unix/sysctl", "value": {"net.ipv4.nonsense": "1"}},
            "set sysctl net.ipv4.nonsense: No such file",
        ),
        (
            {"name": "os/unix/sysctl", "value": {"net.ipv4.ip_forward": "maybe"}},
            "net.ipv4.ip_forward: Invalid argument",
        ),
        ({"name": "os/linux/whatever", "value": 1}, "not supported on a pod"),
    ],
)
async def test_what_cannot_be_set_on_a_pod_is_refused(runner: Any, isolator: Any, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        await runner.sh("true", pod={"isolators": [isolator]})


@pytest.mark.parametrize(
    ("isolator", "message"),
    [
        ({"name": "os/linux/cpu-shares", "value": 1}, "not a number from 2"),
        ({"name": "gantry.io/pids", "value": {"limit": 0}}, "not a positive number"),
        ({"name": "gantry.io/rlimits", "value": {"files": {"soft": 1}}}, "no limit 'files'"),
        ({"name": "gantry.io/rlimits", "value": {"nofile": {"soft": "many"}}}, "are not numbers"),
    ],
)
def test_what_cannot_be_set_on_an_app_is_refused(isolator: Any, message: str) -> None:
    app = {"name": "a", "app": {"exec": ["/x"], "isolators": [isolator]}}
    text = manifest.json.dumps({"acKind": "PodManifest", "apps": [app]})
    with pytest.raises(manifest.ManifestError, match=message):
        manifest.read(text)


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_groups_that_only_the_image_knows(runner: Any, flavor: str) -> None:
    notes = [{"name": "gantry.io/groups", "value": "strict"}]
    who = {"user": "1234", "group": "2345", "supplementaryGIDs": [9], "flavor": flavor}
    assert (await runner.sh("id -G", **who)).output == "2345 9 77\n"
    assert (await runner.sh("id -G", annotations=notes, **who)).output == "2345 9\n"


async def test_the_whole_of_proc(runner: Any) -> None:
    script = "head -c 9 /proc/timer_list | wc -c; grep -c ' /proc/' /proc/self/mountinfo"
    unmasked = {"annotations": [{"name": "gantry.io/proc-mount", "value": "unmasked"}]}
    assert (await runner.sh(script, pod={"user_namespace": "private"})).lines[-1] != "0"
    result = await runner.sh(script, pod={"user_namespace": "private"}, **unmasked)
    assert result.lines[-1] == "0"
    with pytest.raises(LaunchError, match="unmasked needs a user namespace"):
        await runner.sh(script, **unmasked)


def test_the_use_of_the_disk_in_both_versions() -> None:
    limits = Limits(block_bandwidth=1 << 20, block_iops=50)
    assert cgroups.limit_writes(1, limits, "8:0") == [
        ("blkio", "blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio", "blkio.throttle.write_bps_device", "8:0 1048576"),
        ("blkio", "blkio.throttle.read_iops_device", "8:0 50"),
        ("blkio", "blkio.throttle.write_iops_device", "8:0 50"),
    ]
    assert cgroups.limit_writes(2, limits, "8:0") == [
        ("io", "io.max", "8:0 rbps=1048576 wbps=1048576 riops=50 wiops=50")
    ]
    assert cgroups.limit_writes(2, Limits(block_iops=9), "8:0") == [("io", "io.max", "8:0 riops=9 wiops=9")]


def rate(name: str, limit: Any) -> dict[str, Any]:
    return {"name": f"resource/block-{name}", "value": {"default": True, "limit": limit}}


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_the_use_of_the_disk_is_limited(
    runner: Any, tmp_path: Path, flavor: str, cgroups_of: Any
) -> None:
    try:
        disk = cgroups.disk_below(str(tmp_path))
    except cgroups.CgroupError as error:
        pytest.skip(str(error))
    isolators = [rate("bandwidth", "4Mi"), rate("iops", 100)]
    app = runner.pods.app("/bin/sleep", "1000", isolators=isolators)
    pod = await runner.pod(runner.pods.make(app, flavor=flavor))
    pid, _ = await pod.start()
    (place,) = (path for path in cgroups_of(pod.directory) if "blkio" in str(path))
    assert (place / "app" / "blkio.throttle.write_bps_device").read_text() == f"{disk} {4 << 20}\n"
    assert (place / "app" / "blkio.throttle.read_iops_device").read_text() == f"{disk} 100\n"
    assert str(pid) in (place / "app" / "cgroup.procs").read_text().split()


async def test_direct_writes_are_as_slow_as_asked(runner: Any, tmp_path: Path) -> None:
    """4 MiB at 2 MiB a second, past the page cache: the file system's own time says that it took a while."""
    try:
        cgroups.disk_below(str(tmp_path))
    except cgroups.CgroupError as error:
        pytest.skip(str(error))
    script = "dd if=/dev/zero of=/x bs=64k count=1 oflag=direct 2>/dev/null || { echo no direct; exit 0; }; date +%s; "
    script += "dd if=/dev/zero of=/x bs=64k count=64 oflag=direct 2>/dev/null; date +%s"
    result = await runner.sh(script, isolators=[rate("bandwidth", "2Mi")])
    if "no direct" in result.output:
        pytest.skip("the file system writes through the page cache only")
    begin, end = map(int, result.lines)
    assert end - begin >= 1


async def test_no_disk_to_limit(runner: Any) -> None:
    runner.pods.base = Path(f"/dev/shm/gantry-test-{os.getpid()}")
    try:
        with pytest.raises(LaunchError, match="lies on no disk, but on a virtual file system"):
            await runner.sh("true", isolators=[rate("iops", 1)])
    finally:
        shutil.rmtree(runner.pods.base)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("resource/block-iops", {"limit": 5}, "needs default: true and a limit, and no request"),
        ("resource/block-iops", {"default": True}, "needs default: true"),
        ("resource/block-bandwidth", {"default": True, "limit": 1, "request": 1}, "no request"),
        ("resource/network-bandwidth", {"default": True, "limit": 1}, "nothing here limits"),
        ("os/linux/apparmor-profile", {"profile": ""}, "not the name of a profile"),
        ("os/linux/selinux-context", {"user": "u", "role": "r", "type": "t"}, "must be set"),
        (
            "os/linux/selinux-context",
            {"user": "u:", "role": "r", "type": "t", "level": "l"},
            "without a colon",
        ),
    ],
)
def test_malformed_ones(name: str, value: Any, message: str) -> None:
    app = {"name": "a", "app": {"exec": ["/x"], "isolators": [{"name": name, "value": value}]}}
    text = manifest.json.dumps({"acKind": "PodManifest", "apps": [app]})
    with pytest.raises(manifest.ManifestError, match=message):
        manifest.read(text)


CONTEXT = {"user": "u", "role": "r", "type": "t", "level": "s0:c1,c2"}
LABELS = [
    (lsm.APPARMOR, "os/linux/apparmor-profile", {"profile": "docker-default"}, "exec docker-default"),
    (lsm.SELINUX, "os/linux/selinux-context", CONTEXT, "u:r:t:s0:c1,c2"),
]


@pytest.mark.parametrize(("module", "name", "value", "written"), LABELS)
async def test_labels_are_refused_where_nobody_would_enforce_them(
    runner: Any, module: str, name: str, value: Any, written: str
) -> None:
    if not lsm.why_not(module):
        pytest.skip(f"{module} is on")
    with pytest.raises(
        LaunchError, match=rf"label the app .* for {module}: {module} is not on in this kernel"
    ):
        await runner.sh("true", isolators=[{"name": name, "value": value}])


@pytest.mark.parametrize(("module", "name", "value", "written"), LABELS)
def test_labels_are_written_for_the_next_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, value: Any, written: str
) -> None:
    (tmp_path / "on").write_text("Y\n")
    (tmp_path / "exec").touch()
    monkeypatch.setattr(lsm, "_SIGN_OF_LIFE", {module: str(tmp_path / "on")})
    monkeypatch.setattr(lsm, "_ATTRIBUTES", {module: (str(tmp_path / "none"), str(tmp_path / "exec"))})
    ops.SetLabel(*lsm.read(name, value)).execute(ops.Context({}))
    assert (tmp_path / "exec").read_text() == written


def test_a_label_s_paths_are_tried_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below /proc/PID/attr: AppArmor's own directory where modules are stacked, or else the common file."""
    (tmp_path / "on").write_text("Y\n")
    monkeypatch.setattr(lsm, "_SIGN_OF_LIFE", {lsm.APPARMOR: str(tmp_path / "on")})
    places = (tmp_path / "attr/apparmor/exec", tmp_path / "attr/exec")
    monkeypatch.setattr(lsm, "_ATTRIBUTES", {lsm.APPARMOR: tuple(map(str, places))})
    label = ops.SetLabel(lsm.APPARMOR, "web")
    with pytest.raises(ops.StageError, match="label the app web for AppArmor: No such file"):
        label.execute(ops.Context({}))
    (tmp_path / "attr").mkdir()
    places[1].touch()
    label.execute(ops.Context({}))
    assert places[1].read_text() == "exec web"
    places[0].parent.mkdir()
    places[0].touch()
    label.execute(ops.Context({}))
    assert places[0].read_text() == "exec web"
    (tmp_path / "on").write_text("N\n")
    with pytest.raises(ops.StageError, match="AppArmor is not on in this kernel"):
        label.execute(ops.Context({}))


@pytest.mark.parametrize(("module", "name", "value", "written"), LABELS)
def test_labels_come_before_everything_and_files_get_theirs(
    module: str, name: str, value: Any, written: str
) -> None:
    app = {"name": "a", "app": {"exec": ["/x"], "isolators": [{"name": name, "value": value}]}}
    pod = manifest.read(manifest.json.dumps({"acKind": "PodManifest", "apps": [app]}))
    lines = [
        op.describe() for op in plan.app_plan(pod, pod.apps["a"], plan.Paths("/p"), ("/l",), ("/c/tasks",))
    ]
    assert lines[0] == f"label the app {written.removeprefix('exec ')} for {module}"
    labelled = [line for line in lines if "labelled" in line]
    assert len(labelled) == (2 if module == lsm.SELINUX else 0)
    assert all(line.endswith("labelled system_u:object_r:container_file_t:s0:c1,c2") for line in labelled)
    (again, *_) = plan.enter_plan(pod, pod.apps["a"], ("/c/tasks",))
    assert again.describe() == lines[0]
