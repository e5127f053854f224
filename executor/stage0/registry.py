"""Pulling from registries: manifests by platform, layers over as many connections and mirrors as it takes.

The registry's mirrors are asked first, in the order of the node's settings, then the registry itself. A download that
breaks off goes on where it was (Range), at the next server when one brings nothing any more, while the bytes that came
are already being unpacked; digests tell whether the pieces fit. Source: OCI distribution-spec.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import aiohttp

from executor.stage0 import manifest as m
from executor.stage0 import names, web
from executor.stage0.endpoint import Endpoint
from executor.stage0.errors import ImageBroken, ImageError, ImageNotFound, ImageRefused, RegistryUnavailable
from executor.stage0.login import Credentials, Login, find
from executor.stage0.pipe import Closed, Pipe
from executor.stage0.settings import Settings, authority
from executor.stage0.sources import Fingerprint
from executor.stage0.streams import check_bytes
from executor.stage0.web import Interrupted, Web

log = logging.getLogger(__name__)

T = TypeVar("T")
BARREN = 8  # connections in a row that brought nothing more of a download: half a minute without the network
UNBEGUN = 4  # …nothing at all of it
DOCKER_HUB = "registry-1.docker.io"


class RegistrySource:
    """One image of a registry. Used on one event loop; `close` ends downloads and wakes their readers.

    credentials: whose pod asks; node: what this machine has itself, tried next.
    """

    cache: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, reference: names.Registry, settings: Settings, credentials: Credentials, node: Credentials
    ) -> None:
        self._ref, self._web = reference, Web(settings)
        self._own = credentials
        host = DOCKER_HUB if reference.host == names.DEFAULT_REGISTRY else reference.host
        bases = [*settings.mirrors.get(reference.host, ()), self._web.base(host)]
        self._endpoints = []
        for base in bases:
            where = reference.host if base is bases[-1] else authority(base)
            path = "/".join(part for part in (base.path.strip("/"), reference.repository) if part)
            logins = [found for ring in (credentials, node) if (found := find(ring, where, path)) is not None]
            self._endpoints.append(Endpoint(self._web, base, reference.repository, logins))
        self._first = 0  # of the endpoints, the one that had the manifest
        self._downloads: dict[Pipe, asyncio.Task[None]] = {}
        self._closing = False

    @property
    def registry(self) -> "RegistrySource":
        return self

    def fingerprint(self) -> Fingerprint | None:
        return None

    @property
    def used(self) -> Login | None:
        """The login of the pod's without which this image was not to be had, None when everybody here may have it."""
        login = self._endpoints[self._first].login
        own = [Login(*pair) for pair in self._own.values()]
        return login if login in own else None

    async def current(self, stored: Mapping[str, Any]) -> bool:
        """By HEAD where the registry tells the digest, else by reading the manifest."""
        if self._ref.digest:
            return self._ref.digest == str(stored["digest"])
        now = await self._somewhere(lambda endpoint: self._digest(endpoint, self._ref.tag))
        return now == str(stored["digest"])

    async def allows(self, digest: str) -> bool:
        """Whether whoever asks may read this manifest, as the registry says now."""
        try:
            await self._somewhere(lambda endpoint: endpoint.head(f"manifests/{digest}", m.ACCEPT))
        except (ImageRefused, ImageNotFound):
            return False
        return True

    async def find(self) -> m.Found:
        return await self._somewhere(self._find)

    async def close(self) -> None:
        self._closing = True
        downloads = list(self._downloads.values())
        for task in downloads:
            task.cancel()
        await asyncio.gather(*downloads, return_exceptions=True)
        await self._web.close()

    async def _somewhere(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """Ask the mirrors, then the registry, whose error is the one that counts."""
        for number, endpoint in enumerate(self._endpoints):
            try:
                answer = await ask(endpoint)
            except ImageError as error:
                if endpoint is self._endpoints[-1]:
                    raise
                log.warning("mirror %s: %s: %s; asking the next", endpoint, self._ref, error)
            else:
                self._first = number
                return answer
        raise AssertionError("there is at least the registry")

    # -- documents

    async def manifest(self, what: str) -> tuple[str, bytes, str]:
        """(digest, bytes, media type) of another tag or digest of this repository, checked."""
        return await self._somewhere(lambda endpoint: self._manifest(endpoint, what))

    async def blob(self, descriptor: m.Descriptor) -> bytes:
        """A small blob of this repository, checked against its digest and size."""
        return await self._somewhere(lambda endpoint: self._config(endpoint, descriptor))

    async def _find(self, endpoint: Endpoint) -> m.Found:
        digest, data, media_type = await self._manifest(endpoint, self._ref.digest or self._ref.tag)
        top = digest
        documents = [(digest, data)]
        for _ in range(m.MAX_INDEX_DEPTH):
            parsed = m.parse(data, media_type)
            if isinstance(parsed, m.Manifest):
                config = await self._config(endpoint, parsed.config)
                return m.found(parsed, top, documents, config, self._opener)
            child = m.choose(parsed, m.host_platform())
            digest, data, media_type = await self._manifest(endpoint, child.digest)
            if len(data) != child.size:
                raise ImageBroken(f"manifest has {len(data)} bytes, its descriptor says {child.size}")
            documents.append((digest, data))
        raise ImageBroken(f"more than {m.MAX_INDEX_DEPTH} indexes within one another")

    async def _digest(self, endpoint: Endpoint, tag: str) -> str:
        headers = await endpoint.head(f"manifests/{tag}", m.ACCEPT)
        told = headers.get("Docker-Content-Digest", "")
        return told if names.is_digest(told) else (await self._manifest(endpoint, tag))[0]

    async def _manifest(self, endpoint: Endpoint, what: str) -> tuple[str, bytes, str]:
        """(digest, bytes, media type) by tag or digest; checked."""
        data, headers = await endpoint.get(f"manifests/{what}", m.MAX_MANIFEST, "manifest", m.ACCEPT)
        told, media_type = headers.get("Docker-Content-Digest", ""), headers.get("Content-Type", "")
        media_type = media_type.partition(";")[0].strip()
        promised = what if names.is_digest(what) else told
        if names.is_digest(promised):
            check_bytes(data, promised, "manifest")
            return promised, data, media_type
        return m.digest_of(data), data, media_type

    async def _config(self, endpoint: Endpoint, descriptor: m.Descriptor) -> bytes:
        data, _ = await endpoint.get(f"blobs/{descriptor.digest}", m.MAX_CONFIG, "config")
        if len(data) != descriptor.size:
            raise ImageBroken(f"config has {len(data)} bytes, its descriptor says {descriptor.size}")
        check_bytes(data, descriptor.digest, "config")
        return data

    # -- layers

    def _opener(self, layer: m.Descriptor) -> Callable[[], m.Blob]:
        return partial(self._open, layer, asyncio.get_running_loop())

    def _open(self, layer: m.Descriptor, loop: asyncio.AbstractEventLoop) -> m.Blob:
        """In a worker thread: start the download on the loop, give its reading end."""
        pipe = Pipe(loop)
        loop.call_soon_threadsafe(self._start, layer, pipe)
        return pipe

    def _start(self, layer: m.Descriptor, pipe: Pipe) -> None:
        if self._closing:
            pipe.finish(RegistryUnavailable("the pull was ended"))
            return
        task = asyncio.get_running_loop().create_task(self._download(layer, pipe))
        self._downloads[pipe] = task
        task.add_done_callback(partial(self._ended, pipe))

    def _ended(self, pipe: Pipe, task: asyncio.Task[None]) -> None:
        del self._downloads[pipe]
        # Cancelled by `close` or a loop that shuts down, or broken: nobody but us wakes the reader.
        if task.cancelled():
            pipe.finish(RegistryUnavailable("the pull was ended"))
        elif (error := task.exception()) is not None:
            log.error("download from %s", self._ref.host, exc_info=error)
            pipe.finish(RegistryUnavailable(f"download from {self._ref.host}: {error!r}"))

    async def _download(self, layer: m.Descriptor, pipe: Pipe) -> None:
        try:
            await self._from_servers(layer, pipe, self._endpoints[self._first :])
        except Closed:
            return
        except ImageError as error:
            pipe.finish(error)
        else:
            pipe.finish()

    async def _from_servers(self, layer: m.Descriptor, pipe: Pipe, endpoints: Sequence[Endpoint]) -> None:
        done = 0
        for endpoint in endpoints:
            try:
                await self._resuming(endpoint, layer, pipe, done)
                return
            except (ImageNotFound, ImageRefused, RegistryUnavailable) as error:
                if endpoint is endpoints[-1]:
                    raise
                log.warning("mirror %s: layer %s: %s; going on at the next", endpoint, layer.digest, error)
                done = pipe.written

    async def _resuming(self, endpoint: Endpoint, layer: m.Descriptor, pipe: Pipe, done: int) -> None:
        """The blob from byte `done` on into the pipe, over as many connections as it takes."""
        failures = 0
        while done < layer.size:
            before = done
            after = 0.0
            try:
                async for data in self._part(endpoint, layer, done):
                    done += len(data)
                    await pipe.write(data)
                reason = f"{endpoint}: ended after {done} of {layer.size} bytes"
            except Interrupted as error:
                reason, after = str(error), error.after
            if done >= layer.size:
                return
            failures = 1 if done > before else failures + 1
            if failures >= (BARREN if done else UNBEGUN) or after > web.MAX_DELAY:
                raise RegistryUnavailable(
                    f"download broke off: {web.unavailable(Interrupted(reason, after))}"
                )
            await asyncio.sleep(max(web.FIRST_DELAY * 2 ** (failures - 1), after))

    async def _part(self, endpoint: Endpoint, layer: m.Descriptor, start: int) -> AsyncIterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with endpoint.request("GET", f"blobs/{layer.digest}", headers=headers) as answer:
            skip = start
            if answer.status == 206:
                if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise ImageBroken(f"registry {endpoint} answered another range than asked for")
                skip = 0
            try:
                async for data in answer.content.iter_chunked(web.CHUNK):
                    fresh = data[skip:]
                    skip -= min(skip, len(data))
                    if fresh:
                        yield fresh
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Interrupted(f"{endpoint}: {web.cause(error)}") from None
