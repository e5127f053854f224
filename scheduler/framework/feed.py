"""The store's watches as events of the engine: pods, nodes and claims, from the list on, without a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from scheduler.framework.core.entities import Pod
from scheduler.framework.core.events import (
    ClaimChanged,
    ClaimGone,
    Event,
    NodeChanged,
    NodeGone,
    PodChanged,
    PodGone,
)
from scheduler.framework.core.pods import node_from_object, pod_from_object
from scheduler.framework.core.status import FINAL_PHASES
from scheduler.framework.volumeobjects import CLAIMS, claim_from_object
from scheduler.store import Expired, Store, WatchEvent

Put = Callable[[Event], None]
Json = dict[str, Any]


async def follow_pods(store: Store, since: int, put: Put, known: Callable[[], Iterable[str]]) -> None:
    """Until the store closes. `known`: the uids the engine has, to find what vanished while we fell behind."""
    read = PodReader()
    while True:
        try:
            await _follow(store, "pods", since, lambda event: put(read.event(event)))
            return
        except Expired:
            entries, since = store.list("pods")
            pods = [pod_from_object(entry.obj) for entry in entries]
            for uid in set(known()) - {pod.uid for pod in pods}:
                put(PodGone(uid))
            for pod in pods:
                put(PodChanged(pod))


async def follow_nodes(store: Store, since: int, put: Put, known: Callable[[], Iterable[str]]) -> None:
    """As `follow_pods`; `known`: names."""
    while True:
        try:
            await _follow(store, "nodes", since, lambda event: put(_node_event(event)))
            return
        except Expired:
            entries, since = store.list("nodes")
            for name in set(known()) - {entry.key.name for entry in entries}:
                put(NodeGone(name))
            for entry in entries:
                put(NodeChanged(node_from_object(entry.obj)))


async def follow_claims(store: Store, since: int, put: Put, known: Callable[[], Iterable[str]]) -> None:
    """As `follow_pods`; `known`: uids."""
    while True:
        try:
            await _follow(store, CLAIMS, since, lambda event: put(_claim_event(event)))
            return
        except Expired:
            entries, since = store.list(CLAIMS)
            claims = [claim_from_object(entry.obj) for entry in entries]
            for uid in set(known()) - {claim.uid for claim in claims}:
                put(ClaimGone(uid))
            for claim in claims:
                put(ClaimChanged(claim))


async def _follow(store: Store, resource: str, since: int, tell: Callable[[WatchEvent], None]) -> None:
    watch = store.watch(resource, since=since)
    try:
        while batch := await watch.batch():
            for event in batch:
                tell(event)
    finally:
        watch.close()


class PodReader:
    """Pods of a watch. Most changes are our own, of status and node: what the user wrote is not read again then.

    That rests on what is written from what: new versions share the parts of old ones that did not change.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[Json, Pod]] = {}

    def event(self, event: WatchEvent) -> Event:
        obj = event.entry.obj
        uid = obj["metadata"]["uid"]
        if event.type == "DELETED":
            self._last.pop(uid, None)
            return PodGone(uid)
        before, pod = self._last.get(uid, (None, None))
        if before is None or pod is None or not _as_written(before, obj):
            pod = pod_from_object(obj)
        else:
            node, done = obj["spec"].get("nodeName") or "", obj["status"].get("phase") in FINAL_PHASES
            if (node, done) != (pod.node, pod.done):
                pod = replace(pod, node=node, done=done)
        self._last[uid] = (obj, pod)
        return PodChanged(pod)


def _as_written(before: Json, after: Json) -> bool:
    """Whether metadata and spec are the same objects but for what the store and the engine write."""
    return _shared(before["metadata"], after["metadata"], "resourceVersion") and _shared(
        before["spec"], after["spec"], "nodeName"
    )


def _shared(before: Json, after: Json, apart_from: str) -> bool:
    if before is after:
        return True
    names = (before.keys() | after.keys()) - {apart_from}
    return all(name in before and name in after and before[name] is after[name] for name in names)


def _claim_event(event: WatchEvent) -> Event:
    if event.type == "DELETED":
        return ClaimGone(event.entry.obj["metadata"]["uid"])
    return ClaimChanged(claim_from_object(event.entry.obj))


def _node_event(event: WatchEvent) -> Event:
    if event.type == "DELETED":
        return NodeGone(event.entry.key.name)
    return NodeChanged(node_from_object(event.entry.obj))
