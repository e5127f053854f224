"""The agent's HTTP endpoints: the v1 executor API, the operator API's reads, plain GETs.

Source: Mesos src/slave/http.cpp.
"""

from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

from local.agent import views
from local.agent.core import Core
from local.agent.executors import Executors, claims
from local.agent.model import Executor, State
from local.agent.validation import executor_call_error
from local.wire import http
from local.wire.authentication import Basic
from local.wire.proto import Json
from local.wire.stream import EventStream


class Server:
    """Requests in, state changes and replies out."""

    def __init__(self, core: Core, executors: Executors) -> None:
        self._core = core
        self._executors = executors
        flags = core.flags
        realms = (
            ("readonly", flags.authenticate_http_readonly),
            ("readwrite", flags.authenticate_http_readwrite),
        )
        self._read, self._write = (
            Basic(f"mesos-agent-{name}", flags.http_credentials) if wanted else None
            for name, wanted in realms
        )
        self._views: dict[str, Callable[[Core], Json]] = {
            "/state": views.state,
            "/metrics/snapshot": views.metrics,
            "/version": lambda _: views.version(),
        }
        self._operator: dict[str, Callable[[Core], Json]] = {
            "GET_HEALTH": lambda _: {"healthy": True},
            "GET_VERSION": lambda _: {"version_info": views.version()},
            "GET_AGENT": views.get_agent,
            "GET_STATE": views.get_state,
            "GET_FRAMEWORKS": views.get_frameworks,
            "GET_TASKS": views.get_tasks,
            "GET_EXECUTORS": views.get_executors,
        }

    def app(self) -> web.Application:
        app = web.Application(client_max_size=http.MAX_BODY, middlewares=[self._check])
        for prefix in ("", "/slave(1)"):
            app.router.add_route("*", f"{prefix}/api/v1/executor", self.executor)
            app.router.add_route("*", f"{prefix}/api/v1", self.operator)
            app.router.add_get(f"{prefix}/health", self.health)
            for path in self._views:
                app.router.add_get(prefix + path, self.view)
        return app

    @web.middleware
    async def _check(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Who may ask; executors are checked against what their call says."""
        path = request.path.removeprefix("/slave(1)")
        if path == "/api/v1/executor" and self._core.tokens is not None:
            request["claims"] = self._core.tokens.claims(request)
        basic = self._write if path == "/api/v1" else self._read if path in self._views else None
        if basic is not None and path != "/version":
            basic.principal(request)
        return await handler(request)

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def view(self, request: web.Request) -> web.Response:
        return http.json_reply(self._views[request.path.removeprefix("/slave(1)")](self._core))

    async def operator(self, request: web.Request) -> web.Response:
        """Reads; 501 for what is not done here."""
        http.require_post(request)
        call = await http.read_json(request)
        kind = call.get("type") if isinstance(call, dict) else None
        if not isinstance(kind, str):
            raise http.bad_request("Failed to validate agent::Call: Expecting 'type' to be present")
        http.require_accept(request)
        if kind not in self._operator:
            raise web.HTTPNotImplemented(text=f"{kind} is not supported by the embedded Mesos")
        return http.json_reply({"type": kind, kind.lower(): self._operator[kind](self._core)})

    async def executor(self, request: web.Request) -> web.StreamResponse:
        """The v1 executor API."""
        http.require_post(request)
        call = await http.read_call(request, "ExecutorCall")
        error = executor_call_error(call)
        if error is not None:
            raise http.bad_request(f"Failed to validate Executor::Call: {error}")
        if call["type"] == "SUBSCRIBE":
            http.require_accept(request)
        elif call["type"] == "HEARTBEAT":
            return http.accepted()
        elif self._core.recovering:
            raise web.HTTPServiceUnavailable(text="Agent has not finished recovery")
        executor = self._executor(call)
        if self._core.tokens is not None:
            _verify(request["claims"], executor)
        if call["type"] == "SUBSCRIBE":
            return await self._subscribe(request, executor, call["subscribe"])
        if executor.state is State.REGISTERING:
            raise web.HTTPForbidden(text="Executor is not subscribed")
        if call["type"] == "UPDATE":
            self._update(executor, call["update"]["status"])
        else:
            self._message(executor, call["message"]["data"])
        return http.accepted()

    def _executor(self, call: Json) -> Executor:
        framework = self._core.frameworks.get(call["framework_id"]["value"])
        if framework is None:
            raise http.bad_request("Framework cannot be found")
        executor = framework.executors.get(call["executor_id"]["value"])
        if executor is None:
            raise http.bad_request("Executor cannot be found")
        return executor

    async def _subscribe(self, request: web.Request, executor: Executor, call: Json) -> web.StreamResponse:
        stream = EventStream()
        self._executors.subscribe(executor, call, stream)
        try:
            return await stream.pump(request, {})
        finally:
            stream.close()
            self._executors.disconnected(executor, stream)

    def _update(self, executor: Executor, status: Json) -> None:
        """Taken in and on disk before the executor is told so."""
        status["executor_id"] = {"value": executor.executor_id}
        self._core.status_update(executor.framework_id, status)
        acknowledged = {"task_id": status["task_id"], "uuid": status["uuid"]}
        executor.send("ACKNOWLEDGED", acknowledged)

    def _message(self, executor: Executor, data: str) -> None:
        self._core.send(
            {
                "type": "MESSAGE",
                "framework_id": executor.framework_id,
                "executor_id": executor.executor_id,
                "data": data,
            }
        )


def _verify(known: Mapping[str, str], executor: Executor) -> None:
    """403 unless the token is of this very run (`verifyExecutorClaims`)."""
    texts = {
        "fid": f"contain an 'fid' claim with the framework ID {executor.framework_id}, which is set in the call",
        "eid": f"contain an 'eid' claim with the executor ID {executor.executor_id}, which is set in the call",
        "cid": "contain a 'cid' claim with the correct active ContainerID",
    }
    for name, value in claims(executor).items():
        if known.get(name) != value:
            shown = orjson.dumps({"claims": known}).decode()
            raise web.HTTPForbidden(text=f"Authenticated principal '{shown}' does not {texts[name]}")
