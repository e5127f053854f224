"""The kubelet's paths for what goes both ways: exec, attach, port-forward.

    GET, POST /exec/{namespace}/{pod}/{container}      command (repeated), input, output, error, tty
    GET, POST /attach/{namespace}/{pod}/{container}    input, output, error, tty
    GET, POST /portForward/{namespace}/{pod}           port (repeated; of a WebSocket with channels)

Over WebSockets, and over SPDY/3.1 for kubectl before 1.30. What cannot be done is said before the connection changes
its protocol, as one line of text.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from executor.pods.core.states import ContainerState
from executor.pods.launcher import LaunchError
from executor.pods.runner import PodRunner
from executor.server import command, forwarding
from executor.server.query import QueryError
from executor.server.sessions import V4, V5, Session, SpdySession, Wanted, WebSocketSession
from executor.server.spdy import Connection
from executor.server.upgrade import WebSocketCarrier, carry, is_spdy, is_websocket, spdy, websocket

Find = Callable[[str, str], PodRunner]
"""A pod by namespace and name. Raises KeyError."""
Talk = Callable[[Session, Wanted], Awaitable[None]]

MESSAGE: Final = "Upgrade request required: by WebSocket or SPDY/3.1"
_RUNS: Final = frozenset(
    {ContainerState.SETTLING, ContainerState.RUNNING, ContainerState.LEAVING, ContainerState.STOPPING}
)


def routes(find: Find) -> list[web.RouteDef]:
    """The three, of the pods that `find` finds."""

    async def execute(request: web.Request) -> web.StreamResponse:
        runner, app = _container(find, request)
        argv = request.query.getall("command", [])
        if not argv:
            raise QueryError("you must specify at least 1 command for the container")
        place = runner.place(app)

        async def talk(session: Session, wanted: Wanted) -> None:
            await command.run(session, place, argv, wanted)

        return await _session(request, talk)

    async def attach(request: web.Request) -> web.StreamResponse:
        runner, app = _container(find, request)
        writer, console = runner.attach(app)
        if _flag(request, "tty") and not console.terminal:
            raise QueryError(f"container {app} has no terminal")
        once = runner.stdin_once(app)

        async def talk(session: Session, wanted: Wanted) -> None:
            await command.attach(session, writer, console, wanted, once=once)

        return await _session(request, talk)

    async def forward(request: web.Request) -> web.StreamResponse:
        where = request.match_info
        runner = find(where["namespace"], where["pod"])
        return await _forward(request, forwarding.Target(runner.sandbox, where["pod"]))

    container = "{namespace}/{pod}/{container}"
    handlers = {
        f"/exec/{container}": execute,
        f"/attach/{container}": attach,
        "/portForward/{namespace}/{pod}": forward,
    }
    return [
        web.route(method, path, _refusing(handler))
        for path, handler in handlers.items()
        for method in ("GET", "POST")
    ]


def _refusing(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        where = request.match_info
        try:
            return await handler(request)
        except (QueryError, LaunchError) as error:
            return web.Response(status=400, text=f"{error}\n")
        except KeyError:
            text = f'pod "{where["pod"]}" in namespace "{where["namespace"]}" is not on this node\n'
            return web.Response(status=404, text=text)
        except LookupError as error:
            return web.Response(status=400, text=f"{error}\n")

    return handle


def _container(find: Find, request: web.Request) -> tuple[PodRunner, str]:
    """Raises LookupError for one that does not run, in the kubelet's words."""
    where = request.match_info
    runner, app = find(where["namespace"], where["pod"]), where["container"]
    if not any(c.app.name == app and c.state in _RUNS for c in runner.state.containers):
        raise LookupError(f'container not found ("{app}")')
    return runner, app


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in {"1", "true"}


async def _session(request: web.Request, talk: Talk) -> web.StreamResponse:
    wanted = Wanted(*(_flag(request, name) for name in ("input", "output", "error", "tty")))
    wanted.check()
    if is_websocket(request):
        socket = await websocket(request, (V5, V4))
        over = WebSocketSession(socket)
        try:
            await over.begin(wanted)
            await talk(over, wanted)
        except OSError:
            pass  # the client has gone
        finally:
            await socket.close()
        return socket

    async def work(connection: Connection) -> None:
        session = await SpdySession.open(connection, wanted)
        try:
            await talk(session, wanted)
        finally:
            session.close()

    if not is_spdy(request):
        raise QueryError(MESSAGE)
    return await spdy(request, (V4,), work)


async def _forward(request: web.Request, target: forwarding.Target) -> web.StreamResponse:
    async def work(connection: Connection) -> None:
        await forwarding.serve_spdy(connection, target)

    if is_spdy(request):
        return await spdy(request, (forwarding.SPDY,), work)
    if not is_websocket(request):
        raise QueryError(MESSAGE)
    ports = [one for value in request.query.getall("port", []) for one in value.split(",")]
    if not ports:
        socket = await websocket(request, (forwarding.TUNNEL,))
        try:
            await carry(Connection(WebSocketCarrier(socket)), work)
        finally:
            await socket.close()
        return socket
    if not all(port.isdecimal() and 0 < int(port) < 1 << 16 for port in ports):
        raise QueryError(f"port: {ports} are not numbers of ports")
    socket = await websocket(request, (forwarding.CHANNELS,))
    try:
        await forwarding.serve_channels(socket, target, ports)
    except (OSError, asyncio.CancelledError):
        if request.transport is not None and not request.transport.is_closing():
            raise
    return socket
