"""What the server offers, for clients to find out: /api, /apis, /version, OpenAPI.

Discovery comes in two shapes: a document a group version, and (KEP-3352, what kubectl asks for first) all of
them in one. Both are made once from the registry.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from typing import Any

import orjson
from aiohttp import hdrs, web

from scheduler.api.negotiate import clauses, negotiate
from scheduler.api.respond import answer, answer_object
from scheduler.api.reviews import REVIEWS
from scheduler.registry import openapi, openapi_proto
from scheduler.registry.errors import NotFound
from scheduler.registry.resource import Resource

KUBERNETES = ("1", "32")
"""The Kubernetes minor version whose API this is."""

SUBRESOURCE_KINDS = {
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "log": ("", "", "", ("get",)),
    "portforward": ("", "v1", "PodPortForwardOptions", ("create", "get")),
    "status": ("", "", "", ("get", "patch", "update")),
}
"""Subresource to group, version and kind ("" as its resource's) and verbs."""

Object = dict[str, Any]


def group_versions(resources: Iterable[Resource]) -> list[tuple[str, str]]:
    """(group, version) in the order of registration, the core group first."""
    found = {("", "v1"): None} | {(one.group, one.version): None for one in resources}
    return list(found | {(group, version): None for group, version, _ in REVIEWS})


def _subresource(resource: Resource, name: str) -> tuple[str, str, str, list[str]]:
    group, version, kind, verbs = SUBRESOURCE_KINDS[name]
    if not kind:
        group, version, kind = resource.group, resource.version, resource.kind
    return group, version, kind, list(verbs)


class Discovery:
    """The documents and their handlers."""

    def __init__(self, resources: tuple[Resource, ...], version: str) -> None:
        self._resources = resources
        self._gantry = version
        self._groups = group_versions(resources)
        self._version = {
            "major": KUBERNETES[0],
            "minor": KUBERNETES[1],
            "gitVersion": f"v{'.'.join(KUBERNETES)}.0+gantry-{version.replace('+', '.')}",
            "gitCommit": "",
            "gitTreeState": "",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": sys.implementation.name,
            "platform": "linux/amd64" if sys.maxsize > 2**32 else "linux/386",
        }

    def routes(self) -> list[web.RouteDef]:
        documents = [
            web.get("/", self.root),
            web.get("/version", self.version),
            web.get("/api", self.core),
            web.get("/apis", self.groups),
            web.get("/openapi/v2", self.openapi_v2),
            web.get("/openapi/v3", self.openapi_v3_index),
            web.get("/openapi/v3/{path:.+}", self.openapi_v3),
        ]
        for group, version in self._groups:
            documents.append(web.get(f"/{_path(group, version)}", self._resource_list(group, version)))
            if group:
                documents.append(web.get(f"/apis/{group}", self._group(group)))
        return documents

    async def root(self, request: web.Request) -> web.Response:
        paths = {route.resource.canonical for route in request.app.router.routes() if route.resource}
        return await answer_object(request, {"paths": sorted(path for path in paths if "{" not in path)})

    async def version(self, request: web.Request) -> web.Response:
        return await answer_object(request, self._version)

    async def core(self, request: web.Request) -> web.Response:
        aggregated = _aggregated_version(request)
        if aggregated:
            return await self._aggregated(request, aggregated, core=True)
        address = [{"clientCIDR": "0.0.0.0/0", "serverAddress": request.host}]
        document = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address}
        return await answer_object(request, document)

    async def groups(self, request: web.Request) -> web.Response:
        aggregated = _aggregated_version(request)
        if aggregated:
            return await self._aggregated(request, aggregated, core=False)
        names = dict.fromkeys(group for group, _ in self._groups if group)
        listed = [self._group_object(name) for name in names]
        return await answer_object(request, {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})

    def _group_object(self, name: str) -> Object:
        versions = [
            {"groupVersion": f"{group}/{version}", "version": version}
            for group, version in self._groups
            if group == name
        ]
        return {"name": name, "versions": versions, "preferredVersion": versions[0]}

    def _group(self, name: str) -> Any:
        document = {"kind": "APIGroup", "apiVersion": "v1", **self._group_object(name)}

        async def handle(request: web.Request) -> web.Response:
            return await answer_object(request, document)

        return handle

    def _resource_list(self, group: str, version: str) -> Any:
        listed: list[Object] = []
        for one in self._of(group, version):
            listed.append(_api_resource(one))
            listed += [_api_subresource(one, name) for name in sorted(one.subresources)]
        for plural, kind in _reviews_of(group, version):
            listed.append(
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "namespaced": False,
                    "kind": kind,
                    "verbs": ["create"],
                }
            )
        document = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": listed,
        }

        async def handle(request: web.Request) -> web.Response:
            return await answer_object(request, document)

        return handle

    def _of(self, group: str, version: str) -> list[Resource]:
        return [one for one in self._resources if (one.group, one.version) == (group, version)]

    async def _aggregated(self, request: web.Request, api_version: str, *, core: bool) -> web.Response:
        items: dict[str, Object] = {}
        for group, version in self._groups:
            if bool(group) == core:
                continue
            item = items.setdefault(
                group, {"metadata": {"name": group, "creationTimestamp": None}, "versions": []}
            )
            resources = [_aggregated_resource(one) for one in self._of(group, version)]
            resources += [_aggregated_review(group, version, *one) for one in _reviews_of(group, version)]
            item["versions"].append({"version": version, "resources": resources, "freshness": "Current"})
        document = {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{api_version}",
            "metadata": {},
            "items": list(items.values()),
        }
        content_type = f"application/json;g=apidiscovery.k8s.io;v={api_version};as=APIGroupDiscoveryList"
        return await answer(request, orjson.dumps(document), content_type=content_type)

    async def openapi_v2(self, request: web.Request) -> web.Response:
        if openapi_proto.MEDIA_TYPE in request.headers.get(hdrs.ACCEPT, ""):
            body = openapi_proto.openapi_v2_proto(self._resources, self._gantry)
            return await _document(request, body, openapi_proto.CONTENT_TYPE)
        return await _document(request, openapi.openapi_v2(self._resources, self._gantry))

    async def openapi_v3_index(self, request: web.Request) -> web.Response:
        return await _document(request, openapi.openapi_v3_index(self._resources, self._gantry))

    async def openapi_v3(self, request: web.Request) -> web.Response:
        document = openapi.openapi_v3(self._resources, self._gantry, request.match_info["path"])
        if document is None:
            raise NotFound
        return await _document(request, document)


async def _document(request: web.Request, body: bytes, content_type: str = "") -> web.Response:
    """A large constant document, which clients keep by its ETag."""
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    headers = {hdrs.ETAG: etag, hdrs.VARY: "Accept"}
    if etag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
        return web.Response(status=304, headers=headers)
    if content_type:
        return web.Response(body=body, headers={**headers, hdrs.CONTENT_TYPE: content_type})
    negotiate(request.headers.get(hdrs.ACCEPT, ""))
    response = await answer(request, body)
    response.headers.update(headers)
    return response


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _reviews_of(group: str, version: str) -> list[tuple[str, str]]:
    return [(plural, kind) for (g, v, plural), (kind, _) in REVIEWS.items() if (g, v) == (group, version)]


def _aggregated_version(request: web.Request) -> str | None:
    """The version of the one-document discovery the client prefers, if it knows it."""
    for clause in clauses(request.headers.get(hdrs.ACCEPT, "")):
        if clause.type != "application/json":
            continue
        if clause.params.get("as") != "APIGroupDiscoveryList":
            return None
        if clause.params.get("v") in ("v2", "v2beta1"):
            return clause.params["v"]
    return None


def _api_resource(one: Resource) -> Object:
    described: Object = {
        "name": one.plural,
        "singularName": one.singular,
        "namespaced": one.namespaced,
        "kind": one.kind,
        "verbs": sorted(one.verbs),
    }
    if one.short_names:
        described["shortNames"] = list(one.short_names)
    if one.categories:
        described["categories"] = list(one.categories)
    return described


def _api_subresource(one: Resource, name: str) -> Object:
    group, version, kind, verbs = _subresource(one, name)
    described: Object = {"name": f"{one.plural}/{name}", "singularName": "", "namespaced": one.namespaced}
    if (group, version) != (one.group, one.version):
        described |= {"group": group, "version": version}
    return {**described, "kind": kind, "verbs": verbs}


def _aggregated_resource(one: Resource) -> Object:
    described: Object = {
        "resource": one.plural,
        "responseKind": {"group": one.group, "version": one.version, "kind": one.kind},
        "scope": "Namespaced" if one.namespaced else "Cluster",
        "singularResource": one.singular,
        "verbs": sorted(one.verbs),
    }
    if one.short_names:
        described["shortNames"] = list(one.short_names)
    if one.categories:
        described["categories"] = list(one.categories)
    below = []
    for name in sorted(one.subresources):
        group, version, kind, verbs = _subresource(one, name)
        gvk = {"group": group, "version": version, "kind": kind}
        below.append({"subresource": name, "responseKind": gvk, "verbs": verbs})
    return {**described, "subresources": below} if below else described


def _aggregated_review(group: str, version: str, plural: str, kind: str) -> Object:
    return {
        "resource": plural,
        "responseKind": {"group": group, "version": version, "kind": kind},
        "scope": "Cluster",
        "singularResource": kind.lower(),
        "verbs": ["create"],
    }
