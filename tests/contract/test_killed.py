"""An executor that is killed at each step of a pod's life: the next one leaves nothing of it."""

import asyncio
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from executor.stage1 import cgroups, launcher

pytestmark = pytest.mark.root

EXECUTOR = """
    import asyncio, os, shutil, signal, sys
    from pathlib import Path
    from executor.contract import client, tree
    from executor.contract.stages import Stages
    from executor.pods import poddir
    from executor.stage0.settings import parse
    from executor.stage1 import cgroups
    root, name, image, digest = sys.argv[1:]

    def counted(owner, attribute):
        real = getattr(owner, attribute)
        def call(*args, **more):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*args, **more)
        setattr(owner, attribute, call)

    for owner, names in (
        (client.Holder, ("call", "kill")),
        (tree, ("put", "write", "write_pod")),
        (cgroups.PodCgroup, ("create", "remove")),
        (poddir, ("_remove",)),
        (os, ("rename",)),
        (Path, ("unlink",)),
    ):
        for one in names:
            counted(owner, one)

    async def main(pod):
        settings = parse({"stage1": {name: {"image": image, "digest": digest}}})
        stages = Stages(Path(root) / "state", settings, lambda path: directory.lock)
        directory = poddir.PodDir(Path(root) / "pods", pod, poddir.Phase.RUN, stages.dispose)
        ended = asyncio.Event()
        sandbox = await stages.run_pod(directory.path, lambda _: ended.set(), print)
        await sandbox.start_app("a0", stdin=None, stdout=1, stderr=2)
        await ended.wait()
        await sandbox.stop()
        directory.move(poddir.Phase.EXITED)
        await asyncio.to_thread(directory.strip)
        await asyncio.to_thread(directory.remove)

    # A process for each: the imports, which take longest, are done.
    for line in sys.stdin:
        pod, steps = line.split()
        left = int(steps)
        pid = os.fork()
        if pid == 0:
            asyncio.run(main(pod))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def _layout() -> cgroups.Layout:
    return cgroups.detect(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())


def _locked(pod: Path) -> bool:
    """Whether somebody has the lock of a pod's directory, wherever that is by now."""
    for path in pod.parents[1].glob(f"*/{pod.name}"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


@pytest.mark.parametrize("part", range(2))
async def test_nothing_is_left_whenever_the_executor_is_killed(
    world: Any, left: Any, until: Any, part: int
) -> None:
    name = world.stage1()
    table = world.tables[name]
    await world.stages.load()
    (program := world.root / "killed.py").write_text(textwrap.dedent(EXECUTOR))
    killed = 0
    command = [sys.executable, str(program), str(world.root), name, table["image"], table["digest"]]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as executors:
        assert executors.stdin is not None
        assert executors.stdout is not None
        for step in itertools.count(part, 2):
            pod = world.pod(name, "setsid sleep 1000 & exit 0")
            os.close(world.made.pop().lock)
            executors.stdin.write(f"{pod.name} {step}\n")
            code = int(await asyncio.to_thread(executors.stdout.readline))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
            await until(lambda name=pod.name: not [one for one in left(name) if not one.startswith("/sys")])
            await until(lambda pod=pod: not _locked(pod))  # a holder that has only begun to start
            launcher.collect(_layout())
            await asyncio.to_thread(world.dirs.collect)
            assert left(pod.name) == [], f"step {step}"
            assert not list((world.root / "pods").glob(f"*/{pod.name}")), f"step {step}"
        executors.stdin.close()
    assert left(pod.name) == []
    assert not list((world.root / "pods").glob(f"*/{pod.name}"))
    assert killed > 10
