"""What the handlers share: the store, the way to the nodes, the clock, sources of ids."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from aiohttp import web

from scheduler.api.checks import HealthReport
from scheduler.api.pages import Pages
from scheduler.registry.resource import Resource
from scheduler.store import Store, Watch

T = TypeVar("T")

Clock = Callable[[], datetime]
"""The time now, in UTC."""


class NodeProxy(Protocol):
    """The way to the executors' node servers."""

    def logs(self, pod: dict[str, Any], container: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The log of a container of a pod that has a node; `query` is what the kubelet's containerLogs takes.

        Raises, at the first item: an ApiError to be passed on, LookupError when the node does not know the
        container, OSError or aiohttp.ClientError when the node cannot be reached, TimeoutError.
        """
        ...

    def where(self, pod: dict[str, Any]) -> tuple[str, str]:
        """HOST:PORT of the pod's node server, and the token for it. Raises an ApiError."""
        ...


def wall_clock() -> datetime:
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """A v1 Time: whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def name_suffix() -> str:
    """Five characters for generateName, from Kubernetes' alphabet without vowels and look-alikes."""
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


@dataclass(frozen=True)
class Api:
    """Everything a handler needs. `streams` and `watches` are ended at shutdown."""

    store: Store
    nodes: NodeProxy
    health: Callable[[], HealthReport]
    version: str
    token: str | None
    resources: tuple[Resource, ...]
    clock: Clock = wall_clock
    new_uid: Callable[[], str] = lambda: str(uuid.uuid4())
    suffix: Callable[[], str] = name_suffix
    pages: Pages = field(default_factory=Pages)
    watches: set[Watch] = field(default_factory=set)
    streams: set[asyncio.Task[Any]] = field(default_factory=set)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        wanted = (group, version, plural)
        return next((one for one in self.resources if (one.group, one.version, one.plural) == wanted), None)

    async def stream(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of what may go on for as long as its client likes; None when our shutdown ended it."""
        task = asyncio.ensure_future(work)
        self.streams.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not self.ending.is_set():
                raise
            return None
        finally:
            self.streams.discard(task)
            task.cancel()

    def end_streams(self) -> None:
        """At shutdown: a server stops when its requests are done, and some never are by themselves."""
        for watch in tuple(self.watches):
            watch.close()
        self.ending.set()
        for task in tuple(self.streams):
            task.cancel()


API: web.AppKey[Api] = web.AppKey("API", Api)
