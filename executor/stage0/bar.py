"""A bar on a terminal for what takes long: bytes done, of how many, how fast. Silent where there is no terminal."""

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

WIDTH = 30
INTERVAL = 0.2  # seconds between two drawings


class Bar:
    """Draws what `measure` says, (done, all) bytes, from a thread of its own until it is left."""

    def __init__(self, title: str, measure: Callable[[], tuple[int, int]], out: TextIO | None = None) -> None:
        self._title, self._measure, self._out = title, measure, out or sys.stderr
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()

    def __enter__(self) -> "Bar":
        if self._out.isatty():
            self._thread = threading.Thread(target=self._run, name="bar", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._out.write("\r\x1b[K")
            self._out.flush()

    def say(self, line: str) -> None:
        """A line above the bar."""
        with self._lock:
            self._out.write(f"\r\x1b[K{line}\n" if self._thread is not None else f"{line}\n")
            self._out.flush()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            with self._lock:
                self._out.write("\r\x1b[K" + self.line())
                self._out.flush()

    def line(self) -> str:
        """The bar as it is now."""
        done, total = self._measure()
        if not total:
            return f"{self._title} …"
        share = min(done / total, 1.0)
        filled = round(WIDTH * share)
        speed = done / max(time.monotonic() - self._began, 0.001)
        shown = f"{done / 2**20:.1f}/{total / 2**20:.1f} MiB"
        return f"{self._title} [{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%} {shown} {speed / 2**20:.1f} MiB/s"
