"""The store's watches as events of the engine: pods and nodes, from the list on, without a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from scheduler.framework.core.events import Event, NodeChanged, NodeGone, PodChanged, PodGone
from scheduler.framework.core.pods import node_from_object, pod_from_object
from scheduler.store import Expired, Store, WatchEvent

Put = Callable[[Event], None]


async def follow_pods(store: Store, since: int, put: Put, known: Callable[[], Iterable[str]]) -> None:
    """Until the store closes. `known`: the uids the engine has, to find what vanished while we fell behind."""
    while True:
        try:
            await _follow(store, "pods", since, lambda event: put(_pod_event(event)))
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


async def _follow(store: Store, resource: str, since: int, tell: Callable[[WatchEvent], None]) -> None:
    watch = store.watch(resource, since=since)
    try:
        while batch := await watch.batch():
            for event in batch:
                tell(event)
    finally:
        watch.close()


def _pod_event(event: WatchEvent) -> Event:
    if event.type == "DELETED":
        return PodGone(event.entry.obj["metadata"]["uid"])
    return PodChanged(pod_from_object(event.entry.obj))


def _node_event(event: WatchEvent) -> Event:
    if event.type == "DELETED":
        return NodeGone(event.entry.key.name)
    return NodeChanged(node_from_object(event.entry.obj))
