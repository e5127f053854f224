"""A client of the Registry HTTP API v2 (OCI distribution-spec), for pulling only.

Plain HTTP is spoken with registries on loopback, HTTPS with all others. Redirects are followed by hand: credentials go
to the registry's own origin and, for a token, to the realm it names; never along a redirect to somewhere else, and no
redirect leads from HTTPS to HTTP. A download that breaks off goes on where it was (Range), while the bytes that came
are already being unpacked; digests tell whether the pieces fit. Sources: distribution-spec, Docker's token
authentication specification.
"""

import asyncio
import base64
import ipaddress
import logging
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import orjson
from yarl import URL

from executor.stage0 import manifest as m
from executor.stage0 import names
from executor.stage0.errors import ImageBroken, ImageError, ImageNotFound, ImageRefused, RegistryUnavailable
from executor.stage0.pipe import Closed, Pipe
from executor.stage0.sources import Fingerprint
from executor.stage0.streams import check_bytes

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
MAX_ANSWER = 1024 * 1024  # tokens and error texts
ATTEMPTS = 3  # of a request
BARREN = 5  # connections in a row that brought nothing of a download
FIRST_DELAY = 0.25  # seconds, doubled with every attempt that got no byte
CHUNK = 128 * 1024
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
_CHALLENGE = re.compile(r'([a-zA-Z]+)="([^"]*)"')
_BUSY = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Login:
    """User and password for a registry."""

    username: str
    password: str

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


Credentials = Callable[[str], Login | None]
"""host (as in references, `localhost:5000`) → login, None for anonymous."""


def anonymous(_: str) -> Login | None:
    """No credentials for anybody."""
    return None


class _Interrupted(Exception):
    """The network or the server failed in a way that a later try may not."""


class RegistrySource:
    """One image of a registry. Used on one event loop; `close` ends downloads and wakes their readers."""

    def __init__(self, reference: names.Registry, credentials: Credentials = anonymous) -> None:
        self._ref, self._credentials = reference, credentials
        host = "registry-1.docker.io" if reference.host == names.DEFAULT_REGISTRY else reference.host
        self._base = URL(f"{'http' if is_loopback(host) else 'https'}://{host}")
        self._authorization = ""
        self._http: aiohttp.ClientSession | None = None
        self._downloads: dict[Pipe, asyncio.Task[None]] = {}
        self._closing = False

    def fingerprint(self) -> Fingerprint | None:
        return None

    async def current(self, stored: Mapping[str, Any]) -> bool:
        """By HEAD where the registry tells the digest, else by reading the manifest."""
        if self._ref.digest:
            return self._ref.digest == str(stored["digest"])
        async with self._request("HEAD", self._manifest_path(self._ref.tag), m.ACCEPT) as answer:
            told = answer.headers.get("Docker-Content-Digest", "")
        now = told if names.is_digest(told) else (await self._manifest(self._ref.tag))[0]
        return now == str(stored["digest"])

    async def find(self) -> m.Found:
        digest, data, media_type = await self._manifest(self._ref.digest or self._ref.tag)
        top = digest
        documents = [(digest, data)]
        for _ in range(m.MAX_INDEX_DEPTH):
            parsed = m.parse(data, media_type)
            if isinstance(parsed, m.Manifest):
                config = await self._document(f"blobs/{parsed.config.digest}", parsed.config)
                return m.found(parsed, top, documents, config, self._opener)
            child = m.choose(parsed, m.host_platform())
            digest, data, media_type = await self._manifest(child.digest)
            documents.append((digest, data))
        raise ImageBroken(f"more than {m.MAX_INDEX_DEPTH} indexes within one another")

    async def close(self) -> None:
        self._closing = True
        downloads = list(self._downloads.values())
        for task in downloads:
            task.cancel()
        await asyncio.gather(*downloads, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    # -- documents

    def _manifest_path(self, what: str) -> str:
        return f"manifests/{what}"

    async def _manifest(self, what: str) -> tuple[str, bytes, str]:
        """(digest, bytes, media type) by tag or digest; checked."""
        async with self._request("GET", self._manifest_path(what), m.ACCEPT) as answer:
            data = await _body(answer, m.MAX_MANIFEST, "manifest")
            told, media_type = answer.headers.get("Docker-Content-Digest", ""), answer.content_type
        promised = what if names.is_digest(what) else told
        if names.is_digest(promised):
            check_bytes(data, promised, "manifest")
            return promised, data, media_type
        return m.digest_of(data), data, media_type

    async def _document(self, path: str, descriptor: m.Descriptor) -> bytes:
        async with self._request("GET", path) as answer:
            data = await _body(answer, m.MAX_CONFIG, "config")
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
            await self._resuming(layer, pipe)
        except Closed:
            return
        except ImageError as error:
            pipe.finish(error)
        else:
            pipe.finish()

    async def _resuming(self, layer: m.Descriptor, pipe: Pipe) -> None:
        """The whole blob into the pipe, over as many connections as it takes while each brings something."""
        done, failures = 0, 0
        while done < layer.size:
            before = done
            try:
                async for data in self._part(layer, done):
                    done += len(data)
                    await pipe.write(data)
                reason = f"ended after {done} of {layer.size} bytes"
            except _Interrupted as error:
                reason = str(error)
            if done >= layer.size:
                return
            failures = 1 if done > before else failures + 1
            if failures >= BARREN:
                raise RegistryUnavailable(f"registry {self._ref.host}: download broke off: {reason}")
            await asyncio.sleep(FIRST_DELAY * 2 ** (failures - 1))

    async def _part(self, layer: m.Descriptor, start: int) -> AsyncIterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._request("GET", f"blobs/{layer.digest}", headers=headers, attempts=1) as answer:
            skip = start
            if answer.status == 206:
                if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise ImageBroken(f"registry {self._ref.host} answered another range than asked for")
                skip = 0
            try:
                async for data in answer.content.iter_chunked(CHUNK):
                    fresh = data[skip:]
                    skip -= min(skip, len(data))
                    if fresh:
                        yield fresh
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _Interrupted(_cause(error)) from None

    # -- requests

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, accept: str = "*/*", *,
        headers: Mapping[str, str] | None = None, attempts: int = ATTEMPTS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """A successful answer. ImageNotFound, ImageRefused; RegistryUnavailable after all attempts.

        With attempts=1 the caller tries again: _Interrupted.
        """
        url = self._base / "v2" / self._ref.repository / path
        wanted = {"Accept": accept, "Accept-Encoding": "identity", **(headers or {})}
        delay = FIRST_DELAY
        for attempt in range(1, attempts + 1):
            try:
                answer = await self._authorized(method, url, wanted)
                break
            except _Interrupted as error:
                if attempts == 1:
                    raise
                if attempt == attempts:
                    raise RegistryUnavailable(f"registry {self._ref.host}: {error}") from None
                await asyncio.sleep(delay)
                delay *= 2
        else:
            raise AssertionError("unreachable")
        try:
            yield answer
        finally:
            answer.close()

    async def _authorized(self, method: str, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        answer = await self._follow(method, url, headers)
        if answer.status == 401:
            challenges = answer.headers.getall("WWW-Authenticate", [])
            answer.close()
            self._authorization = await self._authenticate(challenges)
            answer = await self._follow(method, url, headers)
        if answer.status in {200, 206}:
            return answer
        try:
            await self._refuse(answer)
        finally:
            answer.close()
        raise AssertionError("unreachable")

    async def _refuse(self, answer: aiohttp.ClientResponse) -> None:
        said = await _error_text(answer)
        host = self._ref.host
        if answer.status in _BUSY:
            raise _Interrupted(f"HTTP {answer.status}{said}")
        if answer.status == 404:
            raise ImageNotFound(f"not found in registry {host}{said}")
        if answer.status in {401, 403}:
            what = "the login was refused" if self._credentials(host) else "needs a login"
            raise ImageRefused(f"registry {host}: {what} (HTTP {answer.status}{said})")
        raise ImageNotFound(f"registry {host} answered HTTP {answer.status}{said}")

    async def _follow(self, method: str, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """One request with its redirects; the Authorization header only for the registry's own origin."""
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if self._authorization and url.origin() == self._base.origin():
                sent["Authorization"] = self._authorization
            answer = await self._send(method, url, sent)
            if answer.status not in {301, 302, 303, 307, 308}:
                return answer
            target = answer.headers.get("Location", "")
            answer.close()
            try:
                following = url.join(URL(target))
            except ValueError:
                raise ImageBroken(
                    f"registry {self._ref.host} redirects to nowhere: {target[:100]!r}"
                ) from None
            self._check_origin(following, "redirects")
            url = following
        raise ImageBroken(f"registry {self._ref.host}: more than {MAX_REDIRECTS} redirects")

    def _check_origin(self, url: URL, what: str) -> None:
        local = is_loopback(self._base.authority) and url.scheme == "http" and is_loopback(url.authority)
        if not url.host or (url.scheme != "https" and not local):
            raise ImageBroken(f"registry {self._ref.host} {what} to {str(url)[:100]}: only HTTPS is followed")

    async def _send(self, method: str, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        if self._http is None:
            # No netrc, no cookies, no transparent decompression: what is hashed is what came.
            self._http = aiohttp.ClientSession(
                timeout=TIMEOUT, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "gantry"}, trust_env=not is_loopback(self._base.authority),
            )  # fmt: skip
        try:
            return await self._http.request(method, url, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Interrupted(_cause(error)) from None

    # -- logging in

    async def _authenticate(self, challenges: list[str]) -> str:
        """The Authorization header that answers a 401. ImageRefused when we have nothing to answer."""
        host = self._ref.host
        login = self._credentials(host)
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                return "Bearer " + await self._token(dict(_CHALLENGE.findall(rest)), login)
            if scheme.lower() == "basic" and login is not None:
                return login.header
        raise ImageRefused(f"registry {host} needs a login, and this node has none for it")

    async def _token(self, challenge: Mapping[str, str], login: Login | None) -> str:
        realm = URL(challenge.get("realm", ""))
        self._check_origin(realm, "sends for a token")
        scope = challenge.get("scope") or f"repository:{self._ref.repository}:pull"
        query = {"scope": scope, **({"service": challenge["service"]} if "service" in challenge else {})}
        headers = {"Authorization": login.header} if login else {}
        answer = await self._send("GET", realm.update_query(query), headers)
        try:
            if answer.status in _BUSY:
                raise _Interrupted(f"token service {realm.host}: HTTP {answer.status}")
            if answer.status != 200:
                raise ImageRefused(
                    f"registry {self._ref.host}: {realm.host} gives no token (HTTP {answer.status})"
                )
            obj = m.parse_json(await _body(answer, MAX_ANSWER, "token"), "token")
        finally:
            answer.close()
        token = obj.get("token") or obj.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ImageBroken(f"registry {self._ref.host}: {realm.host} answered without a token")
        return token


def is_loopback(authority: str) -> bool:
    """Whether `host[:port]` is this machine by its very name; names are not resolved."""
    try:
        host = URL(f"//{authority}").host or ""
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _body(answer: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body, bounded."""
    data = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > limit:
                raise ImageBroken(f"{what} is longer than {limit} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise RegistryUnavailable(f"{what}: {_cause(error)}") from None
    return bytes(data)


async def _error_text(answer: aiohttp.ClientResponse) -> str:
    """`: manifest unknown` from the registry's JSON errors, one line, or nothing."""
    try:
        obj: Any = orjson.loads(await _body(answer, MAX_ANSWER, "error"))
        text = str(obj["errors"][0]["message"])
    except (ImageError, orjson.JSONDecodeError, LookupError, TypeError):
        return ""  # the status says enough
    return ": " + "".join(c if c.isprintable() else " " for c in text[:200])


def _cause(error: Exception) -> str:
    """What the network said, in few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return f"TLS: {error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        return os.strerror(inner.errno) if inner.errno and inner.errno > 0 else inner.strerror or str(inner)
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
