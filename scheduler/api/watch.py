"""WATCH: a list that goes on. One JSON document a line, each an event.

The bytes of an event are made once and shared by all watchers that want the same form. A selector turns
changes that enter or leave its selection into ADDED and DELETED. Too old a version is an ERROR event with a
410 Status, after which the client lists again. A client that does not read is dropped.
Source: apiserver's `endpoints/handlers/watch.go`, `storage/cacher`; KEP-3157 for `sendInitialEvents`.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from scheduler.api.context import API, Api
from scheduler.api.query import Query, Selection, flag, number, version_too_large
from scheduler.api.respond import renderer
from scheduler.api.select import select
from scheduler.api.status import STREAM
from scheduler.api.table import Renderer
from scheduler.registry import errors
from scheduler.registry.errors import BadRequest
from scheduler.registry.resource import Resource
from scheduler.store import Entry, Expired, Watch, WatchEvent

BOOKMARK = 60.0
"""Seconds between bookmarks, less up to a tenth so that clients spread."""

TIMEOUT = 1800.0
"""Seconds a watch lasts when the client names no time; up to twice that, as kube-apiserver."""

STALLED = 60.0
"""Seconds a client may take no bytes before it is dropped."""

INITIAL_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True, slots=True)
class Options:
    """The query of a watch.

    `since` None: begin now, after what exists when `initial`. `least`: the version that must have been reached.
    """

    since: int | None
    least: int
    bookmarks: bool
    initial: bool
    initial_end: bool
    timeout: float

    @classmethod
    def read(cls, query: Query) -> Options:
        version = number(query, "resourceVersion")
        seconds = number(query, "timeoutSeconds")
        match, send = query.get("resourceVersionMatch", ""), query.get("sendInitialEvents")
        bookmarks = flag(query, "allowWatchBookmarks")
        if send is not None and match != "NotOlderThan":
            raise BadRequest("sendInitialEvents requires resourceVersionMatch=NotOlderThan")
        if send is None and match:
            raise BadRequest(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            )
        initial = flag(query, "sendInitialEvents") if send is not None else not version
        return cls(
            since=None if initial or not version else version,
            least=version or 0,
            bookmarks=bookmarks,
            initial=initial,
            initial_end=bool(send) and initial and bookmarks,
            timeout=float(seconds) if seconds else TIMEOUT * (1 + random.random()),
        )


async def watch(request: web.Request, resource: Resource) -> web.StreamResponse:
    """Handles a list request with `watch=true`."""
    api = request.app[API]
    options, selection = Options.read(request.query), Selection(resource, request.query)
    encoder = Encoder(renderer(request, resource, stream=True), selection)
    namespace = request.match_info.get("namespace", "")
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
    )
    stream = Stream(api, options, encoder, request, response)
    if api.ending.is_set():
        raise errors.ServiceUnavailable("the server is stopping")
    if options.initial and options.least > api.store.version:
        raise version_too_large(options.least, api.store.version)
    try:
        source = api.store.watch(resource.store_name, namespace, options.since)
    except Expired as error:
        await stream.refuse(errors.Expired(str(error)))
        return response
    # From here to the first event nothing may be awaited: what exists, and what the source tells, must join.
    first: list[bytes] = []
    if options.initial:
        entries, version = select(api, resource, namespace, selection)
        first = encoder.initial(entries, version if options.initial_end else None)
    api.watches.add(source)
    try:
        await stream.run(source, first)
    finally:
        source.close()
        api.watches.discard(source)
    return response


class Encoder:
    """Events to lines. What all watchers of a form share is kept with the event."""

    def __init__(self, writer: Renderer, selection: Selection) -> None:
        self._writer = writer
        self._selection = selection
        self._form = (writer.form, writer.include)
        self._header = writer.form.kind == "table"

    def event(self, event: WatchEvent) -> bytes | None:
        """The event as this selection sees it: ADDED when the object enters it, DELETED when it leaves."""
        kind = event.type
        if not self._selection.everything:
            before = event.previous is not None and self._selection.matches(event.previous.obj)
            after = event.type != "DELETED" and self._selection.matches(event.entry.obj)
            if not (before or after):
                return None
            kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
        if self._header:  # only a watcher's first Table has the header: not to be shared
            return self._line(kind, _seen(event, kind))
        shared = (kind, self._form)
        line = event.encoded.get(shared)
        if line is None:
            line = event.encoded[shared] = self._line(kind, _seen(event, kind))
        return line

    def initial(self, entries: list[Entry], version: int | None) -> list[bytes]:
        """What there is as ADDED events, and with a version the bookmark that ends them."""
        lines = [self._line("ADDED", entry) for entry in entries]
        return lines if version is None else [*lines, self.bookmark(version, initial_end=True)]

    def _line(self, kind: str, entry: Entry) -> bytes:
        if self._writer.form.kind == "table":
            header, self._header = self._header, False
            body = self._writer.table([entry], {"resourceVersion": str(entry.version)}, header=header)
        else:
            body = self._writer.one(entry)
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)

    def bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        meta: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            meta["annotations"] = INITIAL_END
        if self._writer.form.kind == "table":
            return b'{"type":"BOOKMARK","object":%b}\n' % self._writer.table([], meta, header=False)
        resource = self._writer.resource
        kind, api_version = resource.kind, resource.api_version
        if self._writer.form.kind == "metadata":
            kind, api_version = "PartialObjectMetadata", f"meta.k8s.io/{self._writer.form.version}"
        obj = {"kind": kind, "apiVersion": api_version, "metadata": meta}
        return b'{"type":"BOOKMARK","object":%b}\n' % orjson.dumps(obj)


def _seen(event: WatchEvent, kind: str) -> Entry:
    """An object that leaves a selection is shown as it was in it, under the version of its leaving."""
    if kind != "DELETED" or event.type == "DELETED" or event.previous is None:
        return event.entry
    previous = event.previous
    obj = {
        **previous.obj,
        "metadata": {**previous.obj["metadata"], "resourceVersion": str(event.entry.version)},
    }
    return Entry(previous.key, obj, event.entry.version, orjson.dumps(obj))


@dataclass
class Stream:
    """One watcher's connection."""

    api: Api
    options: Options
    encoder: Encoder
    request: web.Request
    response: web.StreamResponse

    async def refuse(self, error: errors.ApiError) -> None:
        """Says why in an ERROR event, as clients expect of a watch, and ends it."""
        await self._begin()
        await self._write([b'{"type":"ERROR","object":%b}\n' % orjson.dumps(error.to_status())])
        await self.response.write_eof()

    async def run(self, source: Watch, first: list[bytes]) -> None:
        await self._begin()
        clock = asyncio.get_running_loop().time
        end = clock() + self.options.timeout
        try:
            await self._write(first)
            while clock() < end:
                until = min(end, clock() + BOOKMARK * random.uniform(0.9, 1.0))
                if not await self._pass_on(source, until):
                    break
                if until < end:
                    await self._bookmark(source)
            await self._bookmark(source)
            await self.response.write_eof()
        except (Expired, TimeoutError):  # it fell too far behind, or takes nothing: it may resume where it is
            self._drop()

    async def _begin(self) -> None:
        self.request[STREAM] = self.response
        await self.response.prepare(self.request)

    async def _pass_on(self, source: Watch, until: float) -> bool:
        """Passes events on until then. False when the source ended."""
        while True:
            try:
                async with asyncio.timeout_at(until):
                    events = await source.batch()
            except TimeoutError:
                return True
            if not events:
                return False
            await self._write(self._lines(events))

    def _lines(self, events: list[WatchEvent]) -> list[bytes]:
        lines = (self.encoder.event(event) for event in events)
        return [line for line in lines if line is not None]

    async def _bookmark(self, source: Watch) -> None:
        if self.options.bookmarks:
            # Taken together: a bookmark promises that all changes up to its version were told.
            events, version = source.take(), self.api.store.version
            await self._write([*self._lines(events), self.encoder.bookmark(version)])

    async def _write(self, lines: list[bytes]) -> None:
        if lines:
            async with asyncio.timeout(STALLED):
                await self.response.write(b"".join(lines))

    def _drop(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()
