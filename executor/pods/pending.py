"""What a pod waits for: effects that take time, each in a task of its own, and timers. Both end in events."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from executor.pods.core import effects as ef
from executor.pods.core import events as ev
from executor.pods.core.events import Timer
from executor.pods.failures import failed

log = logging.getLogger(__name__)

Dispatch = Callable[[ev.Event], None]


class Tasks:
    """pod: its name, for the log."""

    def __init__(self, pod: str, dispatch: Dispatch) -> None:
        self._pod = pod
        self._dispatch = dispatch
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, effect: ef.Effect, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._perform(effect, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _perform(self, effect: ef.Effect, work: Coroutine[Any, Any, None]) -> None:
        """Errors that were foreseen are events already; any other fails this effect, never the executor."""
        try:
            await work
        except Exception as error:  # the bulkhead between pods
            log.exception("pod %s: %r failed", self._pod, effect)
            failure = failed(effect, f"internal error: {error!r}")
            if failure is not None:
                self._dispatch(failure)

    def cancel(self) -> None:
        """All but the one that asks for it."""
        current = asyncio.current_task()
        for task in list(self._running):
            if task is not current:
                task.cancel()


class Timers:
    """Of each timer of the core the newest setting counts."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._set: dict[Timer, asyncio.TimerHandle] = {}

    def set(self, timer: Timer, after: float) -> None:
        """after: seconds."""
        running = self._set.pop(timer, None)
        if running is not None:
            running.cancel()
        self._set[timer] = asyncio.get_running_loop().call_later(after, self._fire, timer)

    def hasten(self, due: Callable[[Timer], bool]) -> None:
        """Those that are `due` fire now."""
        for timer, handle in list(self._set.items()):
            if due(timer):
                handle.cancel()
                self._fire(timer)

    def _fire(self, timer: Timer) -> None:
        self._set.pop(timer, None)
        self._dispatch(ev.TimerFired(timer))

    def cancel(self) -> None:
        """All of them."""
        for handle in self._set.values():
            handle.cancel()
        self._set.clear()
