"""GET of one object and of lists. A list with `watch=true` goes on to `watch`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from scheduler.api.context import API, Api
from scheduler.api.pages import Page, Token
from scheduler.api.query import Query, Selection, flag, number, version_too_large
from scheduler.api.respond import answer, answer_entry, renderer
from scheduler.api.select import select
from scheduler.api.watch import watch
from scheduler.registry.errors import BadRequest, Expired, NotFound
from scheduler.registry.resource import Resource
from scheduler.store import Entry, Key


def key_of(request: web.Request, resource: Resource) -> Key:
    """The store key that a request's path names."""
    match = request.match_info
    return Key(resource.store_name, match.get("namespace", ""), match["name"])


def find(api: Api, resource: Resource, key: Key) -> Entry:
    """Raises NotFound."""
    entry = api.store.get(key)
    if entry is None:
        raise NotFound(resource.plural, key.name, group=resource.group)
    return entry


async def get(request: web.Request, resource: Resource) -> web.StreamResponse:
    entry = find(request.app[API], resource, key_of(request, resource))
    return await answer_entry(request, resource, entry)


async def list_or_watch(request: web.Request, resource: Resource) -> web.StreamResponse:
    """GET of a collection; `watch=true` makes it a stream."""
    if flag(request.query, "watch"):
        return await watch(request, resource)
    api, query = request.app[API], request.query
    namespace = request.match_info.get("namespace", "")
    selection = Selection(resource, query)
    writer = renderer(request, resource)
    page = _page(api, resource, namespace, selection, query)
    meta: dict[str, Any] = {"resourceVersion": str(page.version)}
    if page.token:
        meta["continue"] = page.token
        if selection.everything:  # with a selector Kubernetes does not promise a count
            meta["remainingItemCount"] = page.remaining
    body = writer.many(page.entries, meta)
    return await answer(request, body, content_type=writer.form.content_type)


def _page(api: Api, resource: Resource, namespace: str, selection: Selection, query: Query) -> Page:
    limit = number(query, "limit") or 0
    identity = (resource.store_name, namespace, *selection.text)
    if not query.get("continue"):
        entries, version = select(api, resource, namespace, selection)
        check_version(query, version)
        return (
            api.pages.first(entries, version, limit, identity, api.clock())
            if limit
            else Page(entries, version)
        )
    token = Token.decode(query["continue"])
    if query.get("resourceVersion", "") not in ("", "0"):
        raise BadRequest("specifying resource version is not allowed when using continue")
    if token.query != identity:
        raise BadRequest("continue key is not valid: it belongs to another list or other selectors")
    if token.snapshot:
        entries, version = api.pages.snapshot(token, api.clock())
    else:
        entries, version = select(api, resource, namespace, selection)
    return api.pages.next(token, entries, version, limit or len(entries))


def check_version(query: Query, version: int) -> None:
    """What `resourceVersion` and `resourceVersionMatch` demand of a list at `version`.

    Raises BadRequest; Expired for an exact version that is past; a 504 for one not reached.
    """
    wanted, match = number(query, "resourceVersion"), query.get("resourceVersionMatch", "")
    if match and match not in ("Exact", "NotOlderThan"):
        raise BadRequest(f"resourceVersionMatch: {match!r} is neither Exact nor NotOlderThan")
    if match and wanted is None:
        raise BadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match == "Exact" and wanted == 0:
        raise BadRequest('resourceVersionMatch "Exact" is forbidden for resourceVersion "0"')
    if wanted is None or wanted == 0:
        return
    if wanted > version:
        raise version_too_large(wanted, version)
    if match == "Exact" and wanted < version:
        raise Expired(
            f"The resourceVersion for the provided list is too old: {wanted}, the newest is {version}"
        )
