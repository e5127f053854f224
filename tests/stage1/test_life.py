"""Starts, ends, restarts, limits, and that nothing survives what it must not survive."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher, LaunchError
from tests.ground import mounts
from tests.waiting import gone, until

pytestmark = pytest.mark.root
FLAVORS = pytest.mark.parametrize("flavor", ["linux", "fly"])


@FLAVORS
async def test_exit_codes_signals_and_status_files(runner: Any, flavor: str) -> None:
    for script, code, number, text in (
        ("exit 0", 0, None, "0"),
        ("exit 7", 7, None, "7"),
        ("kill -9 $$", None, 9, "137"),
    ):
        pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script), flavor=flavor))
        await pod.start()
        ended = await pod.ended()
        assert (ended.app, ended.exit_code, ended.signal, ended.oom_killed) == ("app", code, number, False)
        assert ended.finished_at > 1e9
        status = pod.directory / "stage1" / "rootfs" / "rkt" / "status"
        assert (status / "app").read_text() == f"{text}\n"
        assert float((status / "app-started").read_text()) <= ended.finished_at
        assert int((pod.directory / "pid").read_text()) == pod.sandbox.pid
        assert os.readlink(pod.directory / "flavor") == flavor
        await pod.sandbox.stop()


@FLAVORS
async def test_pid_is_of_the_main_process_on_the_host(runner: Any, flavor: str) -> None:
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000"), flavor=flavor))
    pid, _ = await pod.start()
    cmdline = until("its command line", Path(f"/proc/{pid}/cmdline").read_bytes)  # see test_exec.facts_of
    assert cmdline == b"/bin/sleep\x001000\0"
    assert re.search(
        f"/gantry.{pod.directory.name}[/~]app$", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE
    )


@FLAVORS
async def test_signals_reach_the_main_process(runner: Any, eventually: Any, flavor: str) -> None:
    script = "trap 'echo got it; exit 4' TERM; echo ready > /ready; while :; do sleep 1000 & wait; done"
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script), flavor=flavor))
    _, output = await pod.start()
    ready = pod.directory / "overlay" / "app" / "upper" / "ready"
    await eventually(lambda: ready.exists() and ready.read_text() == "ready\n")
    await pod.sandbox.signal_app("app", signal.SIGTERM)
    assert (await pod.ended()).exit_code == 4
    assert await output.text() == "got it\n"
    with pytest.raises(LaunchError, match=r"^signal app: it does not run$"):
        await pod.sandbox.signal_app("app", signal.SIGTERM)


@FLAVORS
async def test_sigkill_kills_the_whole_app_and_no_other(runner: Any, flavor: str) -> None:
    one = runner.pods.app("/bin/sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & sleep 1000", name="one")
    two = runner.pods.app("/bin/sleep", "1000", name="two")
    pod = await runner.pod(runner.pods.make(one, two, flavor=flavor))
    _, output = await pod.start("one")
    other, _ = await pod.start("two")
    await pod.sandbox.signal_app("one", signal.SIGKILL)
    ended = await pod.ended()
    assert (ended.app, ended.signal) == ("one", 9)
    await output.text()  # every process that held it is dead
    assert Path(f"/proc/{other}").exists()


@FLAVORS
async def test_restart_in_a_live_pod(runner: Any, flavor: str) -> None:
    script = "[ -e /seen ] && echo again; touch /seen; ls /dev/shm/kept; touch /dev/shm/kept"
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", script), flavor=flavor))
    outputs = []
    for fresh in (False, False, True):
        if fresh:
            await pod.sandbox.remove_app("app")
        _, output = await pod.start()
        await pod.ended()
        outputs.append("again" in await output.text())
    assert outputs == [False, True, False]
    Path("/dev/shm/kept").unlink(missing_ok=True)


async def test_removed_app_leaves_no_cgroup_and_pod_lives_on(
    runner: Any, cgroups_of: Any, app_cgroups_of: Any
) -> None:
    pod = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/true"), runner.pods.app("/bin/sleep", "9", name="b"))
    )
    await pod.start("b")
    await pod.start()
    assert app_cgroups_of(pod.directory, "app")
    with pytest.raises(LaunchError, match=r"^remove b: it still runs$"):
        await pod.sandbox.remove_app("b")
    await pod.ended()
    await pod.sandbox.remove_app("app")
    assert cgroups_of(pod.directory)
    assert app_cgroups_of(pod.directory, "app") == []


def limit(name: str, **value: str) -> dict[str, Any]:
    return {"name": f"resource/{name}", "value": value}


@FLAVORS
async def test_limits_are_set_on_the_app_s_cgroup(
    runner: Any, app_cgroups_of: Any, eventually: Any, flavor: str
) -> None:
    isolators = [limit("cpu", request="250m", limit="1500m"), limit("memory", limit="48Mi")]
    app = runner.pods.app("/bin/sleep", "1000", isolators=isolators)
    pod = await runner.pod(runner.pods.make(app, flavor=flavor))
    pid, _ = await pod.start()
    values = {
        name: (path / name).read_text().strip()
        for path in app_cgroups_of(pod.directory, "app")
        for name in (
            "cpu.shares",
            "cpu.cfs_quota_us",
            "cpu.weight",
            "cpu.max",
            "memory.limit_in_bytes",
            "memory.max",
        )
        if (path / name).exists()
    }
    expected = {"cpu.shares": "256", "cpu.cfs_quota_us": "150000", "memory.limit_in_bytes": str(48 << 20)}
    unified = {"cpu.weight": "10", "cpu.max": "150000 100000", "memory.max": str(48 << 20)}
    assert values in (expected, unified)
    # The process that started it leaves the cgroup by ending, soon after.
    files = [path / "cgroup.procs" for path in app_cgroups_of(pod.directory, "app")]
    await eventually(lambda: all(file.read_text().split() == [str(pid)] for file in files))


@FLAVORS
async def test_out_of_memory_is_told_from_other_kills(runner: Any, flavor: str) -> None:
    eat = "x=0123456789abcdef; while :; do x=$x$x; done"
    result = await runner.sh(eat, isolators=[limit("memory", limit="16Mi")], flavor=flavor)
    assert (result.exit.signal, result.exit.oom_killed) == (9, True)
    result = await runner.sh(
        f"sh -c '{eat}'; exit 3", isolators=[limit("memory", limit="16Mi")], flavor=flavor
    )
    assert (result.exit.exit_code, result.exit.oom_killed) == (3, True)
    result = await runner.sh("kill -9 $$", isolators=[limit("memory", limit="16Mi")], flavor=flavor)
    assert (result.exit.signal, result.exit.oom_killed) == (9, False)


async def test_a_limit_too_small_to_start_is_said_so(runner: Any) -> None:
    with pytest.raises(LaunchError, match=r"^start app: its memory limit is too small even to start it$"):
        await runner.sh("true", isolators=[limit("memory", limit="16Ki")])


@FLAVORS
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/bin/nope", "exec /bin/nope: No such file or directory"),
        ("nope", r"exec nope: executable file not found in \$PATH"),
        ("/plain.txt", "exec /plain.txt: Permission denied"),
        ("/tmp", "exec /tmp: Permission denied"),
    ],
)
async def test_exec_failures_name_the_program(runner: Any, flavor: str, command: str, message: str) -> None:
    pod = await runner.pod(runner.pods.make(runner.pods.app(command), flavor=flavor))
    with pytest.raises(LaunchError, match=f"^{message}$"):
        await pod.start()
    assert pod.exits.empty()
    with pytest.raises(LaunchError, match=f"^{message}$"):  # and it may be tried again
        await pod.start()


async def test_program_is_searched_in_the_app_s_path(runner: Any) -> None:
    environment = [{"name": "PATH", "value": "/nowhere:/bin"}]
    assert (await runner.app("echo", "found", environment=environment)).output == "found\n"


async def test_clear_errors(runner: Any, cgroups_of: Any, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"^read .*/nothing/pod: No such file or directory$"):
        await runner.pod(tmp_path / "nothing")
    directory = runner.pods.make(runner.pods.app("true"), flavor="vm")
    with pytest.raises(
        LaunchError, match=r"annotation gantry.io/flavor: 'vm' is not one of linux, fly, nspawn$"
    ):
        await runner.pod(directory)
    assert cgroups_of(directory) == []
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    with pytest.raises(LaunchError, match=r"^start other: the pod has no such app$"):
        await pod.start("other")
    await pod.start()
    with pytest.raises(LaunchError, match=r"^start app: it runs already$"):
        await pod.start()
    with pytest.raises(LaunchError, match=r"this pod runs already$"):
        await runner.launcher.run_pod(pod.directory, print, print)


async def test_missing_layer_is_named(runner: Any) -> None:
    pod = await runner.pod(runner.pods.make(runner.pods.app("true"), layers=(Path("/no/such/layer"),)))
    with pytest.raises(
        LaunchError, match=r"^take /no/such/layer as a layer of the root: No such file or directory"
    ):
        await pod.start()


@FLAVORS
async def test_stop_leaves_nothing_of_a_pod_full_of_processes(
    runner: Any, nothing_left: Any, flavor: str
) -> None:
    bomb = (
        "for i in $(seq 20); do (trap '' TERM; setsid sleep 1000) & done; while :; do (:) & (:) & wait; done"
    )
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sh", "-c", bomb), flavor=flavor))
    await pod.start()
    await pod.sandbox.stop()
    assert (await pod.ended()).signal == 9
    await nothing_left(pod.directory)
    await pod.sandbox.stop()  # idempotent
    assert not pod.gone.done()
    await pod.sandbox._launcher.run_pod(pod.directory, print, print)  # and the directory may run again
    pod.sandbox._stopping = False
    await pod.sandbox.stop()


@FLAVORS
async def test_kill_of_init_is_the_end_of_the_pod(runner: Any, nothing_left: Any, flavor: str) -> None:
    pod = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", "sleep 1000 & sleep 1000"), flavor=flavor)
    )
    _, output = await pod.start()
    os.kill(pod.sandbox.pid, signal.SIGKILL)
    assert (await pod.ended()).signal == 9
    await output.text()
    assert await asyncio.wait_for(pod.gone, 60) == "the pod's init died"
    await nothing_left(pod.directory)


@FLAVORS
async def test_kill_of_the_launcher_is_the_end_of_all_pods(
    pods: Any, flavor: str, cgroups_of: Any, nothing_left: Any
) -> None:
    launcher = await Launcher.start()
    gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    directory = pods.make(pods.app("/bin/sh", "-c", "setsid sleep 1000 & sleep 1000"), flavor=flavor)
    sandbox = await launcher.run_pod(directory, lambda _: None, gone.set_result)
    read_end, write_end = os.pipe()
    await sandbox.start_app("app", stdin=None, stdout=write_end, stderr=write_end)
    os.close(write_end)
    os.kill(launcher.pid, signal.SIGKILL)
    assert await asyncio.wait_for(gone, 60) == "the launcher has ended"
    assert await asyncio.wait_for(launcher.died, 60) == -signal.SIGKILL
    assert (
        await asyncio.wait_for(asyncio.to_thread(os.read, read_end, 1), 60) == b""
    )  # all that held it are dead
    os.close(read_end)
    with pytest.raises(LaunchError, match="the launcher has ended"):
        await sandbox.start_app("app", stdin=None, stdout=1, stderr=1)
    # What is left are empty cgroups, and the next launcher collects them.
    again = await Launcher.start()
    try:
        await nothing_left(directory)
    finally:
        await again.close()


@FLAVORS
async def test_kill_of_the_executor_is_the_end_of_all(pods: Any, flavor: str, nothing_left: Any) -> None:
    directory = pods.make(pods.app("/bin/sh", "-c", "setsid sleep 1000 & sleep 1000"), flavor=flavor)
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from executor.pods.launcher import Launcher
        async def main():
            launcher = await Launcher.start()
            sandbox = await launcher.run_pod(Path(sys.argv[1]), print, print)
            await sandbox.start_app("app", stdin=None, stdout=1, stderr=1)
            print("started", flush=True)
            await asyncio.sleep(1000)
        asyncio.run(main())
        """
    )
    root = str(Path(__file__).resolve().parents[2])
    executor = subprocess.Popen(  # noqa: ASYNC220 - asyncio's own would need its pipes read by the loop
        [sys.executable, "-c", program, str(directory)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert executor.stdout is not None
    with executor:
        try:
            assert await asyncio.wait_for(asyncio.to_thread(executor.stdout.readline), 60) == b"started\n"
        finally:
            executor.kill()
        rest = await asyncio.wait_for(
            asyncio.to_thread(executor.stdout.read), 20
        )  # until the app's copy is closed
    assert rest == b""
    await nothing_left(directory)


async def test_collect_spares_the_pods_of_others(runner: Any, cgroups_of: Any) -> None:
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    pid, _ = await pod.start()
    other = await Launcher.start()
    await other.close()
    assert cgroups_of(pod.directory)
    assert Path(f"/proc/{pid}").exists()


async def test_no_mounts_reach_the_host(runner: Any) -> None:
    before = mounts(runner.pods.base)
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    await pod.start()
    assert mounts(runner.pods.base) == before


async def test_close_ends_everything(pods: Any, nothing_left: Any) -> None:
    launcher = await Launcher.start()
    directory = pods.make(pods.app("/bin/sleep", "1000"))
    sandbox = await launcher.run_pod(directory, lambda _: None, lambda _: None)
    await sandbox.start_app("app", stdin=None, stdout=1, stderr=1)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    await launcher.close()
    assert launcher.died.result() == 0
    await nothing_left(directory)
    assert not [pid for pid in children if not gone(pid)]
    await launcher.close()


@pytest.mark.parametrize("lists", [True, False])
async def test_there_is_room_for_many_pods_and_apps_have_what_the_executor_has(
    pods: Any, runner: Any, image: Path, lists: bool
) -> None:
    _, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = hard - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        launcher = await Launcher.start(spares=0, lists=lists, points=image.with_name("points"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        assert resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        result = await type(runner)(launcher, pods).sh("ulimit -Sn; ulimit -Hn")
        assert result.lines == [str(soft), str(hard)]
    finally:
        await launcher.close()


async def test_without_spares_it_is_the_same(pods: Any) -> None:
    launcher = await Launcher.start(spares=0)
    try:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        directory = pods.make(pods.app("/bin/sh", "-c", "exit 5"))
        sandbox = await launcher.run_pod(directory, ended.set_result, lambda _: None)
        await sandbox.start_app("app", stdin=None, stdout=1, stderr=1)
        assert (await asyncio.wait_for(ended, 60)).exit_code == 5
    finally:
        await launcher.close()


async def test_dead_spares_are_not_used(runner: Any, eventually: Any) -> None:
    await runner.sh("true")
    children = Path(f"/proc/{runner.launcher.pid}/task/{runner.launcher.pid}/children")
    await eventually(lambda: len(children.read_text().split()) == 2)  # one init, one starter
    spares = children.read_text().split()
    for pid in spares:
        os.kill(int(pid), signal.SIGKILL)
    await eventually(lambda: not set(spares) & set(children.read_text().split()))
    assert (await runner.sh("echo fine")).output == "fine\n"


def _name(pid: str) -> str:
    """Of a process that lives."""
    try:
        name, state = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except OSError:
        return ""
    return name if state.split()[0] != "Z" else ""


async def test_a_pod_whose_init_was_dead_before_is_an_error(runner: Any, eventually: Any) -> None:
    """The launcher sees the exit before the socket's end, and has to answer all the same; unless it was asked after it
    had another init, which is not ours to say."""
    await runner.sh("true")
    children = Path(f"/proc/{runner.launcher.pid}/task/{runner.launcher.pid}/children")
    spares = ["gantry-init", "gantry-start"]
    await eventually(lambda: sorted(map(_name, children.read_text().split())) == spares)
    os.kill(runner.launcher.pid, signal.SIGSTOP)
    try:
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        asked = asyncio.ensure_future(runner.pod(runner.pods.make(runner.pods.app("/bin/true"))))
        await asyncio.sleep(0.1)  # so that it is sent
    finally:
        os.kill(runner.launcher.pid, signal.SIGCONT)
    (answer,) = await asyncio.wait_for(asyncio.gather(asked, return_exceptions=True), 60)
    if isinstance(answer, LaunchError):
        assert re.search(r"the pod's init died|reset by peer", str(answer))
    else:
        assert not isinstance(answer, BaseException), answer
    assert (await runner.sh("echo fine")).output == "fine\n"


async def test_many_pods_at_once(runner: Any, nothing_left: Any) -> None:
    directories = [runner.pods.make(runner.pods.app("/bin/echo", str(n))) for n in range(12)]
    running = await asyncio.gather(*map(runner.pod, directories))
    started = await asyncio.gather(*(pod.start() for pod in running))
    assert [await output.text() for _, output in started] == [f"{n}\n" for n in range(12)]
    await asyncio.gather(*(pod.sandbox.stop() for pod in running))
    for directory in directories:
        await nothing_left(directory)


async def test_init_is_small(runner: Any, eventually: Any) -> None:
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    await pod.start()
    await eventually(lambda: Path(f"/proc/{pod.sandbox.pid}/cmdline").read_bytes() == b"gantry-init\0")
    rollup = Path(f"/proc/{pod.sandbox.pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    if os.uname().machine == "x86_64":
        assert pss < 100
