"""Passing a request on to the leader: bodies as streams in both directions, one request at most once.

The leader's certificate is not verified by name and authority but pinned: its fingerprint stands in ZooKeeper, where
only schedulers write. So a token that a client sent us is shown to nobody but the leader.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from scheduler.api.context import API
from scheduler.api.status import STREAM
from scheduler.registry.errors import ApiError, Timeout

log = logging.getLogger(__name__)

FORWARDED_BY = "Gantry-Forwarded-By"
"""The instance that passed a request on."""

CONNECT_SECONDS = 3.0

IDLE_SECONDS = 30.0
"""A connection to the leader is kept so long; the leader keeps it longer, so that it is we who close it."""

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    )
)
"""Of a connection, not of what goes over it (RFC 9110, 7.6.1)."""

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


class NotSent(Exception):
    """The leader cannot be reached, or refuses what we let through; nothing was done."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Where it serves. `fingerprint`: SHA-256 of its certificate, hexadecimal; "" for plain HTTP."""

    url: str
    fingerprint: str = ""

    @property
    def tls(self) -> aiohttp.Fingerprint | bool:
        return aiohttp.Fingerprint(bytes.fromhex(self.fingerprint)) if self.fingerprint else False


class Passing:
    """`send` passes on. `instance`: the name of this one."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.ACCEPT),
            )
        return self._session

    def headers(self, request: web.Request) -> CIMultiDict[str]:
        """The client's, and who it is."""
        made = end_to_end(request.headers)
        if request.app[API].token is not None:
            made.popall(hdrs.HOST, None)  # without a token the leader, too, looks at what its clients call it
        if request.remote:
            before = request.headers.get(hdrs.X_FORWARDED_FOR)
            made[hdrs.X_FORWARDED_FOR] = f"{before}, {request.remote}" if before else request.remote
        made.setdefault(hdrs.X_FORWARDED_HOST, request.host)
        made.setdefault(hdrs.X_FORWARDED_PROTO, request.scheme)
        made[FORWARDED_BY] = self._instance
        return made

    async def send(self, request: web.Request, leader: Leader) -> web.StreamResponse:
        """The leader's answer, passed on. Raises NotSent, when another try does no harm; Timeout."""
        try:
            answer = await self._client().request(
                request.method,
                URL(leader.url + request.raw_path, encoded=True),
                headers=self.headers(request),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
                ssl=leader.tls,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ServerFingerprintMismatch) as error:
            raise NotSent(f"the leading scheduler at {leader.url} cannot be reached: {error}") from error
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            if request.method in SAFE:
                raise NotSent(f"the leading scheduler at {leader.url} went away: {error!r}") from error
            raise _outcome_unknown(leader) from error
        async with answer:
            if answer.status == 401:
                raise _other_token(leader)
            return await _pass_back(request, answer)


def _outcome_unknown(leader: Leader) -> ApiError:
    return Timeout(
        f"the leading scheduler at {leader.url} went away before it answered: this may have been done, or not"
    )


def _other_token(leader: Leader) -> ApiError:
    why = f"the leading scheduler at {leader.url} has another --token-file: all have to have the same token"
    log.error(why)
    return ApiError(503, "ServiceUnavailable", why)


def end_to_end(headers: CIMultiDict[str] | aiohttp.typedefs.LooseHeaders) -> CIMultiDict[str]:
    """Without what belongs to one connection."""
    made = CIMultiDict(headers)
    named = {one.strip().lower() for value in made.getall(hdrs.CONNECTION, ()) for one in value.split(",")}
    for name in HOP_BY_HOP | named:
        made.popall(name, None)
    return made


async def _pass_back(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(
        status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers)
    )
    await request.app[API].stream(_pump(request, response, answer))
    return response


async def _pump(request: web.Request, response: web.StreamResponse, answer: aiohttp.ClientResponse) -> None:
    request[STREAM] = response
    lines = _is_watch(request, answer)
    await response.prepare(request)
    rest = b""
    try:
        async for chunk in answer.content.iter_any():
            if lines:
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                chunk = whole + newline
            if chunk:
                await response.write(chunk)
    except (aiohttp.ClientError, OSError):
        if not lines:
            raise  # what has come so far is not the answer: the client has to see that
    await response.write_eof()


def _is_watch(request: web.Request, answer: aiohttp.ClientResponse) -> bool:
    """A watch may end at any time: its client goes on from the last event, if that came whole."""
    return (
        request.query.get("watch", "false") not in ("0", "false")
        and answer.status == 200
        and answer.content_type == "application/json"
        and hdrs.CONTENT_ENCODING not in answer.headers
    )


def address_of(url: str) -> tuple[str, int]:
    """Host and port of an `http(s)://host[:port]`."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
