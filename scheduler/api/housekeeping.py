"""What the API does on its own: makes the namespaces and classes that always exist, empties those that are deleted, and
forgets events after an hour.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from scheduler.api.context import Api
from scheduler.api.delete import PROTECTED, DeleteOptions, delete_object
from scheduler.api.write import create_object
from scheduler.registry import runtimeclasses, serviceaccounts, storageclasses
from scheduler.registry.errors import AlreadyExists, ApiError, Forbidden, NotFound
from scheduler.registry.resource import Object, Resource
from scheduler.store import Entry, Expired, Key, StoreFailed, Unavailable, Watch

log = logging.getLogger(__name__)

EVENT_TTL = timedelta(hours=1)
"""As kube-apiserver's --event-ttl."""

EVENT_INTERVAL = 60.0
"""Seconds between two looks at the events."""

RETRY = 5.0
"""Seconds after which something that should have changed is looked at anyway."""

CHUNK = 500
"""Events removed in one commit."""


async def prepare(api: Api) -> None:
    """Makes what always exists, where it is missing. Raises StoreFailed."""
    await create_namespaces(api)
    await create_classes(api)
    await create_accounts(api)


async def create_namespaces(api: Api) -> None:
    """Makes default, kube-system and the like, once. Raises StoreFailed."""
    resource = api.find("", "v1", "namespaces")
    if resource is None:
        return
    for name in PROTECTED:
        obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        try:
            await create_object(api, resource, obj, "")
        except AlreadyExists:
            pass


async def create_classes(api: Api) -> None:
    """Makes the storage class and the runtime classes that are missing. Raises StoreFailed."""
    await _create(api, "storage.k8s.io", "storageclasses", storageclasses.built_in())
    await _create(api, "node.k8s.io", "runtimeclasses", *runtimeclasses.built_in())


async def create_accounts(api: Api) -> None:
    """Makes the account `default` in each namespace that has none. Raises StoreFailed."""
    resource = api.find("", "v1", "serviceaccounts")
    if resource is None:
        return
    for entry in api.store.list("namespaces")[0]:
        namespace, meta = entry.key.name, entry.obj["metadata"]
        there = api.store.get(Key(resource.store_name, namespace, serviceaccounts.DEFAULT))
        if there is not None or "deletionTimestamp" in meta:
            continue
        try:
            await create_object(api, resource, serviceaccounts.default_account(), namespace)
        except (AlreadyExists, Forbidden, NotFound) as error:
            log.info("no account for namespace %s: %s", namespace, error)  # somebody was faster


async def _create(api: Api, group: str, plural: str, *objects: Object) -> None:
    """Cluster-wide objects; what is there stays as it is."""
    resource = api.find(group, "v1", plural)
    if resource is None:
        return
    for obj in objects:
        try:
            await create_object(api, resource, obj, "")
        except AlreadyExists:
            pass


async def run(api: Api) -> None:
    """Runs until cancelled."""
    async with asyncio.TaskGroup() as group:
        for work in (forget_events, empty_namespaces, keep_accounts):
            group.create_task(_forever(work, api), name=work.__name__)


async def _forever(work: Callable[[Api], Awaitable[None]], api: Api) -> None:
    while True:
        try:
            await work(api)
        except Expired:
            continue  # it fell behind: begin anew from what is
        except StoreFailed:
            return  # said by whoever wrote first; nothing can be cleaned up any more
        except Unavailable:
            await asyncio.sleep(RETRY)
        except Exception:
            log.exception("housekeeping failed, trying again in %s s", RETRY)
            await asyncio.sleep(RETRY)


async def forget_events(api: Api) -> None:
    while True:
        await remove_old_events(api)
        await asyncio.sleep(EVENT_INTERVAL)


async def remove_old_events(api: Api) -> int:
    """Removes events last seen more than an hour ago; returns how many."""
    limit = api.clock() - EVENT_TTL
    old = [entry.key for entry in api.store.list("events")[0] if last_seen(entry) < limit]
    for start in range(0, len(old), CHUNK):
        await api.store.commit(*((key, lambda _: None) for key in old[start : start + CHUNK]))
    return len(old)


def last_seen(entry: Entry) -> datetime:
    """When an event was last reported or else created; without any time it is as old as can be."""
    obj = entry.obj
    times = [
        obj.get("lastTimestamp"),
        obj.get("eventTime"),
        (obj.get("series") or {}).get("lastObservedTime"),
        obj["metadata"].get("creationTimestamp"),
    ]
    return max(
        (datetime.fromisoformat(time) for time in times if time), default=datetime.min.replace(tzinfo=UTC)
    )


async def keep_accounts(api: Api) -> None:
    """Follows namespaces and accounts, and makes the accounts that are missing."""
    watches = [api.store.watch(name) for name in ("namespaces", "serviceaccounts")]
    try:
        while True:
            await create_accounts(api)
            await _any_change(watches)
    finally:
        for watch in watches:
            watch.close()


async def empty_namespaces(api: Api) -> None:
    """Follows all namespaces and empties those being deleted, each in its own task."""
    watch = api.store.watch("namespaces")
    entries, _ = api.store.list("namespaces")
    working: dict[str, asyncio.Task[None]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                for entry in entries:
                    name = entry.key.name
                    idle = name not in working or working[name].done()
                    if idle and "deletionTimestamp" in entry.obj["metadata"]:
                        working[name] = group.create_task(finish_namespace(api, name), name=f"empty {name}")
                entries = [event.entry for event in await watch.batch() if event.type != "DELETED"]
                working = {name: task for name, task in working.items() if not task.done()}
    finally:
        watch.close()


async def finish_namespace(api: Api, name: str) -> None:
    """Deletes what is in a namespace, waits until it is gone, then removes the namespace.

    Nothing new can come in meanwhile: `write` refuses it.
    """
    resources = [one for one in api.resources if one.namespaced]
    watches = [api.store.watch(one.store_name, name) for one in resources]
    try:
        while await _delete_contents(api, resources, name):
            await _any_change(watches)
    finally:
        for watch in watches:
            watch.close()
    await api.store.commit((Key("namespaces", "", name), lambda _: None))
    log.info("namespace %s is empty and deleted", name)


async def _delete_contents(api: Api, resources: list[Resource], name: str) -> int:
    """Deletes what is not being deleted yet; returns how much is still there."""
    remaining = 0
    for resource in resources:
        entries, _ = api.store.list(resource.store_name, name)
        fresh = [entry for entry in entries if "deletionTimestamp" not in entry.obj["metadata"]]
        await asyncio.gather(*(_delete(api, resource, entry) for entry in fresh))
        remaining += len(api.store.list(resource.store_name, name)[0])
    return remaining


async def _delete(api: Api, resource: Resource, entry: Entry) -> None:
    try:
        await delete_object(api, resource, entry.key, DeleteOptions())
    except NotFound:
        pass
    except ApiError as error:
        log.warning("cannot delete %s: %s", entry.key, error)


async def _any_change(watches: list[Watch]) -> None:
    tasks = [asyncio.ensure_future(watch.batch()) for watch in watches]
    try:
        done, _ = await asyncio.wait(tasks, timeout=RETRY, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()
