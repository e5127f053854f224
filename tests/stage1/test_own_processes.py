"""Apps with processes of their own: pods that say `gantry.io/processes: own`."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher, LaunchError
from executor.stage1 import nspawn
from tests.waiting import gone

pytestmark = pytest.mark.root

SLEEP = "exec sleep 1000 >&- 2>&-"


@pytest.mark.parametrize(
    "flavor",
    [
        "linux",
        pytest.param("nspawn", marks=pytest.mark.skipif(bool(nspawn.why_not()), reason="no systemd-nspawn")),
    ],
)
async def test_each_app_is_the_first_of_its_own(runner: Any, flavor: str) -> None:
    script = f"""
    echo $$; ls -d /proc/[0-9]*; cat /proc/1/comm; readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; {SLEEP}
    """
    apps = [runner.pods.app("/bin/sh", "-c", script, name=name) for name in ("a", "b")]
    running = await runner.pod(runner.pods.make(*apps, flavor=flavor, processes="own"))
    seen = []
    for name in ("a", "b"):
        pid, output = await running.start(name)
        lines = (await output.text()).splitlines()
        assert lines[0] == "1"
        assert lines[1:-3] == ["/proc/1"]
        assert lines[-3] == "sh"
        assert lines[-2] == os.readlink(f"/proc/{pid}/ns/pid")
        seen.append(lines[-2:])
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1], "all else is the pod's"
    assert seen[0][1] == os.readlink(f"/proc/{running.sandbox.pid}/ns/ipc")
    init = os.readlink(f"/proc/{running.sandbox.pid}/ns/pid")
    assert init not in (seen[0][0], seen[1][0])


@pytest.mark.parametrize("users", ["private", "host"])
async def test_its_proc_is_masked(runner: Any, users: str) -> None:
    script = """
    head -c 9 /proc/timer_list | wc -c; head -c 9 /proc/kallsyms | wc -c; ls /proc/acpi /proc/scsi | grep -v :
    echo 1 > /proc/sys/kernel/shmmax
    grep -c ^ /proc/self/status; umount /proc; mount -t proc x /tmp
    """
    options = {"pod": {"user_namespace": users, "processes": "own"}}
    result = await runner.sh(script, **options)
    assert result.lines[:2] == ["0", "0"]
    assert result.output.count("Read-only file system") == 1
    assert "umount: can't unmount /proc: Operation not permitted" in result.lines
    assert "mount: permission denied (are you root?)" in result.lines
    notes = [{"name": "gantry.io/privileged", "value": "true"}]
    if users == "host":
        privileged = await runner.sh("grep -c ' /proc/' /proc/self/mountinfo", annotations=notes, **options)
        assert privileged.lines == ["0"]


@pytest.mark.parametrize("lists", [True, False])
async def test_volumes_in_its_proc_are_seen(runner: Any, tmp_path: Path, lists: bool) -> None:
    """As of lxcfs, which tells a container what it may have as what there is."""
    for name in ("less", "tree"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("told\n")
    volumes = [
        {"name": "file", "kind": "host", "source": str(tmp_path / "less/file")},
        {"name": "tree", "kind": "host", "source": str(tmp_path / "tree")},
    ]
    mounts = [
        {"volume": "file", "path": "/proc/meminfo", "readOnly": True},
        {"volume": "tree", "path": "//proc/./acpi/"},
    ]
    script = (
        "echo $$ $(cat /proc/meminfo) $(cat /proc/acpi/file); echo x > /proc/meminfo; echo y > /proc/acpi/new"
    )
    app = runner.pods.app("/bin/sh", "-c", script, mounts=mounts)
    launcher = None if lists else await Launcher.start(lists=False)
    try:
        runner.launcher = launcher or runner.launcher
        running = await runner.pod(runner.pods.make(app, volumes=volumes, processes="own"))
        _, output = await running.start()
        assert (await output.text()).splitlines() == [
            "1 told told",
            "/bin/sh: can't create /proc/meminfo: Read-only file system",
        ]
        assert (tmp_path / "tree/new").read_text() == "y\n"
    finally:
        if launcher is not None:
            await launcher.close()


@pytest.mark.parametrize("lists", [True, False])
async def test_its_dev_is_not_what_hides(runner: Any, tmp_path: Path, lists: bool) -> None:
    """A volume there may be anybody's (CVE-2025-31133): without a null device, or with a link in its place."""
    (tmp_path / "null").symlink_to("/proc/cmdline")
    volumes = [{"name": "dev", "kind": "host", "source": str(tmp_path)}]
    script = """
    for file in timer_list kallsyms; do head -c 9 /proc/$file | wc -c; done; ls /dev | grep null; echo /proc/acpi/*
    """
    app = runner.pods.app("/bin/sh", "-c", script, mounts=[{"volume": "dev", "path": "/dev"}])
    launcher = None if lists else await Launcher.start(lists=False)
    try:
        runner.launcher = launcher or runner.launcher
        running = await runner.pod(runner.pods.make(app, volumes=volumes, processes="own"))
        _, output = await running.start()
        assert (await output.text()).splitlines() == ["0", "0", "null", "/proc/acpi/*"]
    finally:
        if launcher is not None:
            await launcher.close()


async def test_it_is_who_it_should_be(runner: Any) -> None:
    """The same steps as for any app come after."""
    script = "id; grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status; cat /proc/self/cgroup; env; pwd; tty"
    who = {"user": "1234", "group": "2345", "supplementaryGIDs": [9], "workingDirectory": "/tmp"}
    one, other = [(await runner.sh(script, **who, pod=pod)).lines for pod in ({}, {"processes": "own"})]
    assert one == other
    root, again = [
        (await runner.sh("grep ^Cap /proc/self/status", pod=pod)).lines for pod in ({}, {"processes": "own"})
    ]
    assert root == again


async def test_exec_and_terminals_are_in_there(runner: Any) -> None:
    app = runner.pods.app("/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    running = await runner.pod(runner.pods.make(app, processes="own"))
    pid, _ = await running.start()
    read_end, write_end = os.pipe()
    script = "readlink /proc/self/ns/pid; cat /proc/1/cmdline | tr '\\0' ' '"
    made = await running.sandbox.exec("app", ["/bin/sh", "-c", script], streams=(write_end, write_end))
    os.close(write_end)
    assert await made.ended == (0, None)
    with os.fdopen(read_end) as file:
        assert file.readline().strip() == os.readlink(f"/proc/{pid}/ns/pid")
        assert file.read().startswith("/bin/sh -c trap")
    await running.sandbox.signal_app("app", signal.SIGTERM)
    assert (await running.ended()).exit_code == 5


async def test_its_end_is_that_of_all_it_has_started(runner: Any, nothing_left: Any) -> None:
    script = "for i in 1 2 3 4 5; do setsid sh -c 'trap \"\" TERM; sleep 1000' & done; exit 3"
    pod = runner.pods.make(runner.pods.app("/bin/sh", "-c", script), processes="own")
    running = await runner.pod(pod)
    for _ in range(2):
        await running.start()
        assert (await running.ended()).exit_code == 3
    await running.stop()
    await nothing_left(pod)


@pytest.mark.parametrize("victim", ["launcher", "init", "app"])
async def test_nothing_survives_its_parent(
    runner: Any, nothing_left: Any, eventually: Any, victim: str
) -> None:
    app = runner.pods.app("/bin/sh", "-c", f"setsid sleep 1000 & {SLEEP}")
    running = await runner.pod(runner.pods.make(app, processes="own"))
    pid, _ = await running.start()
    pids = {"launcher": runner.launcher.pid, "init": running.sandbox.pid, "app": pid}
    os.kill(pids[victim], signal.SIGKILL)
    if victim == "app":
        assert (await running.ended()).signal == signal.SIGKILL
        return
    await asyncio.wait_for(running.gone, 60)
    await eventually(lambda: gone(pid))


@pytest.mark.parametrize(
    ("app", "pod", "why"),
    [
        ({}, {"processes": "mine"}, "'mine' is neither shared nor own"),
        ({}, {"processes": "own", "flavor": "fly"}, "own: the pod has the host's processes"),
        ({}, {"processes": "own", "host_pid": "true"}, "own: the pod has the host's processes"),
    ],
)
async def test_what_does_not_go_together(
    runner: Any, app: dict[str, Any], pod: dict[str, str], why: str
) -> None:
    with pytest.raises(LaunchError, match=why):
        await runner.pod(runner.pods.make(runner.pods.app("/bin/true", **app), **pod))


async def test_what_cannot_be_executed(runner: Any, tmp_path: Path) -> None:
    for command, why in (
        ("/nope", "exec /nope: No such file"),
        ("/plain.txt", "exec /plain.txt: Permission denied"),
    ):
        pod = runner.pods.make(runner.pods.app(command), processes="own")
        running = await runner.pod(pod)
        with pytest.raises(LaunchError, match=why):
            await running.start()
        await running.stop()
