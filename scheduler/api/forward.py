"""What an instance that does not lead answers by itself, and what it passes on to the one that leads.

By itself: health, metrics, discovery; and GET, LIST and WATCH as far as the client allows what is not the very newest:
`resourceVersion=0`, or a version that has been reached here (Kubernetes API concepts, "Resource Versions"). Such a
watch goes on when the leader dies. Everything else goes to the leader, so nobody has to know which one that is.

While nobody leads requests wait a little, then it is 503 with Retry-After. An instance that gets a request which was
passed on already answers it or refuses it: it never goes round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from scheduler.api.context import API, Api
from scheduler.api.forward_http import FORWARDED_BY, Leader, NotSent, Passing
from scheduler.api.forward_tunnel import tunnel, wants_upgrade
from scheduler.api.pages import Token
from scheduler.api.respond import warning_header
from scheduler.registry.errors import ApiError, ServiceUnavailable

PATIENCE = 5.0
"""Seconds a request waits for a leader: most changes of leadership take less."""

CATCHING_UP = 1.0
"""Seconds a watch waits for the version from which it is to begin, which its client has seen elsewhere."""

STEP = 0.01

LOCAL = ("/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi")
"""Paths, and what is below them, that tell of this instance or of all alike."""


class Role(Enum):
    """What an instance is to its clients. STARTING: it has no state yet to answer from."""

    STARTING = "starting"
    FOLLOWING = "following"
    LEADING = "leading"


class Forwarder:
    """The role of this instance, and the way to the leader. Say `become` at every change."""

    def __init__(self, instance: str, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self.role = Role.STARTING
        self.leader: Leader | None = None
        self.trouble: Callable[[], str] = lambda: ""
        """Why there may be no leader, for whoever waits for one."""
        self.doubt: Callable[[], str] = lambda: ""
        """Why this instance may lead no more though it cannot know."""
        self._passing = Passing(instance)
        self._changed = asyncio.Event()

    def become(self, role: Role, leader: Leader | None = None) -> None:
        self.role, self.leader = role, leader
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        await self._passing.close()

    def middleware(self) -> Middleware:
        @web.middleware
        async def forward(request: web.Request, handler: Handler) -> web.StreamResponse:
            if is_local(request.path):
                return await handler(request)
            if self.role is Role.LEADING:
                return self._warned(await handler(request))
            if self.role is Role.FOLLOWING and await may_answer(request, request.app[API]):
                return await handler(request)
            return await self._elsewhere(request, handler)

        return forward

    def _warned(self, response: web.StreamResponse) -> web.StreamResponse:
        doubt = self.doubt()
        if doubt and not response.prepared:
            text = f"{doubt}: what this scheduler shows may be old"
            response.headers.add("Warning", warning_header(text))
        return response

    async def _elsewhere(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Passed on, or handled here after all, when this instance comes to lead meanwhile."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._patience
        why = ""
        while True:
            changed = self._changed
            if self.role is Role.LEADING:
                return await handler(request)
            leader = None if FORWARDED_BY in request.headers else self.leader
            if leader is not None:
                try:
                    return await self._pass_on(request, leader)
                except NotSent as error:
                    why = str(error)
            if clock() >= end or request.app[API].ending.is_set():
                raise _no_leader(why or self.trouble() or "no scheduler leads at the moment")
            try:  # a leader that cannot be reached may be about to come back, at the same place
                async with asyncio.timeout_at(min(end, clock() + (end - clock()) / 4 + STEP)):
                    await changed.wait()
            except TimeoutError:
                pass

    async def _pass_on(self, request: web.Request, leader: Leader) -> web.StreamResponse:
        if wants_upgrade(request):
            return await tunnel(request, leader, self._passing.headers(request))
        return await self._passing.send(request, leader)


def _no_leader(why: str) -> ApiError:
    error = ServiceUnavailable(f"{why}; try again")
    error.details = {"retryAfterSeconds": 1}
    return error


def is_local(path: str) -> bool:
    """Whether every instance answers this in its own right."""
    if any(path == one or path.startswith(one + "/") for one in LOCAL):
        return True
    parts = [part for part in path.split("/") if part]
    if not parts or parts[0] == "api":  # /, /api, /api/v1
        return len(parts) <= 2
    return parts[0] == "apis" and len(parts) <= 3


async def may_answer(request: web.Request, api: Api) -> bool:
    """Whether the client takes what this instance knows for an answer."""
    query = request.query
    route = request.match_info.route.resource
    path = route.canonical if route is not None else ""
    if request.method != "GET" or not path.startswith(("/api/", "/apis/")) or "{name}/" in path:
        return False
    if query.get("continue"):
        return _holds(api, query["continue"])
    text = query.get("resourceVersion", "")
    if not (text.isascii() and text.isdigit()):
        return False
    version = int(text)
    if query.get("resourceVersionMatch") == "Exact" and version != api.store.version:
        return False
    if "watch" in query and version > api.store.version:
        await _catch_up(api, version)
    return version <= api.store.version


def _holds(api: Api, text: str) -> bool:
    """Whether a long list was begun here, so that it has to go on here."""
    try:
        return api.pages.holds(Token.decode(text))
    except ApiError:
        return False


async def _catch_up(api: Api, version: int) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + CATCHING_UP
    while api.store.version < version and loop.time() < end:  # noqa: ASYNC110 - nobody tells of versions alone
        await asyncio.sleep(STEP)
