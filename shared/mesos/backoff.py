"""Exponential back-off with jitter, for reconnecting."""

from collections.abc import Callable


class Backoff:
    """Delays in seconds: `first`, then twice as long each time up to `longest`, each cut by up to half at
    random (`jitter` returns 0 ≤ x < 1) so that many clients do not come at once."""

    def __init__(self, first: float, longest: float, *, jitter: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._delay = first

    def next(self) -> float:
        """The delay before the next attempt."""
        delay = min(self._delay, self._longest)
        self._delay = min(self._delay * 2, self._longest)
        return delay * (1 - self._jitter() / 2)

    def reset(self) -> None:
        """The last attempt worked."""
        self._delay = self._first
