"""Asks for what a pod waits for, again and again: the question, or its answer, may be lost on the way."""

import asyncio
from collections.abc import Callable


class Asking:
    """ask: called at once, and then every so many seconds, from `start` to `stop`."""

    def __init__(self, ask: Callable[[], None], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Idempotent."""
        if self._timer is None:
            self._again()

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._again)
        self._ask()
