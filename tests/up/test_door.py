"""The one address of several schedulers."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress

import pytest

from tests.ports import free_port, free_ports


async def served(stack, port, name):
    """A server that says its name, then everything it is told, then that it is over."""

    async def handle(reader, writer):
        writer.write(name)
        writer.write(await reader.read())
        writer.write(b" over")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    stack.callback(server.close)
    return server


async def ask(port, text):
    """All that comes back when `text` is all that is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        with suppress(OSError):  # a door with nobody behind it may have hung up already
            writer.write_eof()
        return await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def door():
    async with AsyncExitStack() as stack:
        listen, *targets = free_ports(3)
        to = ",".join(f"127.0.0.1:{port}" for port in targets)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.door", "--listen", f"127.0.0.1:{listen}", "--to", to)
        )
        try:
            yield listen, targets, stack
        finally:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def answer(listen, text):
    async with asyncio.timeout(60):
        while True:
            try:
                if got := await ask(listen, text):
                    return got
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def test_both_are_used_and_either_will_do(door):
    listen, (one, other), stack = door
    first = await served(stack, one, b"one ")
    assert {await answer(listen, b"x") for _ in range(4)} == {b"one x over"}
    await served(stack, other, b"two ")
    assert {await answer(listen, b"x") for _ in range(4)} == {b"one x over", b"two x over"}
    first.close()
    await first.wait_closed()
    assert {await answer(listen, b"x") for _ in range(4)} == {b"two x over"}


async def test_much_goes_through(door):
    listen, (one, _), stack = door
    await served(stack, one, b"")
    data = os.urandom(3_000_000)
    assert await answer(listen, data) == data + b" over"


async def test_nobody_there_is_a_connection_that_ends(door):
    listen, _, stack = door
    server = await served(stack, door[1][0], b"")  # to know that the door is open
    await answer(listen, b"x")
    server.close()
    await server.wait_closed()
    assert await ask(listen, b"x") == b""


async def test_a_port_in_use_is_said():
    taken = free_port()
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", taken):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.door", "--listen", f"127.0.0.1:{taken}", "--to", "127.0.0.1:1"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode == 3
    assert said.decode().startswith("gantry: error: door: ")
