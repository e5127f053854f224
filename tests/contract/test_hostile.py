"""Stage1 images that fail, lie, hang, and will not go: each has a clear error, and nothing of it stays."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from executor.contract.sandbox import Patience
from executor.pods.launcher import LaunchError

pytestmark = pytest.mark.root
SHORT = Patience(start=0.5, stop=0.5, force=0.3, gc=0.5, poll=0.02, look=0.05, between_gc=0.02)


async def start(world: Any, pod: Path, out: Any) -> Any:
    sandbox = await world.run(pod)
    await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
    return sandbox


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("echo no network >&2; exit 254", r"could not run the pod \(exit code 254, its own failure\)"),
        ("exit 254", "could not run the pod"),
        ("exit 0", r"`run` ended with exit code 0 before it wrote pid or ppid"),
        ("kill -9 $$", r"`run` ended with SIGKILL before it wrote"),
        ("sleep 1000", r"`run` wrote neither pid nor ppid within 0.5 s"),
        ("echo banana > pid; sleep 1000", r"it wrote 'banana' into pid, which is no process id"),
        ("echo -1 > pid; sleep 1000", r"it wrote '-1' into pid, which is no process id"),
        ("echo 1 > pid; sleep 1000", r"it wrote 1 into pid, which is no process of the pod"),
        ("echo 999999999 > pid; sleep 1000", r"wrote neither pid nor ppid"),
        ("ln -s /etc/passwd pid; sleep 1000", r"pid cannot be read: Too many levels of symbolic links"),
        ("mkfifo pid; sleep 1000", r"pid is not a plain file"),
        ("head -c 9999 /dev/zero > pid; sleep 1000", r"pid is longer than 64 bytes"),
        ("sleep 99 & sleep 99 & echo $$ > ppid; wait", r"a process with 2 children: one is allowed"),
        ("echo 1 > ppid; sleep 1000", r"it wrote 1 into ppid, which is no process of the pod"),
    ],
)
async def test_a_run_that_does_not_run(world: Any, output: Any, run: str, message: str) -> None:
    world.patience = SHORT
    pod = world.pod(world.stage1(run=run), "true")
    with pytest.raises(LaunchError, match=message) as failed:
        await start(world, pod, output())
    assert str(failed.value).startswith("stage1 single-0: ")
    assert "\n" not in str(failed.value)
    assert world.sandboxes[0].members() == set()


async def test_run_cannot_be_executed(world: Any, output: Any) -> None:
    name = world.stage1()
    table = world.tables[name]
    pod = world.pod(name, "true")
    (world.root / f"{name}.rootfs" / "run").write_text("#!/no/such/interpreter\n")
    table["digest"] = world.rebuild(name)
    with pytest.raises(LaunchError, match=r"execute .*/stage1/rootfs/run: No such file or directory"):
        await start(world, pod, output())


async def test_one_that_is_not_stopped_by_stop(world: Any, output: Any) -> None:
    world.patience = SHORT
    run = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"
    pod = world.pod(world.stage1(run=run, stop="sleep 1000"), "true")
    sandbox = await start(world, pod, output())
    await sandbox.signal_app("a0", signal.SIGTERM)
    assert not world.exits
    await sandbox.signal_app("a0", signal.SIGKILL)
    assert (await world.exit_of()).signal == signal.SIGKILL


@pytest.mark.parametrize("status", ["banana", "-1", "256", "1e3", "0x10"])
async def test_a_status_that_is_none(world: Any, output: Any, status: str) -> None:
    run = f"echo $$ > pid; echo {status} > stage1/rootfs/rkt/status/a0; sleep 1000"
    await start(world, world.pod(world.stage1(run=run), "true"), output())
    assert (await world.exit_of()).exit_code == 255


@pytest.mark.parametrize("lie", ["ln -s /etc/hostname", "mkfifo", "mkdir", "ln -s /dev/zero", "mknod -m 666"])
async def test_a_status_that_is_no_file(world: Any, output: Any, lie: str) -> None:
    extra = " c 1 5" if lie.startswith("mknod") else ""
    run = f"echo $$ > pid; {lie} stage1/rootfs/rkt/status/a0{extra}; sleep 1000"
    await start(world, world.pod(world.stage1(run=run), "true"), output())
    assert (await world.exit_of()).exit_code == 255


async def test_a_status_directory_that_leads_out(world: Any, output: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a0").write_text("0")
    top = "stage1/rootfs/rkt"
    run = f"echo $$ > pid; rm -rf {top}; mkdir {top}; ln -s {tmp_path}/elsewhere {top}/status; exit 9"
    await start(world, world.pod(world.stage1(run=run), "true"), output())
    assert (await world.exit_of()).exit_code == 255


async def test_the_end_of_one_that_only_lied_about_it(world: Any, output: Any) -> None:
    run = "echo $$ > pid; echo 0 > stage1/rootfs/rkt/status/a0; sleep 1000"
    sandbox = await start(world, world.pod(world.stage1(run=run), "true"), output())
    assert (await world.exit_of()).exit_code == 0
    await sandbox.stop()
    assert sandbox.members() == set()


async def test_its_failure_after_the_start_is_254(world: Any, output: Any) -> None:
    await start(world, world.pod(world.stage1(run="echo $$ > pid; sleep 0.3; exit 254"), "true"), output())
    assert (await world.exit_of()).exit_code == 254


async def test_processes_that_hide(world: Any, output: Any) -> None:
    """New sessions, new namespaces, orphans: the cgroup has them."""
    run = "echo $$ > pid; (setsid unshare -pf --mount-proc sleep 1000 &) ; setsid setsid sleep 1000 & exit 0"
    sandbox = await start(world, world.pod(world.stage1(run=run), "true"), output())
    await world.exit_of()
    await sandbox.stop()
    assert sandbox.members() == set()


@pytest.mark.parametrize(
    ("gc", "said"),
    [
        ("echo no >&2; exit 3", "`gc` ended with exit code 3: no"),
        ("sleep 1000", "did not end within 0.5 s, killed"),
    ],
)
async def test_gc_that_fails_is_tried_again_and_told(
    world: Any, output: Any, gc: str, said: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    world.patience = SHORT
    script = f"echo x >> logs/tries; test -e {tmp_path}/mended && exit 0; {gc}"
    pod = world.pod(world.stage1(gc=script), "exit 0")
    sandbox = await start(world, pod, output())
    await world.exit_of()
    await sandbox.stop()
    await asyncio.to_thread(world.made[0].strip)
    assert (pod / "logs" / "tries").read_text() == "x\n" * 3
    assert said in caplog.text
    assert (pod / "stage1" / "manifest").exists()  # for the next start of an executor
    (tmp_path / "mended").touch()
    await asyncio.to_thread(world.made[0].strip)
    assert not (pod / "stage1").exists()


async def test_a_holder_that_is_killed_takes_its_pod_along(world: Any, output: Any, until: Any) -> None:
    sandbox = await start(world, world.pod(world.stage1(), "setsid sleep 1000 & sleep 1000"), output())
    os.kill(sandbox.holder._process.pid, signal.SIGKILL)
    await world.until(lambda: world.gone or world.exits)
    await until(lambda: sandbox.members() == set())
    await sandbox.stop()


EXECUTOR = """
    import asyncio, sys
    from pathlib import Path
    from executor.contract.sandbox import Patience
    from executor.contract.stages import Stages
    from executor.pods.poddir import PodDirs
    from executor.stage0.settings import parse
    root, name, image, digest, pod = sys.argv[1:]
    dirs = PodDirs(Path(root) / "pods")
    async def main():
        settings = parse({"stage1": {name: {"image": image, "digest": digest}}})
        stages = Stages(Path(root) / "state", settings, lambda path: __import__("os").open(path, 0))
        sandbox = await stages.run_pod(Path(pod), print, print)
        await sandbox.start_app("a0", stdin=None, stdout=1, stderr=2)
        print("up", flush=True)
        await asyncio.sleep(1000)
    asyncio.run(main())
"""


async def test_an_executor_that_is_killed_takes_its_pods_along(world: Any, left: Any, until: Any) -> None:
    """And the next one collects: `gc` first, then the directory."""
    name = world.stage1()
    pod = world.pod(name, "setsid sleep 1000 & trap '' TERM; sleep 1000")
    table = world.tables[name]
    command = [sys.executable, "-c", textwrap.dedent(EXECUTOR), str(world.root), name]
    process = subprocess.Popen(  # noqa: ASYNC220
        [*command, table["image"], table["digest"], str(pod)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert await asyncio.to_thread(process.stdout.readline) == "up\n"
        assert left(pod.name)
        process.kill()
        process.wait()
    await until(lambda: not [one for one in left(pod.name) if not one.startswith("/sys")])
    directory = world.made.pop()
    (pod / "logs").rename(world.root / "logs")
    (pod / "logs").symlink_to(world.root / "logs")
    os.close(directory.lock)
    assert await asyncio.to_thread(world.dirs.collect) == [pod.name]
    assert (world.root / "logs" / "gc").read_text() == f"--local-config /etc/rkt {pod.name}\n"
    assert left(pod.name) == []
    assert not pod.exists()
