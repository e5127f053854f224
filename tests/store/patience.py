"""Waiting for stores, but not for ever."""

import asyncio
from typing import Any

LIMIT = 60.0


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


async def until(store: Any, version: int) -> None:
    """Until a follower has seen that version."""
    watch = store.watch("pods")
    async with asyncio.timeout(LIMIT):
        while store.version < version:
            await watch.batch()
    watch.close()
