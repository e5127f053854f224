"""A leader that is told to stop and is quickly followed by another one, in every order: an orderly end is one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from scheduler.config import Settings, parse
from scheduler.election.link import Link
from scheduler.election.messages import LARGEST, VARIABLE, Candidate, decode, encode, pair
from scheduler.exitcodes import LOST, OK
from scheduler.instance import Deposed, serve
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("election")]

OTHER = {name: getattr(Candidate("other", "http://other:1"), name) for name in Candidate.__slots__}


@pytest.fixture
def flags(zookeeper: Any, tmp_path: Path) -> list[str]:
    """Of a scheduler whose epoch 1 somebody has claimed. There is no Mesos."""
    client = KazooClient(zookeeper.address)
    client.start()
    try:
        client.ensure_path(f"/{tmp_path.name}/epoch")
        client.set(f"/{tmp_path.name}/epoch", b"", version=0)
    finally:
        client.stop()
        client.close()
    store = f"zk://{zookeeper.address}/{tmp_path.name}"
    return ["--master", "127.0.0.1:1", "--store", store, "--listen", "127.0.0.1:0"]


class Parent:
    """The other end of the link."""

    def __init__(self) -> None:
        self.end, self.its = pair()
        self.end.settimeout(PATIENCE)

    def hears(self, kind: str) -> None:
        while (message := decode(self.end.recv(LARGEST)))["kind"] != kind:
            assert message["kind"] == "tick"

    def elect(self) -> None:
        self.hears("candidate")
        self.end.send(encode("cut off", on=False))
        self.end.send(encode("lead", epoch=1))

    def depose(self) -> None:
        self.end.send(encode("follow", leader=OTHER))


@pytest.fixture
def parent() -> Iterator[Parent]:
    made = Parent()
    with made.end, made.its:
        yield made


class Quick(Link):
    """Behind it another one leads before whoever withdraws has returned."""

    def withdraw(self) -> None:
        super().withdraw()
        self._take({"kind": "follow", "leader": OTHER})


@pytest.fixture
async def leader(flags: list[str], parent: Parent) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.Event]]:
    """In this process; and what stops it."""
    settings: Settings = parse(flags, {})
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, stop, Quick(parent.its)))
    await asyncio.to_thread(parent.elect)
    yield task, stop
    task.cancel()
    await asyncio.wait([task])


async def leads(task: asyncio.Task[None], caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(PATIENCE):
        while "this scheduler leads, epoch 1" not in caplog.text:
            assert not task.done()
            await asyncio.sleep(0.01)


async def test_the_next_one_leads_before_this_one_has_ended(leader: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    task, stop = leader
    await leads(task, caplog)
    stop.set()
    await task


async def test_who_is_not_told_to_stop_is_deposed(leader: Any, parent: Parent, caplog: Any) -> None:
    caplog.set_level("INFO")
    task, _ = leader
    await leads(task, caplog)
    parent.depose()
    with pytest.raises(Deposed, match="another scheduler leads now"):
        await task


@pytest.mark.parametrize(("told", "code"), [(True, OK), (False, LOST)])
def test_both_at_once(flags: list[str], parent: Parent, tmp_path: Path, told: bool, code: int) -> None:
    """It is told to stop, and that another one leads, and sees both at the same moment."""
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "gantry", "scheduler", *flags],
            pass_fds=[parent.its.fileno()],
            env={
                **os.environ,
                VARIABLE: str(parent.its.fileno()),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdin=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        parent.elect()
        while b"this scheduler leads" not in log.read_bytes():
            parent.hears("tick")
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        parent.depose()
        if told:
            process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == code, log.read_text()
    finally:
        process.kill()
        process.wait()
