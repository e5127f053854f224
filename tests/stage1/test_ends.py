"""Ends that meet other things: what one pod's end must not do to another's beginning."""

import asyncio
import ctypes
import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import Launcher
from tests.stage1.conftest import Pods, Runner

pytestmark = pytest.mark.root
SEIZE = 0x4206  # include/uapi/linux/ptrace.h


def starters(launcher: int) -> list[int]:
    """The processes that a launcher has for starting apps."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "gantry-start\n"]


def waits(pid: int) -> bool:
    """For the next message, whatever that call is."""
    call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return call == {"x86_64": "47", "aarch64": "212"}[os.uname().machine]  # recvmsg


async def test_who_is_killed_with_a_pod_starts_no_other_s_app(
    pods: Pods, image: Path, eventually: Any
) -> None:
    """A starter that has said that its app runs, when the launcher hears first that the pod shall end. That it has
    died is heard late: we trace it, and whoever traces hears it first."""
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    reading, writing = os.pipe()
    try:
        runner = Runner(launcher, pods)
        ending = await runner.pod(pods.make(pods.app("/bin/sh", "-c", "echo up; exec sleep 1000")))
        other = await runner.pod(pods.make(pods.app("/bin/true")))
        await eventually(lambda: len(starters(launcher.pid)) == 1)
        (starter,) = starters(launcher.pid)
        os.kill(starter, signal.SIGSTOP)
        begun = asyncio.create_task(
            ending.sandbox.start_app("app", stdin=None, stdout=writing, stderr=writing)
        )
        await asyncio.sleep(0)  # it is asked for that before the next
        await runner.pod(pods.make(pods.app("/bin/true")))  # the launcher has done what it was asked before
        os.kill(launcher.pid, signal.SIGSTOP)
        try:
            stopped = asyncio.create_task(ending.sandbox.stop())
            await asyncio.sleep(0)
            started = asyncio.create_task(other.start())
            await asyncio.sleep(0)
            os.kill(starter, signal.SIGCONT)
            await eventually(lambda: select.select([reading], [], [], 0)[0])
            assert os.read(reading, 3) == b"up\n"
            await eventually(lambda: waits(starter))
            assert ctypes.CDLL(None).ptrace(SEIZE, starter, None, None) == 0
        finally:
            os.kill(launcher.pid, signal.SIGCONT)
        try:
            _, output = await started
        finally:
            await asyncio.to_thread(os.waitpid, starter, 0)
        assert (await other.ended()).exit_code == 0
        assert await output.text() == ""
        await asyncio.gather(begun, stopped, return_exceptions=True)
    finally:
        os.close(reading)
        os.close(writing)
        await launcher.close()


def resident(pid: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def test_the_launcher_keeps_nothing_of_pods_that_have_gone(pods: Pods, image: Path) -> None:
    """It collects no garbage: what refers to itself would stay."""
    launcher = await Launcher.start(spares=1, points=image.with_name("points"))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    async def one() -> None:
        pod = await Runner(launcher, pods).pod(
            pods.make(pods.app("/bin/sleep", "1000"), network="loopback", processes="own")
        )
        await pod.sandbox.start_app("app", stdin=null, stdout=null, stderr=null)
        program = await pod.sandbox.exec("app", ["/bin/true"], streams=(null, null, null))
        await program.ended
        await pod.sandbox.signal_app("app", signal.SIGKILL)
        await pod.ended()
        await pod.sandbox.stop()

    try:
        for _ in range(20):
            await one()
        before = resident(launcher.pid)
        for _ in range(50):
            await one()
        assert resident(launcher.pid) - before < 250
    finally:
        os.close(null)
        await launcher.close()
