"""A bar for long work, on a terminal only: whoever reads a log or a pipe gets nothing of it."""

import sys
import time
from typing import Final, Self, TextIO

WIDTH: Final = 30
EVERY: Final = 0.1
"""Seconds between two drawings."""


class Bar:
    """Call it with what is done and of how much (0: nobody knows). At the end of its block the line is free again."""

    def __init__(self, label: str, unit: str = "", stream: TextIO | None = None) -> None:
        self._label, self._unit = label, unit
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown and self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._shown or (now - self._drawn < EVERY and done != total):
            return
        self._drawn = now
        self._stream.write(f"\r\x1b[K{line(self._label, done, total, self._unit)}")
        self._stream.flush()


def line(label: str, done: int, total: int, unit: str) -> str:
    """`making the bundle [#####.....] 50%`, or only a count when the total is not known."""
    if total <= 0:
        return f"{label} {done:,}{unit}"
    part = min(1.0, done / total)
    filled = int(part * WIDTH)
    return f"{label} [{'#' * filled}{'.' * (WIDTH - filled)}] {part:4.0%}"
