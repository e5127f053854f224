"""Asks a running QEMU for something (docs/interop/qmp-spec.rst of QEMU), and gives it descriptors.

QEMU is not trusted more than the machine in it: what it says is bounded, and a wrong word is an error.
"""

import array
import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any, Final

_LIMIT: Final = 1 << 20
_RUNNING: Final = "running"


class QmpError(Exception):
    """QEMU refuses, or does not keep to its protocol, or has ended; one line."""


class Qmp:
    """The one who asks. sock: its end of a connected stream socket, closed by `close`. Use it from one event loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._answer: asyncio.Future[Any] | None = None
        self._running: asyncio.Future[None] = self._loop.create_future()
        self._trouble = ""
        self._loop.add_reader(sock.fileno(), self._read)

    async def open(self) -> None:
        """Begin. Raises QmpError, as all that follows."""
        await self.execute("qmp_capabilities")

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, fd: int | None = None
    ) -> Any:
        """One command, and what it returns. fd: travels with it. One at a time."""
        if self._trouble:
            raise QmpError(self._trouble)
        self._answer = self._loop.create_future()
        text = json.dumps({"execute": command, "arguments": dict(arguments or {})}).encode()
        extra = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self._sock.sendmsg([text], extra)
        except OSError as error:
            raise QmpError(f"{command}: {error}") from None
        try:
            reply = await self._answer
        finally:
            self._answer = None
        if "error" in reply:
            raise QmpError(f"{command}: {reply['error'].get('desc', 'QEMU refuses')}")
        return reply["return"]

    async def running(self) -> None:
        """Wait until the machine runs."""
        if (await self.execute("query-status"))["status"] != _RUNNING:
            await asyncio.shield(self._running)

    async def connect(self, name: str, sock: socket.socket) -> None:
        """Make a character device of that name of a connected socket."""
        await self.execute("getfd", {"fdname": name}, fd=sock.fileno())
        address = {"type": "fd", "data": {"str": name}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        await self.execute("chardev-add", {"id": name, "backend": backend})

    def close(self) -> None:
        """Say no more. Idempotent."""
        self._fail("nobody asks any more")
        self._sock.close()

    def _fail(self, reason: str) -> None:
        if self._trouble:
            return
        self._trouble = reason
        self._loop.remove_reader(self._sock.fileno())
        for waiting in (self._answer, self._running):
            if waiting is not None and not waiting.done():
                waiting.set_exception(QmpError(reason))
                waiting.exception()  # whether or not somebody waits

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"QEMU: {error}")
            return
        if not data:
            self._fail("QEMU has ended")
            return
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        try:
            for line in lines:
                self._on_message(json.loads(line))
        except (ValueError, TypeError, AttributeError):
            self._fail("QEMU does not keep to its protocol")
        if len(self._buffer) > _LIMIT:
            self._fail("QEMU says more than anybody asked for")

    def _on_message(self, message: dict[str, Any]) -> None:
        if message.get("event") == "RESUME" and not self._running.done():
            self._running.set_result(None)
        elif ("return" in message or "error" in message) and self._answer and not self._answer.done():
            self._answer.set_result(message)
