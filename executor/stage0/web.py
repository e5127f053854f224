"""HTTP for pulls: which hosts are spoken to how, redirects, back-off, proxies. Knows nothing of images.

Redirects are followed by hand: an Authorization header goes to the origin (scheme, host, port) it was made for and
nowhere else, and no redirect leads from HTTPS to HTTP. Plain HTTP is spoken with hosts on loopback and with those that
the node's settings name. Proxies come from the environment (HTTPS_PROXY, NO_PROXY, …); no netrc, no cookies.
"""

import asyncio
import os
import ssl
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
from yarl import URL

from executor.stage0.errors import ImageBroken, ImageNotFound, RegistryUnavailable, StoreError
from executor.stage0.settings import Login, Settings, authority, is_loopback

T = TypeVar("T")
MAX_REDIRECTS = 5
ATTEMPTS = 3  # of a request
FIRST_DELAY = 0.25  # seconds, doubled with every attempt
MAX_DELAY = 30.0  # seconds that a server may make us wait; when it wants more, the pull is tried later
CHUNK = 128 * 1024
BUSY = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Interrupted(Exception):
    """The network or the server failed in a way that a later try may not. after: seconds that the server asks for."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Web:
    """The HTTP of one pull. Used on one event loop. login: for the hosts that requests begin with, and no others."""

    def __init__(self, settings: Settings, login: Login | None = None) -> None:
        self._settings, self._login = settings, login
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    def base(self, host: str) -> URL:
        """`https://host`, or http for loopback (without TLS settings of its own) and hosts set to plain-http."""
        url = URL(f"https://{host}")
        return url.with_scheme("http") if self._is_plain(url, URL(f"http://{host}")) else url

    def _is_plain(self, *urls: URL) -> bool:
        for url in urls:
            host = self._settings.host(url)
            if host is not None:
                return host.plain_http
        return is_loopback(urls[0].authority)

    def may_follow(self, url: URL, start: URL) -> bool:
        """Whether a request that began at `start` may go on at `url`."""
        if not url.host or url.scheme not in {"https", "http"}:
            return False
        return url.scheme == "https" or (start.scheme == "http" and self.may_be_plain(url))

    def may_be_plain(self, url: URL) -> bool:
        """Whether HTTP may be spoken with this host."""
        host = self._settings.host(url)
        return is_loopback(authority(url)) or (host is not None and host.plain_http)

    async def follow(
        self, method: str, url: URL, headers: Mapping[str, str], authorization: str = ""
    ) -> aiohttp.ClientResponse:
        """One request with its redirects. Interrupted; ImageBroken for redirects that are not followed."""
        start = url
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if authorization and url.origin() == start.origin():
                sent["Authorization"] = authorization
            if self._login is not None and url.origin() == start.origin():
                sent |= self._login(method, url)
            answer = await self.send(method, url, sent)
            if answer.status not in _REDIRECTS:
                return answer
            target = answer.headers.get("Location", "")
            answer.close()
            try:
                following = url.join(URL(target))
            except ValueError:
                raise ImageBroken(f"{authority(start)} redirects to nowhere: {target[:100]!r}") from None
            if not self.may_follow(following, start):
                raise ImageBroken(
                    f"{authority(start)} redirects to {str(following)[:100]}: only HTTPS is followed"
                )
            url = following
        raise ImageBroken(f"{authority(start)}: more than {MAX_REDIRECTS} redirects")

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """One request without redirects. Interrupted."""
        if self._http is None:
            downloads = self._settings.downloads
            # What is hashed is what came: no transparent decompression.
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=downloads.connect_timeout, sock_read=downloads.read_timeout
                ),
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": "gantry"},
            )  # fmt: skip
        try:
            return await self._http.request(
                method, url, headers=headers, data=form, allow_redirects=False,
                ssl=self._tls(url), proxy=_proxy(url),
            )  # fmt: skip
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Interrupted(f"{authority(url)}: {cause(error)}") from None

    def _tls(self, url: URL) -> ssl.SSLContext | bool:
        host = self._settings.host(url)
        if host is None or url.scheme != "https" or not (host.ca or host.client_cert or host.skip_verify):
            return True
        made = self._contexts.get(authority(url))
        if made is None:
            try:
                made = ssl.create_default_context(cafile=host.ca)
                if host.client_cert is not None:
                    made.load_cert_chain(host.client_cert, host.client_key)
            except (OSError, ssl.SSLError) as error:
                raise StoreError(f"the image settings of host {authority(url)}: {error}") from None
            if host.skip_verify:
                made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
            self._contexts[authority(url)] = made
        return made


async def patiently(attempt: Callable[[], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
    """Try until it is not Interrupted, with growing pauses or those the server asks for. RegistryUnavailable."""
    delay = FIRST_DELAY
    for number in range(1, attempts + 1):
        try:
            return await attempt()
        except Interrupted as error:
            if number == attempts or error.after > MAX_DELAY:
                raise unavailable(error) from None
            await asyncio.sleep(max(delay, error.after))
            delay *= 2
    raise AssertionError("attempts is at least 1")


def unavailable(error: Interrupted) -> RegistryUnavailable:
    """What a pull fails with in the end."""
    later = f" (it asks to come back in {error.after:.0f} s)" if error.after > MAX_DELAY else ""
    return RegistryUnavailable(f"{error}{later}")


def retry_after(answer: aiohttp.ClientResponse) -> float:
    """Seconds of a Retry-After header, 0.0 without one. Source: RFC 9110, 10.2.3."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


async def body(answer: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body, bounded. Interrupted; ImageBroken when it is longer."""
    data = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > limit:
                raise ImageBroken(f"{what} is longer than {limit} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Interrupted(f"{what}: {cause(error)}") from None
    return bytes(data)


def refuse(answer: aiohttp.ClientResponse, what: str) -> None:
    """Raise what a status that is no success means."""
    if answer.status in BUSY:
        raise Interrupted(f"{what}: HTTP {answer.status}", retry_after(answer))
    raise ImageNotFound(f"{what}: HTTP {answer.status}")


def cause(error: Exception) -> str:
    """What the network said, in few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return f"TLS: {error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        return os.strerror(inner.errno) if inner.errno and inner.errno > 0 else inner.strerror or str(inner)
    for under in (error, error.__cause__):
        if isinstance(under, ssl.SSLError):
            return f"TLS: {(under.reason or str(under)).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__


def _proxy(url: URL) -> str | None:
    """The proxy of the environment for this address; loopback has none."""
    if not url.host or is_loopback(authority(url)):
        return None
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(authority(url)):
        return None
    return proxies.get(url.scheme) or proxies.get("all")
