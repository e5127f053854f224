"""Whether a machine still answers. One that hangs is an error that is said, and not a wait without end.

A machine may hang with QEMU alive: its kernel, or what runs in it as root, can do that to itself. So its launcher is
asked something again and again, over all that lies in between; whatever it answers is an answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from executor.pods.launcher import LaunchError

ASK_SECONDS: Final = 30.0
MISSED: Final = 4
"""How many times in a row nothing may have come. These are turns of our own clock: while this process stands still, or
the whole host does, one is missed at most."""


async def watch(
    ask: Callable[[], Awaitable[Any]], on_silence: Callable[[str], None], seconds: float = ASK_SECONDS
) -> None:
    """Until the machine is silent, which is said once, or this is cancelled. ask: raises LaunchError, which counts."""
    while True:
        await asyncio.sleep(seconds)
        asked = asyncio.ensure_future(ask())
        try:
            missed = 0
            while not asked.done():
                if missed == MISSED:
                    on_silence(f"the machine has not answered for {MISSED * seconds:.0f} s")
                    return
                await asyncio.wait([asked], timeout=seconds)
                missed += 1
            asked.result()
        except LaunchError:
            pass  # it does not know what it was asked, and says so
        finally:
            asked.cancel()
