"""The HTTP server: the kubelet's paths for logs, pods and health.

    GET /healthz                                         ok, without a token
    GET /pods                                            v1 PodList of the pods that live
    GET /containerLogs/{namespace}/{pod}/{container}     follow, tailLines, sinceSeconds, sinceTime, timestamps,
                                                         previous, limitBytes
    /exec, /attach, /portForward                         see `streaming`

All but the first need one of the bearer tokens that came with pods. Only the scheduler calls this; users come
through its API. Errors are one line of text, as the kubelet's are.
"""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from executor.pods.logread import read_log
from executor.pods.pods import Pods
from executor.server.query import QueryError, log_options
from executor.server.streaming import routes

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_TOKENS: Final = 64


class Tokens:
    """The bearer tokens that are good here: those that came with pods; the oldest go first when there are many."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def add(self, token: str) -> None:
        """Accept this one from now on. "" is never accepted."""
        if token and token not in self._known:
            self._known[token] = None
            while len(self._known) > MAX_TOKENS:
                del self._known[next(iter(self._known))]

    def good(self, header: str) -> bool:
        """Whether an Authorization header carries one of them; takes the same time whichever, if any, it is."""
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "bearer":
            return False
        found = False
        for token in self._known:
            found |= hmac.compare_digest(token.encode(), given.strip().encode())
        return found


PODS: Final = web.AppKey("pods", Pods)
TOKENS: Final = web.AppKey("tokens", Tokens)


def make_app(pods: Pods, tokens: Tokens) -> web.Application:
    """The application; the caller serves it, with handler_cancellation so that a follower's leaving is seen."""
    app = web.Application(middlewares=[authenticate])
    app[PODS], app[TOKENS] = pods, tokens
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/pods", list_pods)
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", container_logs)
    app.router.add_routes(routes(pods.find))
    return app


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path != "/healthz" and not request.app[TOKENS].good(request.headers.get("Authorization", "")):
        return web.Response(status=401, text="Unauthorized\n", headers={"WWW-Authenticate": "Bearer"})
    return await handler(request)


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def list_pods(request: web.Request) -> web.Response:
    return web.json_response(
        {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": request.app[PODS].statuses()}
    )


async def container_logs(request: web.Request) -> web.StreamResponse:
    where = request.match_info
    namespace, name, container = where["namespace"], where["pod"], where["container"]
    try:
        options, previous = log_options(request.query, time.time())
        path, writer = request.app[PODS].log_of(namespace, name, container, previous=previous)
    except QueryError as error:
        return web.Response(status=400, text=f"{error}\n")
    except KeyError:
        return web.Response(status=404, text=f'pod "{name}" in namespace "{namespace}" is not on this node\n')
    except LookupError as error:
        return web.Response(status=400, text=f"{error}\n")
    if not path.exists():
        return web.Response(status=404, text=f'the log of container "{container}" in pod "{name}" is gone\n')
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    try:
        async for block in read_log(path, options, writer):
            await response.write(block)
        await response.write_eof()
    except (ConnectionError, FileNotFoundError) as error:
        log.debug("a log was not sent to its end: %s", error)  # the reader left, or the pod was collected
    return response
