"""What an instance of an app reads: its standard input, or its terminal. What it writes goes to its log (`logs`).

Input is kept open for as long as the app runs, whoever comes and goes; `stdinOnce` is the server's matter.
"""

import asyncio
import os

from executor.pods import fds


class Console:
    """fd: the end to write to, non-blocking, closed with this; -1: the app reads nothing."""

    def __init__(self, fd: int = -1, *, terminal: bool = False) -> None:
        self._fd = fd
        self._writing = asyncio.Lock()
        self.terminal = terminal
        if fd >= 0:
            os.set_blocking(fd, False)

    async def write(self, data: bytes) -> bool:
        """False when the app reads no more."""
        async with self._writing:  # of two that are attached each says what it says in one piece
            if self._fd < 0:
                return False
            try:
                await fds.write(self._fd, data)
            except OSError:
                return False
            return True

    def resize(self, width: int, height: int) -> None:
        if self.terminal and self._fd >= 0:
            fds.resize(self._fd, width, height)

    def end_input(self) -> None:
        """The app finds the end of its input. A terminal has none: programs are told by a character."""
        if not self.terminal:
            self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Who waits to write would wait forever.
            asyncio.get_running_loop().remove_writer(fd)
            os.close(fd)
