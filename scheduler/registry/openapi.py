"""The OpenAPI documents: v2 (swagger) and v3, one of the latter a group and version.

Good for what clients do with them: kubectl looks for `fieldValidation` and `dryRun` among the query parameters of
the PATCH operation of a kind, explains fields, and takes merge keys for apply. Documents are made on first use
and kept as bytes, for they never change while we run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import orjson

from scheduler.registry.resource import Resource
from scheduler.registry.schemas import (
    Json,
    definition_name,
    definitions,
    group_version_kind,
    list_name,
    patch_name,
)
from shared.models.meta import DeleteOptions, Status

_ACTIONS = {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}
_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_PRETTY = ("pretty", "string", "Whether the output is indented.")
_DRY_RUN = ("dryRun", "string", "All: do everything but persist.")
_MANAGER = ("fieldManager", "string", "Who makes the change.")
_VALIDATION = ("fieldValidation", "string", "What unknown fields are: Ignore, Warn (default) or Strict.")
_FORCE = ("force", "boolean", "Take over conflicting fields, for apply patches.")
_LIST = (
    ("allowWatchBookmarks", "boolean", "Whether a watch sends bookmarks."),
    ("continue", "string", "Token of the piece of the list to go on with."),
    ("fieldSelector", "string", "Only objects whose fields match."),
    ("labelSelector", "string", "Only objects whose labels match."),
    ("limit", "integer", "At most so many objects."),
    ("resourceVersion", "string", "The version to read at or watch from."),
    ("resourceVersionMatch", "string", "What resourceVersion means for a list: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Whether a watch begins with what is there."),
    ("timeoutSeconds", "integer", "How long a list or watch may take."),
    ("watch", "boolean", "Watch instead of list."),
)
_DELETE = (
    _DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is removed; 0 at once."),
    ("orphanDependents", "boolean", "Use propagationPolicy instead."),
    ("propagationPolicy", "string", "Orphan, Background or Foreground."),
)

Parameter = tuple[str, str, str]


@cache
def openapi_v2(resources: tuple[Resource, ...], version: str) -> bytes:
    """The swagger document of everything, as JSON."""
    return orjson.dumps(
        {
            "swagger": "2.0",
            "info": {"title": "Gantry", "version": version},
            "paths": _paths(resources, v3=False),
            "definitions": definitions(resources, v3=False),
        }
    )


@cache
def openapi_v3(resources: tuple[Resource, ...], version: str, path: str) -> bytes | None:
    """The document of one group and version, by its path (`api/v1`, `apis/apps/v1`); None for another path."""
    chosen = [one for one in resources if group_path(one) == path]
    if not chosen:
        return None
    return orjson.dumps(
        {
            "openapi": "3.0.0",
            "info": {"title": "Gantry", "version": version},
            "paths": _paths(chosen, v3=True),
            "components": {"schemas": definitions(chosen, v3=True)},
        }
    )


@cache
def openapi_v3_index(resources: tuple[Resource, ...], version: str) -> bytes:
    """What `/openapi/v3` answers: the paths and, with a hash so that clients may cache, where they are."""
    paths = {}
    for path in dict.fromkeys(map(group_path, resources)):
        document = openapi_v3(resources, version, path) or b""
        digest = hashlib.sha512(document).hexdigest().upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return orjson.dumps({"paths": paths})


def group_path(resource: Resource) -> str:
    """`api/v1`, `apis/apps/v1`."""
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"


def _paths(resources: Iterable[Resource], *, v3: bool) -> Json:
    paths: Json = {}
    for resource in resources:
        root = f"/{group_path(resource)}"
        builder = _Builder(resource, v3=v3)
        if resource.namespaced:
            paths[f"{root}/{resource.plural}"] = builder.path("get", scope=())
            root = f"{root}/namespaces/{{namespace}}"
        scope = ("namespace",) if resource.namespaced else ()
        collection = [verb for verb in ("get", "post", "delete") if _offers(resource, verb, item=False)]
        paths[f"{root}/{resource.plural}"] = builder.path(*collection, scope=scope)
        item = [verb for verb in ("get", "put", "patch", "delete") if _offers(resource, verb, item=True)]
        scope = (*scope, "name")
        paths[f"{root}/{resource.plural}/{{name}}"] = builder.path(*item, scope=scope)
        if "status" in resource.subresources:
            status = f"{root}/{resource.plural}/{{name}}/status"
            paths[status] = builder.path("get", "put", "patch", scope=scope, subresource="Status")
    return paths


def _offers(resource: Resource, method: str, *, item: bool) -> bool:
    if not item:
        return {"get": "list", "post": "create", "delete": "deletecollection"}[method] in resource.verbs
    return _ACTIONS[method] in resource.verbs


class _Builder:
    """Path items of one resource in one of the two dialects."""

    def __init__(self, resource: Resource, *, v3: bool) -> None:
        self._resource = resource
        self._v3 = v3

    def path(self, *methods: str, scope: tuple[str, ...], subresource: str = "") -> Json:
        """The path item; `scope` are the parameters of the path."""
        item: Json = {
            method: self._operation(method, scope=scope, subresource=subresource) for method in methods
        }
        where = [self._parameter((name, "string", f"The {name}."), "path") for name in scope]
        item["parameters"] = [*where, self._parameter(_PRETTY, "query")]
        return item

    def _operation(self, method: str, *, scope: tuple[str, ...], subresource: str) -> Json:
        resource = self._resource
        collection = "name" not in scope
        action = _ACTIONS.get(method, "post")
        if collection:
            action = {"get": "list", "post": "post", "delete": "deletecollection"}[method]
        operation: Json = {
            "operationId": self._operation_id(action, scope, subresource),
            "description": f"{action} {resource.plural if collection else resource.singular}",
            "tags": [f"{resource.group or 'core'}_{resource.version}"],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(resource),
            "parameters": [self._parameter(one, "query") for one in _query(action)],
            "responses": {"200": self._response(action), "401": {"description": "Unauthorized"}},
        }
        body = {
            "post": definition_name(resource.model),
            "update": definition_name(resource.model),
            "patch": patch_name(),
            "delete": definition_name(DeleteOptions),
            "deletecollection": definition_name(DeleteOptions),
        }.get(action)
        if body:
            self._add_body(operation, action, body)
        return operation

    def _operation_id(self, action: str, scope: tuple[str, ...], subresource: str) -> str:
        resource = self._resource
        group = resource.group.split(".")[0].capitalize() or "Core"
        verb = {"get": "read", "post": "create", "update": "replace", "deletecollection": "deleteCollection"}
        namespaced = "Namespaced" if "namespace" in scope else ""
        everywhere = "ForAllNamespaces" if resource.namespaced and not namespaced else ""
        return (
            f"{verb.get(action, action)}{group}{resource.version.capitalize()}{namespaced}{resource.kind}"
            f"{subresource}{everywhere}"
        )

    def _parameter(self, parameter: Parameter, where: str) -> Json:
        name, kind, description = parameter
        described: Json = {"name": name, "in": where, "description": description}
        if where == "path":
            described["required"] = True
        return described | ({"schema": {"type": kind}} if self._v3 else {"type": kind, "uniqueItems": True})

    def _response(self, action: str) -> Json:
        name = definition_name(self._resource.model)
        if action == "list":
            name = list_name(self._resource)
        elif action in ("delete", "deletecollection"):
            name = definition_name(Status)
        if self._v3:
            return {"description": "OK", "content": {"application/json": {"schema": self._ref(name)}}}
        return {"description": "OK", "schema": self._ref(name)}

    def _add_body(self, operation: Json, action: str, name: str) -> None:
        types = _PATCH_TYPES if action == "patch" else ("application/json", "application/yaml")
        if self._v3:
            content = {media_type: {"schema": self._ref(name)} for media_type in types}
            operation["requestBody"] = {"content": content}
        else:
            operation["consumes"] = list(types)
            operation["produces"] = ["application/json"]
            body: dict[str, Any] = {"name": "body", "in": "body", "schema": self._ref(name)}
            operation["parameters"].append(body)

    def _ref(self, name: str) -> Json:
        return {"$ref": f"#/components/schemas/{name}" if self._v3 else f"#/definitions/{name}"}


def _query(action: str) -> tuple[Parameter, ...]:
    match action:
        case "list":
            return _LIST
        case "post" | "update":
            return (_DRY_RUN, _MANAGER, _VALIDATION)
        case "patch":
            return (_DRY_RUN, _MANAGER, _VALIDATION, _FORCE)
        case "delete":
            return _DELETE
        case "deletecollection":
            return (*_DELETE, *_LIST)
    return ()
