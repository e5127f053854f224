"""Pods that share processes or ipc with the host: what they see, and that they still end as pods do."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from tests.waiting import gone

pytestmark = pytest.mark.root

NAMES = ("pid", "ipc", "uts", "net")
READ = "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done"


def of_host() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMES}


@pytest.mark.parametrize("shared", [("pid",), ("ipc",), ("pid", "ipc"), ("pid", "ipc", "net")])
async def test_which_namespaces_are_the_host_s(runner: Any, shared: tuple[str, ...]) -> None:
    notes = {f"host_{'network' if name == 'net' else name}": "true" for name in shared}
    result = await runner.sh(READ, pod=notes)
    seen = dict(zip(NAMES, result.lines, strict=True))
    assert {name for name in NAMES if seen[name] == of_host()[name]} == set(shared)


async def test_the_processes_of_the_host(runner: Any, tmp_path: Path) -> None:
    """Seen, as pid 1 is; and what needs more than an app's rights stays out of reach."""
    script = f"cat /proc/{os.getpid()}/comm; ls /proc/1/root/; cat /proc/{os.getpid()}/environ; kill -9 {os.getpid()}"
    result = await runner.sh(script, user="1234", group="2345", pod={"host_pid": "true"})
    assert Path("/proc/self/comm").read_text().strip() in result.lines
    for refused in (
        "/proc/1/root/: Permission denied",
        "/environ': Permission denied",
        "Operation not permitted",
    ):
        assert refused in result.output
    masked = await runner.sh("head -c 9 /proc/timer_list | wc -c", pod={"host_pid": "true"})
    assert masked.lines == ["0"]


async def test_root_without_a_user_namespace_traces_nobody(runner: Any) -> None:
    """The init of such a pod, and whoever prepares its apps, are seen by them."""
    result = await runner.sh(
        "for p in /proc/[0-9]*; do case $(cat $p/comm) in gantry-*) "
        "ls $p/fd $p/root/ >/dev/null && echo open $p;; esac; done",
        pod={"host_pid": "true"},
    )
    assert not any(line.startswith("open ") for line in result.lines)
    assert "Permission denied" in result.output


async def test_ipc_of_the_host(runner: Any) -> None:
    name = f"gantry-test-{os.getpid()}"
    shared = Path("/dev/shm") / name
    shared.write_text("of the host\n")
    try:
        made = subprocess.run(["ipcmk", "-Q"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
        number = made.split()[-1]
        script = f"cat /dev/shm/{name}; tail -n +2 /proc/sysvipc/msg | wc -l; echo back >> /dev/shm/{name}"
        result = await runner.sh(script, pod={"host_ipc": "true"})
        assert result.lines[0] == "of the host"
        assert int(result.lines[1]) >= 1
        assert shared.read_text() == "of the host\nback\n"
        own = await runner.sh(f"ls /dev/shm/{name}; tail -n +2 /proc/sysvipc/msg | wc -l")
        assert own.lines[-1] == "0"
    finally:
        shared.unlink()
        subprocess.run(["ipcrm", "-q", number], check=True)  # noqa: ASYNC221


async def test_exec_is_run(runner: Any) -> None:
    pod = runner.pods.make(runner.pods.app("/bin/sleep", "1000"), host_pid="true", host_ipc="true")
    running = await runner.pod(pod)
    pid, _ = await running.start()
    read_end, write_end = os.pipe()
    made = await running.sandbox.exec("app", ["/bin/sh", "-c", READ], streams=(write_end, write_end))
    os.close(write_end)
    await made.ended
    with os.fdopen(read_end) as file:
        lines = file.read().split()
    assert lines == [os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMES]
    assert lines[0] == of_host()["pid"]


FORKS = "i=0; while [ $i -lt 20 ]; do setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & i=$((i+1)); done; "


async def test_a_stop_and_an_app_s_end_catch_everything(
    runner: Any, nothing_left: Any, eventually: Any, cgroups_of: Any
) -> None:
    apps = [
        runner.pods.app("/bin/sh", "-c", FORKS + "wait", name="stays"),
        runner.pods.app("/bin/sh", "-c", FORKS + "read x", name="ends"),
    ]
    running = await runner.pod(runner.pods.make(*apps, host_pid="true"))
    await running.start("stays")
    stdin, writer = os.pipe()
    await running.start("ends", stdin=stdin)
    os.close(stdin)

    def members(app: str) -> int:
        found = [path / app / "cgroup.procs" for path in cgroups_of(running.directory)]
        try:
            return max(len(path.read_text().split()) for path in found)
        except FileNotFoundError:
            return 0  # the cgroup has gone, too

    await eventually(lambda: members("ends") > 20)
    os.close(writer)
    assert (await running.ended()).app == "ends"
    await eventually(lambda: members("ends") == 0)
    await eventually(lambda: members("stays") > 20)
    await running.stop()
    await nothing_left(running.directory)


@pytest.mark.parametrize("victim", ["launcher", "init"])
async def test_nothing_survives_its_parent(runner: Any, nothing_left: Any, victim: str) -> None:
    app = runner.pods.app("/bin/sh", "-c", FORKS + "exec sleep 1000 >&- 2>&-")
    running = await runner.pod(runner.pods.make(app, host_pid="true"))
    pid, _ = await running.start()
    os.kill(runner.launcher.pid if victim == "launcher" else running.sandbox.pid, signal.SIGKILL)
    await asyncio.wait_for(running.gone, 60)
    if victim == "init":
        await nothing_left(running.directory)
        return
    async with asyncio.timeout(60):
        while not gone(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        ({"host_pid": "true", "flavor": "nspawn"}, "gantry.io/host-pid: flavor nspawn always has"),
        ({"host_ipc": "true", "user_namespace": "private"}, "nothing of the host"),
        (
            {"host_ipc": "true", "isolators": [{"name": "os/unix/sysctl", "value": {"kernel.shmmax": "1"}}]},
            "kernel.shmmax would be the host's, whose ipc the pod has",
        ),
        (
            {"host_network": "true", "isolators": [{"name": "os/unix/sysctl", "value": {"net.x": "1"}}]},
            "net.x would be the host's, whose network the pod has",
        ),
    ],
)
async def test_what_does_not_go_together(runner: Any, pod: dict[str, Any], why: str) -> None:
    with pytest.raises(LaunchError, match=why):
        await runner.pod(runner.pods.make(runner.pods.app("/bin/true"), **pod))


async def test_ipc_s_parameters_with_the_host_s_network(runner: Any) -> None:
    isolators = [{"name": "os/unix/sysctl", "value": {"fs.mqueue.msg_max": "11"}}]
    result = await runner.sh(
        "cat /proc/sys/fs/mqueue/msg_max", pod={"isolators": isolators, "host_network": "true"}
    )
    assert result.lines == ["11"]
