"""A bounded pipe from the event loop to a worker thread: a download feeds an extraction, neither runs ahead.

The writer is a coroutine and waits when the reader is slow; the reader is a thread and blocks. Whoever gives up first
wakes the other: `close` by the reader makes writes fail, `finish(error)` by the writer makes reads raise.
"""

import asyncio
import queue
import threading

from executor.stage0.errors import ImageError

SLOTS = 16


class Closed(Exception):
    """The reader has gone; there is no use in downloading on."""


class Pipe:
    """Made by the reader's thread or the loop; `write` and `finish` on the loop, `read` and `close` in the thread.

    written: bytes handed over so far.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._room = asyncio.Semaphore(SLOTS)
        self._queue: queue.SimpleQueue[bytes | ImageError | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._rest = b""
        self._end: ImageError | None = None
        self._ended = False
        self.written = 0

    async def write(self, data: bytes) -> None:
        """Hand over a chunk; waits for room. Closed when the reader has gone."""
        await self._room.acquire()
        if self._closed.is_set():
            raise Closed
        self._queue.put(data)
        self.written += len(data)

    def finish(self, error: ImageError | None = None) -> None:
        """The end of the stream, or why it broke."""
        self._queue.put(error)

    def read(self, n: int, /) -> bytes:
        """At most n bytes, b"" at the end; raises the writer's error."""
        if not self._rest and not self._ended:
            item = self._queue.get()
            if isinstance(item, bytes):
                self._rest = item
                self._release()
            else:
                self._ended, self._end = True, item
        if self._end is not None:
            raise self._end
        data, self._rest = self._rest[:n], self._rest[n:]
        return data

    def wake(self) -> None:
        """End a read that waits in another thread."""
        self._queue.put(None)

    def close(self) -> None:
        """No more reads."""
        self._closed.set()
        self._release()

    def _release(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._room.release)
        except RuntimeError:
            pass  # the loop has ended, and the writer with it
