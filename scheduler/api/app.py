"""The aiohttp application: every resource's routes, and what runs beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

from aiohttp import web
from prometheus_client import CollectorRegistry

from scheduler.api import health, housekeeping, logs, metrics, pods, read, reviews, streaming, write
from scheduler.api.auth import auth_middleware
from scheduler.api.body import LIMIT
from scheduler.api.checks import HealthReport
from scheduler.api.context import API, Api, Clock, NodeProxy, wall_clock
from scheduler.api.delete import delete, delete_collection
from scheduler.api.discovery import Discovery
from scheduler.api.forward import Forwarder
from scheduler.api.services import SERVICES
from scheduler.api.status import status_middleware
from scheduler.registry import RESOURCES
from scheduler.registry.admission import with_admission
from scheduler.registry.errors import MethodNotAllowed, NotAvailable
from scheduler.registry.resource import Object, Resource
from scheduler.store import Key, Store

Action = Callable[[web.Request, Resource], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SUBRESOURCES: dict[str, tuple[tuple[str, Action], ...]] = {
    "status": (
        ("GET", read.get),
        ("PUT", partial(write.update, status=True)),
        ("PATCH", partial(write.patch, status=True)),
    ),
    "log": (("GET", logs.log),),
    "binding": (("POST", pods.bind),),
    "eviction": (("POST", pods.evict),),
    "exec": (("GET", streaming.execute), ("POST", streaming.execute)),
    "attach": (("GET", streaming.attach), ("POST", streaming.attach)),
    "portforward": (("GET", streaming.forward_ports), ("POST", streaming.forward_ports)),
}


LATER: dict[str, tuple[str, ...]] = {
    "pods": ("ephemeralcontainers", "proxy", "resize"),
    "nodes": ("proxy",),
    "serviceaccounts": ("token",),
}
"""Subresources of Kubernetes that are refused by name, so that nobody looks for a typing error."""


def make_app(
    store: Store,
    *,
    nodes: NodeProxy,
    version: str,
    token: str | None,
    health: Callable[[], HealthReport] = HealthReport,
    clock: Clock = wall_clock,
    resources: tuple[Resource, ...] = RESOURCES,
    registry: CollectorRegistry | None = None,
    forwarder: Forwarder | None = None,
    **sources: Any,
) -> web.Application:
    """The API over an open store. `token` None: loopback only, see `auth`. `sources`: see `Api`.

    `registry`: what /metrics shows; without, there is no /metrics. `forwarder`: who leads, if that is not always this
    instance; without, this one does its housekeeping as long as it serves.
    """
    served = with_admission(resources, partial(_find, store))
    if all(one.plural != "services" for one in served):
        served = (*served, SERVICES)
    api = Api(
        store=store,
        nodes=nodes,
        health=health,
        version=version,
        token=token,
        resources=served,
        clock=clock,
        **sources,
    )
    middlewares = [status_middleware, auth_middleware(token)]
    if forwarder is not None:
        middlewares.append(forwarder.middleware())
    app = web.Application(middlewares=middlewares, client_max_size=LIMIT)
    app[API] = api
    for path, handler in _health_routes():
        app.router.add_get(path, handler)
    if registry is not None:
        app.router.add_routes(metrics.routes(registry))
    app.router.add_routes(Discovery(served, version).routes())
    for group, group_version, plural in reviews.REVIEWS:
        path = f"/apis/{group}/{group_version}/{plural}"
        app.router.add_post(path, partial(reviews.review, group=group, version=group_version, plural=plural))
    for resource in served:
        _add_resource(app, resource)
    if forwarder is None:
        app.cleanup_ctx.append(_housekeeping)
    app.on_shutdown.append(_end_streams)
    return app


def _find(store: Store, resource: str, namespace: str, name: str) -> Object | None:
    entry = store.get(Key(resource, namespace, name))
    return entry.obj if entry is not None else None


def _health_routes() -> list[tuple[str, Handler]]:
    return [("/healthz", health.healthz), ("/livez", health.livez), ("/readyz", health.readyz)]


def _add_resource(app: web.Application, resource: Resource) -> None:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    if resource.namespaced:
        _route(app, "GET", f"{root}/{resource.plural}", resource, "list", read.list_or_watch)
        root += "/namespaces/{namespace}"
    items, item = f"{root}/{resource.plural}", f"{root}/{resource.plural}/{{name}}"
    _route(app, "GET", items, resource, "list", read.list_or_watch)
    _route(app, "POST", items, resource, "create", write.create)
    _route(app, "DELETE", items, resource, "deletecollection", delete_collection)
    _route(app, "GET", item, resource, "get", read.get)
    _route(app, "PUT", item, resource, "update", write.update)
    _route(app, "PATCH", item, resource, "patch", write.patch)
    _route(app, "DELETE", item, resource, "delete", delete)
    for name in resource.subresources:
        for method, action in SUBRESOURCES[name]:
            _route(app, method, f"{item}/{name}", resource, "", action)
    for name in LATER.get(resource.store_name, ()):
        _route(app, "*", f"{item}/{name}", resource, "", partial(_not_available, subresource=name))


async def _not_available(request: web.Request, resource: Resource, *, subresource: str) -> NoReturn:
    raise NotAvailable(subresource, resource.plural, request.match_info["name"], group=resource.group)


def _route(
    app: web.Application, method: str, path: str, resource: Resource, verb: str, action: Action
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if verb and verb not in resource.verbs:
            raise MethodNotAllowed(verb, resource.plural, group=resource.group)
        return await action(request, resource)

    app.router.add_route(method, path, handle)


async def _housekeeping(app: web.Application) -> AsyncIterator[None]:
    await housekeeping.prepare(app[API])
    task = asyncio.create_task(housekeeping.run(app[API]), name="housekeeping")
    yield
    task.cancel()
    await asyncio.wait([task])


async def _end_streams(app: web.Application) -> None:
    app[API].end_streams()
