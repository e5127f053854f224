"""What the engine has done since this process started: counted here, shown by `scheduler.metrics`, judged by nobody."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

PLACEMENT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
WORK: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds."""

UNFIT: Final = "launches that did not fit their offers"
"""An anomaly: a bug of ours, which cost these launches."""


class Histogram:
    """Seconds, counted by upper bounds as Prometheus has them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Observes how long the block takes, if it ends well."""
        began = perf_counter()
        yield
        self.observe(perf_counter() - began)

    def buckets(self) -> list[tuple[str, float]]:
        """(le, how many were at most that), the last one for all."""
        found, total = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Meter:
    """One for an engine and its door to Mesos."""

    def __init__(self) -> None:
        self.offers: Counter[str] = Counter()
        """received, accepted, declined, rescinded, void (with their connection)."""
        self.launches = 0
        self.anomalies: Counter[str] = Counter()
        self.placement = Histogram(PLACEMENT)
        """From when a pod could have been launched until its launch was decided."""
        self.frames = Histogram(WORK)
        """From the first decision of a frame to its last call, its save included."""
        self.saves = Histogram(WORK)
