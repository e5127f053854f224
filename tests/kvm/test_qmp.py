"""What QEMU is asked, and what it may answer."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from executor.kvm.qmp import Qmp, QmpError


class Peer:
    """Speaks QMP as QEMU does, from a list of answers; keeps what it was asked, and the descriptors."""

    def __init__(self, answers: list[bytes], *, ends: bool) -> None:
        ours, self.theirs = socket.socketpair()
        self.ends = ends
        self.answers = answers
        self.asked: list[dict[str, Any]] = []
        self.fds: list[int] = []
        self.qmp = Qmp(ours)
        self._task = asyncio.create_task(asyncio.to_thread(self._serve))

    def _serve(self) -> None:
        with self.theirs, contextlib.suppress(ConnectionError):
            self.theirs.sendall(b'{"QMP": {"version": {}}}\r\n')
            for answer in self.answers:
                data, fds, _, _ = socket.recv_fds(self.theirs, 65536, 4)
                if not data:
                    return
                self.asked.append(json.loads(data))
                self.fds += fds
                self.theirs.sendall(answer)
            if not self.ends:
                self.theirs.recv(1)

    async def close(self) -> None:
        self.qmp.close()
        await self._task
        for fd in self.fds:
            os.close(fd)


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[Any]:
    made: list[Peer] = []

    def make(*answers: bytes, ends: bool = False) -> Peer:
        made.append(Peer(list(answers), ends=ends))
        return made[-1]

    yield make
    for peer in made:
        await peer.close()


DONE = b'{"return": {}}\r\n'


async def test_qmp_asks_waits_and_gives_descriptors(peers: Any) -> None:
    status = b'{"return": {"status": "inmigrate"}}\r\n{"event": "RESUME"}\r\n'
    peer = peers(DONE, status, DONE, DONE)
    await peer.qmp.open()
    await peer.qmp.running()
    with socket.socket(socket.AF_UNIX) as sock:
        await peer.qmp.connect("files", sock)
    assert [one["execute"] for one in peer.asked] == [
        "qmp_capabilities",
        "query-status",
        "getfd",
        "chardev-add",
    ]
    assert len(peer.fds) == 1
    assert peer.asked[3]["arguments"]["backend"]["data"]["addr"]["data"]["str"] == "files"


async def test_qmp_says_what_qemu_refuses(peers: Any) -> None:
    peer = peers(b'{"error": {"class": "GenericError", "desc": "no such bus"}}\r\n', DONE)
    with pytest.raises(QmpError, match="device_add: no such bus"):
        await peer.qmp.execute("device_add", {"driver": "x"})
    await peer.qmp.execute("stop")


@pytest.mark.parametrize(
    ("answer", "what"),
    [(b"what?\r\n", "protocol"), (b"[]\r\n", "protocol"), (b"x" * (2 << 20), "more than anybody asked for")],
    ids=["no JSON", "no object", "endless"],
)
async def test_qmp_does_not_believe_everything(peers: Any, answer: bytes, what: str) -> None:
    peer = peers(answer)
    with pytest.raises(QmpError, match=what):
        await peer.qmp.open()
    with pytest.raises(QmpError, match=what):
        await peer.qmp.execute("stop")


async def test_an_ended_qemu_is_noticed(peers: Any) -> None:
    peer = peers(DONE, ends=True)
    await peer.qmp.open()
    for _ in range(2):
        with pytest.raises(QmpError):
            await peer.qmp.running()
