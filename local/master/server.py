"""The master's HTTP endpoints: the v1 scheduler API, the operator API, plain GETs and the agents' link.

Source: Mesos src/master/http.cpp.
"""

import logging
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import web

from local.link import PATH as LINK_PATH
from local.link import SocketLink
from local.master import roles, views
from local.master.access import PRINCIPAL, Access
from local.master.agents import Agents
from local.master.calls import Calls
from local.master.cluster import Cluster
from local.master.draining import DrainError, Draining
from local.master.maintenance import Maintenance, MaintenanceError
from local.master.model import Agent, Framework
from local.master.quota import QuotaError, Quotas
from local.master.subscriptions import Subscriptions
from local.master.validation.calls import scheduler_call_error
from local.wire import http
from local.wire.proto import Json
from local.wire.stream import EventStream

log = logging.getLogger(__name__)

_STREAM_ID = "Mesos-Stream-Id"


class Server:
    """Requests in, state changes and replies out."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._access = Access(cluster.flags)
        self._agents = Agents(cluster)
        self._subscriptions = Subscriptions(cluster)
        self._maintenance = Maintenance(cluster, self._agents)
        self._draining = Draining(cluster, self._agents)
        self._quotas = Quotas(cluster)
        self._calls = Calls(cluster, self._subscriptions, self._maintenance)
        self._views: dict[str, Callable[[Cluster], Json]] = {
            "/state": views.state,
            "/state-summary": views.summary,
            "/slaves": views.slaves,
            "/frameworks": views.frameworks,
            "/roles": roles.roles,
            "/metrics/snapshot": views.metrics,
            "/version": lambda _: views.version(),
        }
        self._operator: dict[str, Callable[[Cluster], Json]] = {
            "GET_HEALTH": lambda _: {"healthy": True},
            "GET_VERSION": lambda _: {"version_info": views.version()},
            "GET_MASTER": lambda c: {
                "master_info": c.master_info(),
                "start_time": c.started,
                "elected_time": c.started,
            },
            "GET_STATE": views.get_state,
            "GET_AGENTS": views.get_agents,
            "GET_FRAMEWORKS": views.get_frameworks,
            "GET_TASKS": views.get_tasks,
            "GET_EXECUTORS": views.get_executors,
            "GET_ROLES": roles.get_roles,
            "GET_QUOTA": lambda _: self._quotas.get(),
            "GET_MAINTENANCE_SCHEDULE": lambda _: self._maintenance.schedule(),
            "GET_MAINTENANCE_STATUS": lambda _: self._maintenance.status(),
        }

    def app(self) -> web.Application:
        app = web.Application(client_max_size=http.MAX_BODY, middlewares=[self._access.check, self._leading])
        for prefix in ("", "/master"):
            app.router.add_route("*", f"{prefix}/api/v1/scheduler", self.scheduler)
            app.router.add_route("*", f"{prefix}/api/v1", self.operator)
            app.router.add_get(f"{prefix}/redirect", self.redirect)
            app.router.add_get(f"{prefix}/health", self.health)
            for path in self._views:
                app.router.add_get(prefix + path, self.view)
        app.router.add_get(LINK_PATH, self.link)
        return app

    def start(self) -> None:
        """Begin the periodic work; called on the event loop."""
        self._agents.start()
        self._allocate_for_ever()

    def _allocate_for_ever(self) -> None:
        self._cluster.allocate_soon()
        self._cluster.later(self._cluster.flags.allocation_interval, self._allocate_for_ever)

    # ---- plain GETs

    @web.middleware
    async def _leading(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A master that does not lead sends everybody to the one that does."""
        leader = self._cluster.flags.leader
        path = request.path
        if leader is not None and not path.endswith(("/redirect", "/version", "/health")):
            prefix = "" if path.startswith(("/master", LINK_PATH)) else "/master"
            return http.redirect(f"//{leader}{prefix}{path}")
        return await handler(request)

    async def redirect(self, request: web.Request) -> web.Response:
        """To the leader, without a scheme."""
        host, port = self._cluster.flags.hostname, self._cluster.address[1]
        return http.redirect(f"//{self._cluster.flags.leader or f'{host}:{port}'}")

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def view(self, request: web.Request) -> web.Response:
        return http.json_reply(self._views[request.path.removeprefix("/master")](self._cluster))

    # ---- operator API

    async def operator(self, request: web.Request) -> web.Response:
        """Reads, TEARDOWN, and what operators do with agents and machines; 501 for what is not done here."""
        http.require_post(request)
        call = await http.read_json(request)
        if not isinstance(call, dict):
            raise http.bad_request("Failed to convert JSON into Call protobuf: Expecting a JSON object")
        kind = call.get("type")
        if not isinstance(kind, str):
            raise http.bad_request("Failed to validate master::Call: Expecting 'type' to be present")
        http.require_accept(request)
        if kind in self._operator:
            return http.json_reply({"type": kind, kind.lower(): self._operator[kind](self._cluster)})
        if kind == "TEARDOWN":
            return self._teardown(self._named(call, kind, "framework_id"))
        if kind == "MARK_AGENT_GONE":
            return self._mark_gone(self._named(call, kind, "agent_id"))
        if kind.endswith("_MAINTENANCE") or kind == "UPDATE_MAINTENANCE_SCHEDULE":
            return self._maintain(kind, call)
        if kind in ("UPDATE_QUOTA", "SET_QUOTA", "REMOVE_QUOTA"):
            return self._set_quota(kind, self._body(call, kind))
        if kind in ("DRAIN_AGENT", "DEACTIVATE_AGENT", "REACTIVATE_AGENT"):
            return self._drain(kind, self._named(call, kind, "agent_id"), call[kind.lower()])
        raise web.HTTPNotImplemented(text=f"{kind} is not supported by the embedded Mesos")

    def _maintain(self, kind: str, call: Json) -> web.Response:
        body = self._body(call, kind)
        try:
            if kind == "UPDATE_MAINTENANCE_SCHEDULE":
                self._maintenance.update((body.get("schedule") or {}).get("windows") or [])
            elif kind == "START_MAINTENANCE":
                self._maintenance.start(body.get("machines") or [])
            elif kind == "STOP_MAINTENANCE":
                self._maintenance.stop(body.get("machines") or [])
            else:
                raise web.HTTPNotImplemented(text=f"{kind} is not supported by the embedded Mesos")
        except MaintenanceError as error:
            raise http.bad_request(str(error)) from error
        return web.Response()

    @staticmethod
    def _body(call: Json, kind: str) -> Json:
        body = call.get(kind.lower())
        if not isinstance(body, dict):
            raise http.bad_request(
                f"Failed to validate master::Call: Expecting '{kind.lower()}' to be present"
            )
        return body

    def _set_quota(self, kind: str, body: Json) -> web.Response:
        handlers = {
            "UPDATE_QUOTA": self._quotas.update,
            "SET_QUOTA": self._quotas.set,
            "REMOVE_QUOTA": self._quotas.remove,
        }
        try:
            handlers[kind](body)
        except QuotaError as error:
            return web.Response(status=error.status, text=str(error))
        return web.Response()

    def _drain(self, kind: str, agent_id: str, body: Json) -> web.Response:
        try:
            if kind == "DRAIN_AGENT":
                self._draining.drain(agent_id, body)
            elif kind == "DEACTIVATE_AGENT":
                self._draining.deactivate(agent_id)
            else:
                self._draining.reactivate(agent_id)
        except DrainError as error:
            raise http.bad_request(str(error)) from error
        return web.Response()

    @staticmethod
    def _named(call: Json, kind: str, field: str) -> str:
        body = call.get(kind.lower())
        value = body.get(field, {}).get("value") if isinstance(body, dict) else None
        if not isinstance(value, str):
            raise http.bad_request(
                f"Failed to validate master::Call: Expecting '{kind.lower()}' to be present with '{field}'"
            )
        return value

    def _teardown(self, framework_id: str) -> web.Response:
        framework = self._cluster.frameworks.get(framework_id)
        if framework is None:
            raise http.bad_request(f"No framework found with ID {framework_id}")
        self._subscriptions.remove(framework)
        return web.Response()

    def _mark_gone(self, agent_id: str) -> web.Response:
        agent = self._cluster.agents.get(agent_id)
        if agent is None:
            raise web.HTTPNotFound(text=f"No agent found with ID {agent_id}")
        self._agents.mark_gone(agent)
        return web.Response()

    # ---- scheduler API

    async def scheduler(self, request: web.Request) -> web.StreamResponse:
        http.require_post(request)
        call = await http.read_call(request, "SchedulerCall")
        principal = request.get(PRINCIPAL)
        error = scheduler_call_error(call, principal)
        if error is not None:
            raise http.bad_request(f"Failed to validate scheduler::Call: {error}")
        if call["type"] in ("SUBSCRIBE", "RECONCILE_OPERATIONS"):
            http.require_accept(request)
        if call["type"] == "SUBSCRIBE":
            if principal is not None:
                call["subscribe"]["framework_info"].setdefault("principal", principal)
            return await self._subscribe(request, call["subscribe"])
        framework = self._framework(request, call["framework_id"]["value"])
        if call["type"] == "RECONCILE_OPERATIONS":
            return http.json_reply(
                {"type": "RECONCILE_OPERATIONS", "reconcile_operations": {"operation_statuses": []}}
            )
        error = self._calls.handle(framework, call)
        if error is not None:
            raise http.bad_request(error)
        return web.Response() if call["type"] == "UPDATE_FRAMEWORK" else http.accepted()

    def _framework(self, request: web.Request, framework_id: str) -> Framework:
        """The framework a call is of; 400 or 403 unless it holds the stream."""
        framework = self._cluster.frameworks.get(framework_id)
        if framework is None:
            raise http.bad_request("Framework cannot be found")
        principal, own = request.get(PRINCIPAL), framework.info.get("principal")
        if principal is not None and principal != own:
            text = f"Authenticated principal '{principal}' does not match principal '{own}' set in `FrameworkInfo`"
            raise http.bad_request(text)
        if framework.stream is None:
            raise web.HTTPForbidden(text="Framework is not subscribed")
        stream_id = request.headers.get(_STREAM_ID)
        if stream_id is None:
            raise http.bad_request(f"All non-subscribe calls should include the '{_STREAM_ID}' header")
        if stream_id != framework.stream.stream_id:
            raise http.bad_request(
                f"The stream ID '{stream_id}' included in this request didn't match the stream ID currently "
                f"associated with framework ID {framework_id}"
            )
        return framework

    async def _subscribe(self, request: web.Request, call: Json) -> web.StreamResponse:
        if _STREAM_ID in request.headers:
            raise http.bad_request(f"Subscribe calls should not include the '{_STREAM_ID}' header")
        stream = EventStream(str(uuid.uuid4()))
        framework = self._subscriptions.subscribe(call, stream)
        if framework is not None:
            self._maintenance.forget(framework)
        try:
            return await stream.pump(request, {_STREAM_ID: stream.stream_id})
        finally:
            stream.close()
            if framework is not None:
                if framework.stream is stream:
                    self._maintenance.forget(framework)
                self._subscriptions.disconnected(framework, stream)

    # ---- agents

    async def link(self, request: web.Request) -> web.StreamResponse:
        """One agent, for as long as its link lasts."""
        socket = web.WebSocketResponse(max_msg_size=0, compress=False, timeout=1.0)
        await socket.prepare(request)
        link = SocketLink(socket)
        agent: Agent | None = None
        try:
            async for message in link.messages():
                if agent is None:
                    agent = self._enter(message, request.remote or "127.0.0.1", link)
                else:
                    self._agent_message(agent, link, message)
        finally:
            if agent is not None:
                self._agents.disconnected(agent, link)
            await link.aclose()
        return socket

    def _enter(self, message: Json, remote: str, link: SocketLink) -> Agent | None:
        ip = message["info"].pop("ip", remote)
        if message["type"] == "REGISTER":
            return self._agents.register(message, ip, link)
        return self._agents.reregister(message, ip, link)

    def _agent_message(self, agent: Agent, link: SocketLink, message: Json) -> None:
        if agent.link is not link:
            return  # given up, or replaced by a newer link
        handlers: dict[str, Callable[[Agent, Json], None]] = {
            "UPDATE": self._agents.update,
            "OVERSUBSCRIBED": self._agents.oversubscribed,
            "EXITED_EXECUTOR": self._agents.exited_executor,
            "MESSAGE": self._agents.executor_message,
            "PONG": lambda a, _: self._agents.pong(a),
            "UNREGISTER": lambda a, _: self._agents.unregister(a),
        }
        handlers[message["type"]](agent, message)
