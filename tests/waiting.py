"""Waiting in tests: for as long as it takes on a slow machine, and for what never comes not much longer."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE = float(os.environ.get("GANTRY_TEST_PATIENCE", "100"))
TURN = 2.0
"""Seconds that one look counts at most. A machine that stood still for a minute (a virtual one does when it is moved)
has let nobody else go on either."""

T = TypeVar("T")


def until(
    what: str,
    check: Callable[[], T | None],
    seconds: float = PATIENCE,
    *,
    pause: float = 0.02,
    why: Callable[[], str] = str,
) -> T:
    """The first true answer of `check`. AssertionError after some `seconds`, naming `what`, with what `why` says."""
    left = seconds
    while left > 0:
        began = time.monotonic()
        if answer := check():
            return answer
        time.sleep(pause)
        left -= min(time.monotonic() - began, TURN)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}\n{why()}")


async def eventually(check: Callable[[], T | None], seconds: float = PATIENCE, *, pause: float = 0.01) -> T:
    """The same on a loop."""
    left = seconds
    while left > 0:
        began = time.monotonic()
        if answer := check():
            return answer
        await asyncio.sleep(pause)
        left -= min(time.monotonic() - began, TURN)
    raise AssertionError(f"waited {seconds:.0f} s in vain")


def gone(pid: int | str) -> bool:
    """Whether a process has ended. One that only waits to be collected has: not every first process does that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True
