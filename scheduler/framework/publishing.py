"""v1 Events: equal ones are counted in one object, as client-go's recorder does. Written behind the engine's back.

Publishing comes last and never holds up a frame. Should so many pile up that memory is at stake, the oldest are
dropped and counted in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from scheduler.framework.core.effects import Publish
from scheduler.framework.core.status import rfc3339
from scheduler.store import Change, Entry, Key, Store

log = logging.getLogger(__name__)

Json = dict[str, Any]

BATCH = 200
LIMIT = 20_000
NAME_LIMIT = 253


class Publisher:
    """`put` takes an event; `run` writes them, many in one commit."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[tuple[Publish, float]] = []
        self._wake = asyncio.Event()
        self._dropped = 0

    def put(self, event: Publish) -> None:
        self._waiting.append((event, self._clock()))
        if len(self._waiting) > LIMIT:
            del self._waiting[: LIMIT // 10]
            self._dropped += LIMIT // 10
            log.warning("too many events wait to be written: %d dropped so far", self._dropped)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Raises StoreFailed."""
        while True:
            await self._wake.wait()
            await self.flush()

    async def flush(self) -> None:
        """Writes what waits."""
        self._wake.clear()
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            await self._store.commit(*(_change(event, now) for event, now in batch), patient=True)


def _change(event: Publish, now: float) -> Change:
    facts = "\0".join((event.uid, event.type, event.reason, event.message, event.container, event.component))
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    name = f"{event.name[: NAME_LIMIT - 17]}.{digest}"
    return Key("events", event.namespace, name), lambda old: _object(old, event, name, now)


def _object(old: Entry | None, event: Publish, name: str, now: float) -> Json:
    at = rfc3339(now)
    if old is not None:
        return {**old.obj, "count": int(old.obj.get("count") or 1) + 1, "lastTimestamp": at}
    about: Json = {
        "apiVersion": "v1",
        "kind": event.kind,
        "namespace": event.namespace,
        "name": event.name,
        "uid": event.uid,
    }
    if event.container:
        about["fieldPath"] = f"spec.containers{{{event.container}}}"
    meta = {"name": name, "namespace": event.namespace, "uid": str(uuid.uuid4()), "creationTimestamp": at}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": meta,
        "involvedObject": about,
        "reason": event.reason,
        "message": event.message[:1024],
        "type": event.type,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "eventTime": None,
        "source": {"component": event.component, **({"host": event.host} if event.host else {})},
        "reportingComponent": event.component,
        "reportingInstance": event.host,
    }
