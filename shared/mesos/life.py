"""What both drivers have in common: one task that subscribes again and again, and how it stands."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from shared.mesos.subscription import Subscription


class Life(ABC):
    """Goes before pymesos' driver among the bases: its `join`, `run`, `abort` and `connected` replace pymesos'."""

    def __init__(self) -> None:
        self._subscription: Subscription | None = None
        self._registered = False
        self._stopping = False
        self._fatal: str | None = None
        self._trouble: str | None = None
        self._running: asyncio.Task[None] | None = None

    @abstractmethod
    async def start(self) -> None:
        """Begin to subscribe; returns at once."""

    @abstractmethod
    def _close(self, why: str) -> None:
        """Drop the connection."""

    async def join(self) -> str | None:
        """Wait for the end; the message of the ERROR that was it, or None when it was wanted."""
        if self._running is not None:
            await asyncio.wait((self._running,))
        return self._fatal

    async def run(self) -> str | None:
        """Start, and wait for the end."""
        await self.start()
        return await self.join()

    def abort(self) -> None:
        """Disconnect at once, without waiting for anything."""
        self._stopping = True
        if self._running is not None:
            self._running.cancel()
        self._close("aborted")

    @property
    def connected(self) -> bool:
        """Whether SUBSCRIBED was seen and the connection still stands."""
        return self._registered and self._subscription is not None and not self._subscription.closed

    @property
    def trouble(self) -> str | None:
        """Why we are not connected, in one line for health checks; None while we are, or before a first try."""
        return None if self.connected else self._fatal or self._trouble
