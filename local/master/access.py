"""Which requests to the master need a credential, and whose it has to be.

Source: Mesos src/master/master.cpp (`Master::initialize`, the routes), src/master/constants.hpp (realms).
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from local.link import PATH as LINK_PATH
from local.master.flags import Flags
from local.wire.authentication import Basic

PRINCIPAL = "principal"
"""Of an authenticated request."""

_OPEN = ("/redirect", "/version", "/health")


class Access:
    """The realms, each with HTTP Basic or open to all."""

    def __init__(self, flags: Flags) -> None:
        def realm(name: str, wanted: bool) -> Basic | None:
            return Basic(f"mesos-master-{name}", flags.credentials) if wanted else None

        self._scheduler = realm("scheduler", flags.authenticate_http_frameworks)
        self._write = realm("readwrite", flags.authenticate_http_readwrite)
        self._read = realm("readonly", flags.authenticate_http_readonly)
        self._agents = realm("agents", flags.authenticate_agents)

    def _of(self, path: str) -> Basic | None:
        if path == LINK_PATH:
            return self._agents
        path = path.removeprefix("/master")
        if path in _OPEN:
            return None
        if path == "/api/v1/scheduler":
            return self._scheduler
        return self._write if path == "/api/v1" else self._read

    @web.middleware
    async def check(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        basic = self._of(request.path)
        if basic is not None:
            request[PRINCIPAL] = basic.principal(request)
        return await handler(request)
