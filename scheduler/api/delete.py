"""DELETE: of one object, of a collection, and eviction, which deletes.

What happens to an object is a pure function (`after_delete`): pods that may still run get a deletionTimestamp
and are removed by the engine when their processes are gone; namespaces wait until they are empty; whoever has
finalizers waits for them; everything else goes at once.
Source: apiserver's `registry/rest/delete.go`, `registry/generic/registry/store.go`, `core/pod/strategy.go`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from aiohttp import web

from scheduler.api.body import read_data
from scheduler.api.commit import commit
from scheduler.api.context import API, Api, rfc3339
from scheduler.api.query import Query, Selection, dry_run, number
from scheduler.api.read import key_of
from scheduler.api.respond import answer, answer_entry, answer_object, renderer
from scheduler.api.select import select
from scheduler.registry.errors import BadRequest, Conflict, Forbidden, NotFound
from scheduler.registry.resource import Resource
from scheduler.store import Entry, Key

GRACE = 30
"""Seconds, when a pod does not say (terminationGracePeriodSeconds' default)."""

PROTECTED = ("default", "kube-system", "kube-public", "kube-node-lease")
"""Namespaces that always exist."""

LONGEST = 2**31 - 1
"""Seconds of grace that still make a date."""

PROPAGATION = (None, "", "Background", "Foreground", "Orphan")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """v1 DeleteOptions. `grace` in seconds, None: the object's own."""

    grace: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False

    @classmethod
    def read(cls, body: Any, query: Query) -> DeleteOptions:
        """From the body, else the query. Raises BadRequest."""
        body = {} if body is None else body
        if not isinstance(body, dict) or body.get("kind", "DeleteOptions") != "DeleteOptions":
            raise BadRequest("the body of a delete must be DeleteOptions")
        grace = body.get("gracePeriodSeconds")
        if grace is None:
            grace = number(query, "gracePeriodSeconds", least=-(2**63))
        if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
            raise BadRequest("DeleteOptions.gracePeriodSeconds: must be a number")
        propagation = body.get("propagationPolicy") or query.get("propagationPolicy")
        if propagation not in PROPAGATION:
            raise BadRequest(f"DeleteOptions.propagationPolicy: {propagation!r} is not supported")
        conditions = body.get("preconditions") or {}
        dry = body.get("dryRun") or query.get("dryRun") or []
        if not isinstance(conditions, dict) or not isinstance(dry, str | list):
            raise BadRequest("DeleteOptions: preconditions must be an object and dryRun a list")
        return cls(
            # Kubernetes takes a negative grace period for one second.
            grace=None if grace is None else (1 if grace < 0 else grace),
            uid=conditions.get("uid"),
            resource_version=conditions.get("resourceVersion"),
            dry_run=any(dry_run(one) for one in ([dry] if isinstance(dry, str) else dry)),
        )


def after_delete(
    resource: Resource, obj: dict[str, Any], options: DeleteOptions, now: datetime
) -> dict[str, Any] | None:
    """What is left of the object: itself with a deletionTimestamp, or None when it is gone."""
    grace = 0
    if resource.store_name == "pods":
        grace = _pod_grace(obj, options)
    if resource.store_name == "namespaces":
        marked = _marked(obj, now, None)
        return {**marked, "status": {**(obj.get("status") or {}), "phase": "Terminating"}}
    if grace > 0:
        return _marked(obj, now, grace)
    return _marked(obj, now, 0) if obj["metadata"].get("finalizers") else None


def _pod_grace(pod: dict[str, Any], options: DeleteOptions) -> int:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    grace = spec.get("terminationGracePeriodSeconds") if options.grace is None else options.grace
    return GRACE if grace is None else min(int(grace), LONGEST)


def _marked(obj: dict[str, Any], now: datetime, grace: int | None) -> dict[str, Any]:
    """With the deletion fields; a deletion under way is only ever shortened."""
    meta = dict(obj["metadata"])
    if "deletionTimestamp" in meta:
        before = meta.get("deletionGracePeriodSeconds")
        if grace is None or before is None or grace >= before:
            return obj
        began = datetime.fromisoformat(meta["deletionTimestamp"]) - timedelta(seconds=before)
        meta["deletionTimestamp"] = rfc3339(max(began + timedelta(seconds=grace), now))
    else:
        meta["deletionTimestamp"] = rfc3339(now + timedelta(seconds=grace or 0))
    if grace is not None:
        meta["deletionGracePeriodSeconds"] = grace
    return {**obj, "metadata": meta}


@dataclass(frozen=True, slots=True)
class Deleted:
    """`entry` is the object as it is now, or as it was last when `gone`."""

    entry: Entry
    gone: bool


async def delete_object(api: Api, resource: Resource, key: Key, options: DeleteOptions) -> Deleted:
    """Raises NotFound, Conflict (preconditions), Forbidden (a namespace that must stay)."""
    before: Entry | None = None
    after: dict[str, Any] | None = None

    def change(entry: Entry | None) -> dict[str, Any] | None:
        nonlocal before, after
        if entry is None:
            if damaged and not options.dry_run:
                return None
            raise NotFound(resource.plural, key.name, group=resource.group)
        _check(resource, entry, options)
        before, after = entry, after_delete(resource, entry.obj, options, api.clock())
        return after

    damaged = key in api.store.quarantined
    stored = await commit(api, [(key, change)], dry_run=options.dry_run)
    if before is None:
        return Deleted(_unreadable(resource, key, api.store.version), gone=True)
    if after is None:
        return Deleted(before, gone=True)
    return Deleted(stored or Entry(key, after, before.version, orjson.dumps(after)), gone=False)


def _unreadable(resource: Resource, key: Key, version: int) -> Entry:
    """What is left to say of a damaged object that was deleted."""
    meta = {"name": key.name, **({"namespace": key.namespace} if key.namespace else {})}
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta}
    return Entry(key, obj, version, orjson.dumps(obj))


def _check(resource: Resource, entry: Entry, options: DeleteOptions) -> None:
    meta, name = entry.obj["metadata"], entry.key.name
    if resource.store_name == "namespaces" and name in PROTECTED:
        raise Forbidden(resource.plural, name, "this namespace may not be deleted")
    if options.uid is not None and options.uid != meta.get("uid"):
        raise Conflict(
            resource.plural,
            name,
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta.get('uid')}). "
            "The object might have been deleted and then recreated",
            group=resource.group,
        )
    if options.resource_version is not None and options.resource_version != meta["resourceVersion"]:
        raise Conflict(
            resource.plural,
            name,
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
            f"ResourceVersion in record ({meta['resourceVersion']}). The object might have been modified",
            group=resource.group,
        )


async def delete(request: web.Request, resource: Resource) -> web.StreamResponse:
    """Answers with the object while it is still there, and for pods in any case; else with a Status."""
    body, _ = await read_data(request)
    options = DeleteOptions.read(body, request.query)
    done = await delete_object(request.app[API], resource, key_of(request, resource), options)
    if not done.gone or resource.store_name == "pods":
        return await answer_entry(request, resource, done.entry)
    return await answer_object(request, success(resource, done.entry))


def success(resource: Resource, entry: Entry) -> dict[str, Any]:
    """The Status of an object that is gone."""
    details = {"name": entry.key.name, "kind": resource.plural, "uid": entry.obj["metadata"].get("uid", "")}
    if resource.group:
        details["group"] = resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


async def delete_collection(request: web.Request, resource: Resource) -> web.StreamResponse:
    """Deletes what the selectors match; answers with the objects deleted."""
    api = request.app[API]
    body, _ = await read_data(request)
    options = DeleteOptions.read(body, request.query)
    writer = renderer(request, resource)
    namespace = request.match_info.get("namespace", "")
    entries, _ = select(api, resource, namespace, Selection(resource, request.query))
    results = await asyncio.gather(
        *(_delete_if_there(api, resource, entry.key, options) for entry in entries)
    )
    deleted = [one.entry for one in results if one is not None]
    listing = writer.many(deleted, {"resourceVersion": str(api.store.version)})
    return await answer(request, listing, content_type=writer.form.content_type)


async def _delete_if_there(api: Api, resource: Resource, key: Key, options: DeleteOptions) -> Deleted | None:
    try:
        return await delete_object(api, resource, key, options)
    except NotFound:
        return None


def finalized(obj: dict[str, Any]) -> bool:
    """Whether an update took the last finalizer of an object that was only waiting for that."""
    meta = obj["metadata"]
    waiting = "deletionTimestamp" in meta and not meta.get("deletionGracePeriodSeconds")
    return waiting and not meta.get("finalizers")
