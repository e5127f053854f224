"""Asks for what a pod uses, again and again: the question, or its answer, may be lost on the way."""

import asyncio
import random
from collections.abc import Callable


class Asking:
    """ask: called about every so many seconds, from `start` to `stop`."""

    def __init__(self, ask: Callable[[], None], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self, *, now: bool = True) -> None:
        """Idempotent. now: begin with a question."""
        if self._timer is None and now:
            self._again()
        elif self._timer is None:
            self._later()

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._later()
        self._ask()

    def _later(self) -> None:
        """Not all pods of an executor at once."""
        seconds = self._seconds * random.uniform(0.75, 1.25)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._again)
