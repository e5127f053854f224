"""What is over is removed in threads of its own, some pods at a time: beside those that start and end, nobody waits.

To remove a pod's files is dozens of calls, and on some disks each waits for the device. The fewer threads do that, the
less they and the event loop take the interpreter from one another; so there is one, which lets a little gather, and
more only when it does not keep up. All go when nothing is left. Whatever is killed meanwhile leaves less than there
was: the next executor's start finds it (`poddir.PodDirs.collect`).
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

_GATHER_SECONDS: Final = 0.02
_THREADS: Final = 4
_EACH: Final = 16
"""Pods that wait for one thread before there is another."""
MOST: Final = 500
"""Pods that wait to be removed; who makes more than that waits, too."""

Work = Callable[[], object]
"""What is short; it may return more work, which takes as long as it takes."""


class Trash:
    """Work to be done, begun in the order in which it came. For one event loop at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Work] = deque()
        self._long: deque[Work] = deque()
        self._left = 0
        self._threads = 0
        self._at_long = 0
        self._hurry = threading.Event()
        self._told: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def later(self, work: Work) -> None:
        """Have it done. What it raises is logged."""
        with self._lock:
            self._waiting.append(work)
            self._left += 1
            if not self._threads:
                self._hurry.clear()
            elif self._threads == _THREADS or not self._falls_behind():
                return
            self._threads += 1
            first = self._threads == 1
        threading.Thread(target=self._run, args=(first,), name="gantry-trash", daemon=True).start()

    def _falls_behind(self) -> bool:
        free = self._threads - self._at_long
        return len(self._waiting) > _EACH * free

    def __len__(self) -> int:
        """How much of it is not done yet."""
        return self._left

    async def settle(self) -> None:
        """Wait until nothing is left."""
        await self._until(0)

    async def room(self) -> None:
        """Wait while there is too much."""
        await self._until(MOST)

    async def _until(self, most: int) -> None:
        with self._lock:
            if self._left <= most:
                return
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            self._told.append((most, loop, done))
        self._hurry.set()
        await done

    def _run(self, first: bool) -> None:
        if first:
            self._hurry.wait(_GATHER_SECONDS)
        while (work := self._next()) is not None:
            more: object = None
            try:
                more = work[0]()
            except Exception as error:  # noqa: BLE001 - what one pod left must not keep the others' there
                log.warning("collecting a dead pod failed: %s", error)
            self._did(more, long=work[1])

    def _next(self) -> tuple[Work, bool] | None:
        """And whether it is long. Somebody is always there for what is short."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft(), False
            if self._long and self._at_long < _THREADS - 1:
                self._at_long += 1
                return self._long.popleft(), True
            self._threads -= 1
            return None

    def _did(self, more: object, *, long: bool) -> None:
        with self._lock:
            self._at_long -= long
            if callable(more) and not long:
                self._long.append(more)
                return
            self._left -= 1
            told = [one for one in self._told if self._left <= one[0]]
            if told:
                self._told = [one for one in self._told if self._left > one[0]]
        for _, loop, done in told:
            try:
                loop.call_soon_threadsafe(_tell, done)
            except RuntimeError:
                pass  # the loop is closed: whoever waited has gone


def _tell(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
