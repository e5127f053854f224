"""The way of records from the connection to the callbacks: in order, bounded, without holding up the loop.

A record goes to its callback in the turn of the loop that completed it, unless many come at once: after a time
slice the rest waits for the next turn, so calls, heartbeats and everybody else on the loop get theirs. When more
than the bound waits, reading stops until half of it is gone; the peer then feels that we are slow. Nothing is
ever dropped: an update that is not acknowledged would come again, a LAUNCH would not.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

BOUND = 64 * 1024 * 1024  # bytes of records that wait
TIME_SLICE = 0.01  # seconds of callbacks in one turn of the loop


class Handover:
    """`deliver` gets each record; `read(False)` and `read(True)` stop and resume reading."""

    def __init__(
        self,
        deliver: Callable[[bytes], None],
        read: Callable[[bool], None],
        *,
        bound: int = BOUND,
        time_slice: float = TIME_SLICE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliver = deliver
        self._read = read
        self._bound = bound
        self._time_slice = time_slice
        self._clock = clock
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._full = False
        self._paused = False
        self._turn: asyncio.Handle | None = None
        self._last: Callable[[], None] | None = None
        self._closed = False

    @property
    def holding(self) -> bool:
        """Whether it is we, not the peer, who make events wait."""
        return self._full or self._paused

    def put(self, records: list[bytes]) -> None:
        """Records as they were completed."""
        for record in records:
            self._waiting.append(record)
            self._bytes += len(record)
        if self._turn is None and not self._paused:
            self._run()
        if self._bytes > self._bound and not self._full and not self._closed:
            self._full = True
            self._read(False)

    def finish(self, last: Callable[[], None]) -> None:
        """No record comes any more: `last` is called after the ones that wait."""
        self._last = last
        if self._turn is None and not self._paused:
            self._run()

    def pause(self) -> None:
        """Deliver nothing until `resume`; reading goes on up to the bound."""
        self._paused = True
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def resume(self) -> None:
        """Deliver again, beginning with the next turn of the loop."""
        if self._paused:
            self._paused = False
            self._turn = asyncio.get_running_loop().call_soon(self._run)

    def close(self) -> None:
        """Deliver nothing any more."""
        self._closed = True
        self._waiting.clear()
        self._bytes = 0
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _ready(self) -> bool:
        return bool(self._waiting) and not self._paused and self._turn is None

    def _run(self) -> None:
        self._turn = None
        until = self._clock() + self._time_slice
        while self._ready():
            record = self._waiting.popleft()
            self._bytes -= len(record)
            self._deliver(record)
            if self._ready() and self._clock() >= until:
                self._turn = asyncio.get_running_loop().call_soon(self._run)
        if self._closed:
            return
        if self._full and self._bytes <= self._bound // 2:
            self._full = False
            self._read(True)
        if self._last is not None and not self._waiting:
            last, self._last = self._last, None
            last()
