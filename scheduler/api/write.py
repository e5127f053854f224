"""POST, PUT and PATCH of objects and their status.

Every write is one commit whose functions do the checking, so what is checked is what is changed: the namespace
exists and is not being deleted, the name is free, the resourceVersion is the newest.
Source: apiserver's `registry/rest/create.go`, `update.go`, `endpoints/handlers/patch.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from scheduler.api.body import media_type, read_data, read_object
from scheduler.api.commit import commit
from scheduler.api.context import API, Api, rfc3339
from scheduler.api.delete import finalized
from scheduler.api.patch import APPLY_PATCHES, TYPES, patcher
from scheduler.api.query import WriteOptions
from scheduler.api.read import key_of
from scheduler.api.respond import answer_entry
from scheduler.registry.decode import decode
from scheduler.registry.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
)
from scheduler.registry.resource import Resource
from scheduler.store import UNCHANGED, Change, Entry, Key, Unchanged

Object = dict[str, Any]

ATTEMPTS = 8
"""Names tried for a generateName, as in kube-apiserver."""

LONGEST_PREFIX = 58
"""Of a generateName, so that name and suffix fit into 63 characters."""

SERVER_FIELDS = ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink", "generation")


async def create(request: web.Request, resource: Resource) -> web.StreamResponse:
    """POST to a collection."""
    api, options = request.app[API], WriteOptions.read(request.query)
    data, twice = await read_object(request)
    obj, warnings = decode(resource, data, options.field_validation, twice)
    warnings = [*warnings, *resource.warn(obj)]
    entry = await create_object(api, resource, obj, request.match_info.get("namespace", ""), options.dry_run)
    return await answer_entry(request, resource, entry, status=201, warnings=warnings)


async def create_object(
    api: Api, resource: Resource, obj: Object, namespace: str, dry_run: bool = False
) -> Entry:
    """Stores a decoded object, which belongs to it from now on. Raises the ApiErrors of a create."""
    meta = obj.setdefault("metadata", {})
    _check_namespace(meta, namespace)
    if meta.pop("resourceVersion", None):
        raise BadRequest("resourceVersion should not be set on objects to be created")
    for field in SERVER_FIELDS:
        meta.pop(field, None)
    generate = not meta.get("name") and meta.get("generateName")
    for attempt in range(ATTEMPTS):
        if generate:
            meta["name"] = str(generate)[:LONGEST_PREFIX] + api.suffix()
        new = orjson.loads(orjson.dumps(obj)) if generate else obj  # there may be a second attempt
        try:
            return await _create_named(api, resource, new, namespace, dry_run)
        except AlreadyExists:
            if not generate or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _create_named(api: Api, resource: Resource, obj: Object, namespace: str, dry_run: bool) -> Entry:
    """`obj` is changed."""
    now = api.clock()
    new = resource.prepare_create(obj, now)
    new["metadata"] |= {"uid": api.new_uid(), "creationTimestamp": rfc3339(now)}
    problems = resource.validate_create(new)
    if problems:
        raise Invalid(resource.kind, new["metadata"].get("name", ""), problems, group=resource.group)
    key = Key(resource.store_name, namespace, new["metadata"]["name"])

    def put(old: Entry | None) -> Object:
        if old is not None:
            error = AlreadyExists(resource.plural, key.name, group=resource.group)
            if "deletionTimestamp" in old.obj["metadata"]:
                error.message = f"object is being deleted: {error.message}"
            raise error
        return ordered(new)

    changes: list[Change] = [(key, put)]
    if namespace:
        changes.insert(0, (Key("namespaces", "", namespace), _accepting(resource, key)))
    return await _commit(api, changes, dry_run, lambda: ordered(new))


def _check_namespace(meta: Object, namespace: str) -> None:
    given = meta.get("namespace")
    if given and given != namespace:
        raise BadRequest(
            f"the namespace of the provided object does not match the namespace sent on the request: "
            f"{given!r} and {namespace!r}"
        )
    if namespace:
        meta["namespace"] = namespace
    else:
        meta.pop("namespace", None)


def _accepting(resource: Resource, key: Key) -> Callable[[Entry | None], Unchanged]:
    """Refuses when the namespace does not exist or is being deleted."""

    def check(namespace: Entry | None) -> Unchanged:
        if namespace is None:
            raise NotFound("namespaces", key.namespace)
        if "deletionTimestamp" in namespace.obj["metadata"]:
            why = f"unable to create new content in namespace {key.namespace} because it is being terminated"
            raise Forbidden(resource.plural, key.name, why, group=resource.group)
        return UNCHANGED

    return check


async def update(request: web.Request, resource: Resource, *, status: bool = False) -> web.StreamResponse:
    """PUT of an object, or of its status."""
    api, options = request.app[API], WriteOptions.read(request.query)
    data, twice = await read_object(request)
    obj, warnings = decode(resource, data, options.field_validation, twice)
    key = key_of(request, resource)

    def replace(old: Entry) -> Object:
        return _changed(resource, key, obj, old, status=status)

    entry = await change_object(api, resource, key, replace, options.dry_run)
    return await answer_entry(request, resource, entry, warnings=warnings)


async def patch(request: web.Request, resource: Resource, *, status: bool = False) -> web.StreamResponse:
    """PATCH of an object, or of its status: JSON patch, merge patch, strategic merge patch; 415 for apply."""
    api, options = request.app[API], WriteOptions.read(request.query)
    kind = media_type(request)
    if kind in APPLY_PATCHES:
        why = "server-side apply is not available yet; apply without --server-side"
        raise ApiError(415, "UnsupportedMediaType", why)
    data, twice = await read_data(request, kinds=TYPES)
    if data is None:
        raise BadRequest("the body of the patch is empty")
    apply = patcher(kind, data, resource.model)
    warnings: list[str] = []
    key = key_of(request, resource)

    def change(old: Entry) -> Object:
        nonlocal warnings
        obj, warnings = decode(resource, apply(orjson.loads(old.raw)), options.field_validation, twice)
        return _changed(resource, key, obj, old, status=status)

    entry = await change_object(api, resource, key, change, options.dry_run)
    return await answer_entry(request, resource, entry, warnings=warnings)


def _changed(resource: Resource, key: Key, new: Object, old: Entry, *, status: bool) -> Object:
    """The object to store for an update. Raises the ApiErrors of an update."""
    meta = new.setdefault("metadata", {})
    if meta.setdefault("name", key.name) != key.name:
        raise BadRequest(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({key.name})"
        )
    _check_namespace(meta, key.namespace)
    current = old.obj["metadata"]
    if meta.pop("resourceVersion", None) not in (None, "", current["resourceVersion"]):
        raise Conflict(resource.plural, key.name, group=resource.group)
    uid = meta.get("uid") or current.get("uid")
    if uid != current.get("uid"):
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {current.get('uid')}"
        raise Conflict(resource.plural, key.name, why, group=resource.group)
    meta.pop("managedFields", None)
    new = resource.prepare_update(new, old.obj, status=status)
    problems = resource.validate_update(new, old.obj)
    if problems:
        raise Invalid(resource.kind, key.name, problems, group=resource.group)
    return ordered(new)


async def change_object(
    api: Api, resource: Resource, key: Key, change: Callable[[Entry], Object], dry_run: bool
) -> Entry:
    """Replaces an object by what `change` makes of it. Raises NotFound and what `change` raises."""
    after: Object = {}

    def replace(old: Entry | None) -> Object | None:
        nonlocal after
        if old is None:
            raise NotFound(resource.plural, key.name, group=resource.group)
        after = change(old)
        after = {**after, "metadata": {**after["metadata"], "resourceVersion": str(old.version)}}
        return None if finalized(after) and old.obj["metadata"].get("finalizers") else after

    return await _commit(api, [(key, replace)], dry_run, lambda: after)


async def _commit(api: Api, changes: list[Change], dry_run: bool, result: Callable[[], Object]) -> Entry:
    """The entry the last change led to; `result` when none is stored (dry run, last finalizer)."""
    entry = await commit(api, changes, dry_run=dry_run)
    if entry is not None:
        return entry
    obj = result()
    return Entry(changes[-1][0], obj, 0, orjson.dumps(obj))


def ordered(obj: Object) -> Object:
    """With apiVersion, kind and metadata first, as people expect to read it."""
    first = {name: obj[name] for name in ("apiVersion", "kind", "metadata")}
    return {**first, **obj}
