"""What only pods have: binding to a node, and eviction, which here is a deletion."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from scheduler.api.body import read_object
from scheduler.api.context import API
from scheduler.api.delete import DeleteOptions, delete_object
from scheduler.api.query import WriteOptions
from scheduler.api.read import key_of
from scheduler.api.respond import answer_object
from scheduler.api.write import change_object
from scheduler.registry.errors import BadRequest, Conflict, NotFound
from scheduler.registry.resource import Resource
from scheduler.store import Entry, Key

CREATED = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def bind(request: web.Request, resource: Resource) -> web.StreamResponse:
    """pods/binding: assigns a pod to a node, for schedulers of the user's own."""
    api, options = request.app[API], WriteOptions.read(request.query)
    body, _ = await read_object(request)
    key, node = key_of(request, resource), _target(body)
    if api.store.get(Key("nodes", "", node)) is None:
        raise NotFound("nodes", node)

    def assign(old: Entry) -> dict[str, Any]:
        spec = old.obj["spec"]
        if spec.get("nodeName"):
            raise Conflict(
                "pods/binding", key.name, f'pod {key.name} is already assigned to node "{spec["nodeName"]}"'
            )
        if "deletionTimestamp" in old.obj["metadata"]:
            raise Conflict(
                "pods/binding", key.name, f"pod {key.name} is being deleted, cannot be assigned to a host"
            )
        return {**old.obj, "spec": {**spec, "nodeName": node}}

    await change_object(api, resource, key, assign, options.dry_run)
    return await answer_object(request, CREATED, status=201)


def _target(body: dict[str, Any]) -> str:
    target = body.get("target")
    if not isinstance(target, dict) or target.get("kind") not in (None, "", "Node"):
        raise BadRequest("Binding.target: must be a Node")
    node = target.get("name")
    if not isinstance(node, str) or not node:
        raise BadRequest("Binding.target.name: must name a Node")
    return node


async def evict(request: web.Request, resource: Resource) -> web.StreamResponse:
    """pods/eviction. There are no disruption budgets, so an eviction is always granted."""
    body, _ = await read_object(request)
    if body.get("kind", "Eviction") != "Eviction":
        raise BadRequest(
            f"the object provided is unrecognized (must be of type Eviction): it is a {body['kind']}"
        )
    options = DeleteOptions.read(body.get("deleteOptions"), request.query)
    await delete_object(request.app[API], resource, key_of(request, resource), options)
    return await answer_object(request, CREATED, status=201)
