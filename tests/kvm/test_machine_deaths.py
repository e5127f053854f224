"""Whatever of a machine is killed, nothing of it stays, and whoever asked is told."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from tests.kvm.hierarchy import processes

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("machines"),
    pytest.mark.asyncio(loop_scope="module"),
]


def _pids(machine: Any, program: str) -> list[int]:
    """The machine's processes that run a program."""
    return _running(machine.directory.name, program)


def _running(pod: str, program: str) -> list[int]:
    """The processes of a pod on the host that run a program."""
    return [pid for pid in processes(pod) if _is(pid, program)]


def _is(pid: int, program: str) -> bool:
    try:
        return program in Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return False


async def _end(pid: int) -> None:
    """Wait for the end of a process that is not ours."""
    pidfd, ended = os.pidfd_open(pid), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 90)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def test_qemu_is_nobody_and_in_the_pod_s_cgroup(start: Any, leftovers: Any) -> None:
    machine = await start({"app": {"exec": ["sleep", "1000"]}})
    reader, writer = os.pipe()
    await machine.sandbox.start_app("app", stdin=None, stdout=writer, stderr=writer)
    os.close(writer)
    (qemu,) = _pids(machine, "qemu-system")
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{qemu}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split()[0] != "0"
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for name in ("net", "pid", "mnt", "ipc"):
        assert os.readlink(f"/proc/{qemu}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")

    os.kill(qemu, signal.SIGKILL)
    reason = await asyncio.wait_for(machine.gone, 90)
    assert "QEMU ended with signal 9" in reason
    assert leftovers(machine.directory) == []
    with pytest.raises(LaunchError, match="the machine has ended"):
        await machine.sandbox.exec("app", ["true"], streams=(1, 2))
    await machine.sandbox.stop()
    assert os.read(reader, 1) == b"", "its output has ended, too"
    os.close(reader)


async def test_nothing_outlives_the_launcher_of_the_host(start: Any) -> None:
    machine = await start({"app": {"exec": ["sleep", "1000"]}})
    (virtiofsd,) = _pids(machine, "virtiofsd")[:1]
    (qemu,) = _pids(machine, "qemu-system")
    ends = [asyncio.create_task(_end(pid)) for pid in (virtiofsd, qemu)]
    await asyncio.sleep(0)
    os.kill(machine.host.pid, signal.SIGKILL)
    await asyncio.wait_for(machine.gone, 90)
    await asyncio.gather(*ends)


async def test_a_pod_boots_when_its_template_dies(start: Any, state: Path, leftovers: Any) -> None:
    """QEMU is killed while the template is made."""
    templates = state / "kvm" / "templates"
    for made in templates.glob("*.template"):
        made.unlink()
    starting = asyncio.create_task(start({"app": {"exec": ["echo", "up"]}}))
    killed: set[int] = set()
    while not starting.done() and not killed:
        for place in templates.glob("making-*"):
            for pid in _running(place.name, "qemu-system"):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        await asyncio.wait([starting], timeout=0.05)
    machine = await starting
    if '"tcg"' not in (state / "kvm" / "accelerator.json").read_text():
        pytest.skip("where KVM works there are no templates")
    assert killed
    ended, output = await machine.run("app")
    assert (ended.exit_code, output) == (0, "up\n")
    assert not list(templates.glob("making-*"))
    await machine.sandbox.stop()
    assert leftovers(machine.directory) == []
