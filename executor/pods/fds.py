"""Pipes and terminals on the event loop: waiting reads and writes of non-blocking descriptors."""

import asyncio
import errno
import fcntl
import os
import struct
import termios
from typing import Final

READ_SIZE: Final = 1 << 16


def pipe() -> tuple[int, int]:
    """Both ends; whoever keeps one makes it non-blocking."""
    return os.pipe2(os.O_CLOEXEC)


def read_now(fd: int) -> bytes | None:
    """What there is, b"" at the end, None for nothing yet. A terminal that nobody has open any more is at its end."""
    try:
        return os.read(fd, READ_SIZE)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise


def _done(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


async def readable(fd: int, until: "asyncio.Future[None]") -> None:
    """Return when there is something to read, or `until` is done."""
    loop = asyncio.get_running_loop()
    there: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _done, there)
    try:
        await asyncio.wait((there, until), return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(fd)


async def write(fd: int, data: bytes) -> None:
    """All of it. Raises OSError when nobody reads (EPIPE, EIO)."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            free: asyncio.Future[None] = loop.create_future()
            loop.add_writer(fd, _done, free)
            try:
                await free
            finally:
                loop.remove_writer(fd)


def resize(terminal: int, width: int, height: int) -> None:
    """Tell a terminal its size; its foreground process group gets SIGWINCH (ioctl_tty(2))."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
