"""What a machine's kernel and its programs have said last, for whoever asks why it ended."""

import asyncio
import os
from typing import Final

_KEPT: Final = 8192
_LAST: Final = 500


class Console:
    """The reading end of a pipe. Use it from one event loop."""

    def __init__(self) -> None:
        self._reader = -1
        self._text = bytearray()
        self._awaited: tuple[bytes, asyncio.Future[None]] | None = None

    def open(self) -> int:
        """The writing end, the caller's to close."""
        self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        asyncio.get_running_loop().add_reader(self._reader, self._read)
        return writer

    async def said(self, text: bytes) -> None:
        """Wait until it has said something."""
        self._awaited = text, asyncio.get_running_loop().create_future()
        self._notice()
        await self._awaited[1]

    def last(self) -> str:
        """Its last lines in one, after a colon; "" when nothing was said."""
        if self._reader >= 0:
            self._read()
        lines = [line.strip() for line in self._text.decode("utf-8", "replace").splitlines()]
        panic = next((at for at, line in enumerate(lines, 1) if "Kernel panic" in line), len(lines))
        text = " / ".join(line for line in lines[:panic] if line)  # a panic's registers tell nobody anything
        return f": {text[-_LAST:]}" if text else ""

    def close(self) -> None:
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    def _read(self) -> None:
        try:
            data = os.read(self._reader, _KEPT)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._text = (self._text + data)[-_KEPT:]
        self._notice()

    def _notice(self) -> None:
        if self._awaited is not None and self._awaited[0] in self._text and not self._awaited[1].done():
            self._awaited[1].set_result(None)
