"""The host's end of the wire, at whose other end is whatever has taken a machine over."""

import asyncio
import json
import socket
from typing import Any

import pytest

from executor.kvm.guest import frames
from executor.kvm.sandbox import Guest
from executor.kvm.wire import Wire
from executor.pods.launcher import LaunchError

DEEP = b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


async def opened() -> tuple[Guest, socket.socket]:
    ours, theirs = socket.socketpair()
    guest = Guest()
    guest.wire = await Wire.open(ours, guest.on_message, guest.lost)
    return guest, theirs


@pytest.mark.parametrize(
    "message",
    [
        b"[]",
        b"nothing",
        b'{"event": "connection"}',
        b'{"event": "connection", "port": [], "stream": 1}',
        b'{"event": "connection", "port": 80, "stream": 1}',
        b'{"event": "exit"}',
        b'{"ready": false, "error": 1, "id": {}}x',
        json.dumps({"id": 1, "errno": 10**30}).encode(),
        DEEP,
    ],
    ids=["list", "no-json", "no-port", "port", "number", "exit", "more", "errno", "deep"],
)
async def test_a_machine_that_does_not_keep_to_the_protocol_is_ended(message: bytes) -> None:
    guest, theirs = await opened()
    asked = asyncio.ensure_future(guest.connect("127.0.0.1", 80))
    await asyncio.sleep(0)
    theirs.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(theirs, frames.pack(frames.MESSAGE, 0, message))
    async with asyncio.timeout(60):
        with pytest.raises(OSError, match="does not keep to the protocol"):
            await asked
    with pytest.raises(LaunchError):
        await guest.call("run", "pod")
    theirs.close()


async def test_answers_to_nobody_and_streams_that_there_are_not_change_nothing() -> None:
    guest, theirs = await opened()
    asked = asyncio.ensure_future(guest.connect("127.0.0.1", 80))
    await asyncio.sleep(0)
    said: list[dict[str, Any]] = [{"id": 99}, {"id": 1}, {"id": 1}]
    odd = frames.pack(frames.DATA, 77, b"x") + frames.credit(77, 5) + frames.pack(frames.END, 77)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(theirs, odd + b"".join(map(frames.message, said)))
    async with asyncio.timeout(60):
        made = await asked
        # Both ways; each ends by itself.
        await loop.sock_sendall(theirs, frames.pack(frames.DATA, 1, b"hello") + frames.pack(frames.END, 1))
        assert await loop.sock_recv(made, 100) == b"hello"
        assert await loop.sock_recv(made, 100) == b""
        await loop.sock_sendall(made, b"bye")
        made.close()
        decoder, found = frames.Decoder(), []
        while not found or found[-1].kind != frames.END:
            found += decoder.feed(await loop.sock_recv(theirs, 4096))
    assert found[0].message()["do"] == "connect"
    assert [(one.stream, one.data) for one in found if one.kind == frames.DATA] == [(1, b"bye")]
    assert guest.wire is not None
    assert guest.wire.streams == {}
    guest.wire.close("over")
    theirs.close()


async def test_a_machine_that_answers_is_alive_whatever_it_says() -> None:
    guest, theirs = await opened()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    guest.watch("pod", 0.05)
    for number in range(1, 6):
        (asked,) = frames.Decoder().feed(await loop.sock_recv(theirs, 4096))
        assert asked.message() == {"id": number, "do": "ping", "pod": "pod"}
        said = {"id": number, **({"error": "no such request"} if number % 2 else {})}
        await loop.sock_sendall(theirs, frames.message(said))
    async with asyncio.timeout(60):
        await guest.died
    with pytest.raises(LaunchError, match="has not answered"):
        await guest.call("run", "pod")
    theirs.close()


async def test_connections_of_a_machine_are_begun_by_it_and_are_not_without_number() -> None:
    guest, theirs = await opened()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    served: list[socket.socket] = []

    def connect() -> socket.socket:
        ours, end = socket.socketpair()
        served.append(ours)
        return end

    listening = asyncio.ensure_future(guest.listen(80, connect))
    (asked,) = frames.Decoder().feed(await loop.sock_recv(theirs, 4096))
    await loop.sock_sendall(theirs, frames.message({"id": asked.message()["id"]}))
    await listening
    for number in range(65):
        stream = frames.OWN + number
        said = frames.message({"event": "connection", "port": 80 if number else 81, "stream": stream})
        await loop.sock_sendall(theirs, said + frames.pack(frames.DATA, stream, b"%d" % number))
    said = frames.message({"event": "connection", "port": 80, "stream": frames.OWN + 99})
    await loop.sock_sendall(theirs, said)
    decoder, refused = frames.Decoder(), []
    while len(refused) < 4:
        found = decoder.feed(await loop.sock_recv(theirs, 65536))
        refused += [frame.stream - frames.OWN for frame in found if frame.kind == frames.END]
    assert refused == [0, 0, 99, 99]
    assert [sock.recv(9) for sock in served] == [b"%d" % number for number in range(1, 65)]
    for sock in (*served, theirs):
        sock.close()
