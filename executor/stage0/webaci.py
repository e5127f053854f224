"""ACIs over the network: by address, and by name through appc discovery.

An ACI comes into a file before anybody looks into it, over as many connections as it takes (Range, when the server has
an ETag, or a time that is good enough, to tell that it still serves the same), also those of a later pull. What has
been fetched is asked for again only when its Cache-Control allows no longer to do without, and then conditionally
(ETag, Last-Modified), as rkt did.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from executor.stage0 import acisource, discovery, names, web
from executor.stage0 import manifest as m
from executor.stage0.cas import Cas
from executor.stage0.discovery import Place
from executor.stage0.errors import ImageBroken, ImageError, ImageNotFound, ImageRefused, RegistryUnavailable
from executor.stage0.partial import Partial
from executor.stage0.settings import Settings, authority
from executor.stage0.sources import Fingerprint
from executor.stage0.trust.subject import subject
from executor.stage0.web import Interrupted, Web

log = logging.getLogger(__name__)

BARREN, UNBEGUN = 8, 4  # as in registry.py
DEFERRED = 202  # the signature will be there later: it is asked for again behind the image
MAX_AGE = 365 * 24 * 3600
_SETTLED = 60.0  # seconds
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?(\d{1,12})")


class WebAciSource:
    """One ACI. cache: what a later pull needs to know to spare the download."""

    registry = None

    def __init__(
        self,
        reference: names.Url | names.Appc,
        cas: Cas,
        settings: Settings,
        importer: acisource.Importer,
        signature: bytes | None = None,
    ) -> None:
        """signature: of the ACI, instead of that beside it."""
        self._ref, self._cas, self._importer, self._given = reference, cas, importer, signature
        self._web = Web(settings, settings.login)
        self.cache: dict[str, Any] = {}

    def fingerprint(self) -> Fingerprint | None:
        return None

    async def current(self, stored: Mapping[str, Any]) -> bool:
        """Whether what was fetched is fresh, or still what the server has."""
        cache = stored.get("cache") or {}
        if not cache:
            return False
        self.cache = dict(cache)
        if time.time() < float(cache.get("expires", 0)):
            log.info("image for %s isn't expired, not fetching.", cache.get("url"))
            return True
        headers = {}
        if cache.get("etag"):
            headers["If-None-Match"] = str(cache["etag"])
        elif cache.get("modified"):
            headers["If-Modified-Since"] = str(cache["modified"])
        if not headers:
            return False
        url = URL(str(cache["url"]))

        async def attempt() -> bool:
            answer = await self._web.follow("GET", url, headers)
            try:
                if answer.status == 304:
                    self.cache = {**cache, "expires": _expires(answer.headers)}
                    return True
                return False  # find says what is wrong, if anything is
            finally:
                answer.close()

        return await web.patiently(attempt)

    async def find(self) -> m.Found:
        if isinstance(self._ref, names.Url):
            return await self._fetch(self._place(self._ref.url))
        for place in discovery.simple(self._web, self._ref):
            try:
                return await self._fetch(place)
            except ImageNotFound:
                pass  # the usual case: on to meta discovery
        return await self._first(await discovery.places(self._web, self._ref))

    async def close(self) -> None:
        await self._web.close()

    def _place(self, text: str) -> Place:
        url = URL(text)
        if url.scheme != "https" and not self._web.may_be_plain(url):
            raise ImageRefused(
                f"plain HTTP is refused; use https, or set plain-http for the host {authority(url)}"
            )
        return Place(url, url.with_path(f"{url.raw_path}.asc", encoded=True, keep_query=True), text)

    async def _first(self, places: Sequence[Place]) -> m.Found:
        """The first place that has it; the last one's error counts."""
        for place in places[:-1]:
            try:
                return await self._fetch(place)
            except (ImageNotFound, ImageRefused, RegistryUnavailable) as error:
                log.warning("%s: %s; trying the next place", self._ref, error)
        return await self._fetch(places[-1])

    async def _fetch(self, place: Place) -> m.Found:
        log.info('remote fetching from URL "%s"', place.text)
        required = self._importer.gate.policy.requirement(subject(self._ref), "aci")
        signature = (
            b"" if required.kind == "none" else await self._signature(place)
        )  # nobody would look at it
        kept = Partial.take(self._cas.root, str(place.aci))
        try:
            log.info("fetching image from %s", place.text)
            await _Download(self._web, place, kept, self._cas.limits.unpacked_bytes, self.cache).run()
            if signature is None:
                signature = await self._signature(place)
            asked = self._ref if isinstance(self._ref, names.Appc) else None
            raw = acisource.RawAci(
                kept.file, str(place.aci), subject(self._ref), signature or None,
                name=asked.name if asked else "", labels=dict(asked.labels) if asked else {},
            )  # fmt: skip
            found = await self._importer.find(raw)
            kept.drop()
        except (ImageError, OSError) as error:
            if not isinstance(error, RegistryUnavailable):
                kept.drop()  # more of it would be of no use
            raise
        finally:
            kept.close()
        return found

    async def _signature(self, place: Place) -> bytes | None:
        """The bytes of the `.asc`: b"" when there is none, None when it will be there later."""
        if self._given is not None:
            return self._given

        async def attempt() -> bytes | None:
            answer = await self._web.follow("GET", place.signature, {})
            try:
                if answer.status == DEFERRED:
                    log.info("server requested deferring the signature download")
                    return None
                if answer.status != 200:
                    web.refuse(answer, str(place.signature))
                return await web.body(answer, acisource.MAX_SIGNATURE, str(place.signature))
            finally:
                answer.close()

        try:
            return await web.patiently(attempt)
        except ImageNotFound:
            return b""


class _Download:
    """One address into a file, resumed where it broke off, in this process or one before it."""

    def __init__(self, http: Web, place: Place, kept: Partial, limit: int, cache: dict[str, Any]) -> None:
        self._web, self._url, self._text = http, place.aci, place.text
        self._kept, self._limit, self._cache = kept, limit, cache
        self._done = kept.size
        self._validator = str(kept.notes.get("validator", ""))

    async def run(self) -> None:
        if self._done and self._validator:
            log.info("resuming the download of %s at byte %d", self._url, self._done)
        failures = 0
        while True:
            before = self._done
            try:
                while not await self._part():
                    pass
                return
            except Interrupted as error:
                failures = 1 if self._done > before else failures + 1
                if failures >= (BARREN if self._done else UNBEGUN) or error.after > web.MAX_DELAY:
                    raise web.unavailable(error) from None
                await asyncio.sleep(max(web.FIRST_DELAY * 2 ** (failures - 1), error.after))

    async def _part(self) -> bool:
        """Whether that was all; if not, it is to be begun again."""
        headers = {"Accept-Encoding": "identity"}
        if self._done and self._validator:
            headers |= {"Range": f"bytes={self._done}-", "If-Range": self._validator}
        answer = await self._web.follow("GET", self._url, headers)
        try:
            said = answer.headers.get("Content-Range", "")
            if answer.status == 206 and "Range" in headers:
                if not said.startswith(f"bytes {self._done}-"):
                    raise ImageBroken(f"{self._url} answered another range than asked for")
                self._note(answer)
            elif answer.status == 416 and "Range" in headers:  # it has no more; RFC 9110, 15.5.17
                self._note(answer)
                if said == f"bytes */{self._done}":
                    return True
                self._validator = ""
                return False
            elif answer.status == 200:
                self._start(answer)
            elif answer.status in {401, 403}:
                raise ImageRefused(f"{self._url}: HTTP {answer.status}")
            else:
                web.refuse(answer, str(self._url))
            await self._body(answer)
            return True
        finally:
            answer.close()

    def _start(self, answer: aiohttp.ClientResponse) -> None:
        """From the beginning: also when the server knows no ranges, or serves something else by now."""
        self._done = 0
        self._validator = _validator(answer.headers)
        self._kept.begin(str(self._url), {"validator": self._validator})
        self._note(answer)

    def _note(self, answer: aiohttp.ClientResponse) -> None:
        """For `WebAciSource.current`."""
        headers = answer.headers
        self._cache.clear()
        self._cache.update(
            url=self._text, etag=headers.get("ETag", ""), modified=headers.get("Last-Modified", ""),
            expires=_expires(headers),
        )  # fmt: skip

    async def _body(self, answer: aiohttp.ClientResponse) -> None:
        try:
            async for data in answer.content.iter_chunked(web.CHUNK):
                if self._done + len(data) > self._limit:
                    raise ImageBroken(f"{self._url} is longer than the limit of {self._limit} bytes")
                await asyncio.to_thread(self._write, data)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise Interrupted(f"{authority(self._url)}: {web.cause(error)}") from None

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._kept.file.fileno(), view, self._done)
            self._done += written
            view = view[written:]


def _validator(headers: Mapping[str, str]) -> str:
    """What tells that the server still serves the same, byte by byte; "" for nothing that does. RFC 9110, 8.8.2.2 and
    13.1.5: a time is good enough only if it was over when the answer was made."""
    etag = headers.get("ETag", "")
    if etag:
        return "" if etag.startswith("W/") else etag
    modified = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(modified)
    except (KeyError, ValueError, TypeError):
        return ""
    return modified if age.total_seconds() >= _SETTLED else ""


def _expires(headers: Mapping[str, str]) -> float:
    """Until when (Unix time) a copy may be used without asking. Source: RFC 9111, 5.2."""
    text = headers.get("Cache-Control", "").lower()
    found = _MAX_AGE.search(text)
    if found is None or "no-cache" in text or "no-store" in text:
        return 0.0
    return time.time() + min(int(found[1]), MAX_AGE)
