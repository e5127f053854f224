"""The saves of a frame as one commit: each object changed from its newest version, engine's fields only.

A launch counts only if its pod can still be bound at that very moment (it may have been deleted since the decision);
otherwise its records are not written and the caller is told.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scheduler.framework import records
from scheduler.framework.core import effects as fx
from scheduler.framework.core import status
from scheduler.framework.core.entities import Node
from scheduler.framework.nodeobjects import node_object
from scheduler.framework.volumeobjects import storage_change
from scheduler.store import UNCHANGED, Change, Entry, Key, Store, Unchanged

Json = dict[str, Any]
Result = Json | Unchanged | None


class Saver:
    """Writes for the engine. `executor_infos`: the ExecutorInfo by executor id, filled before `save`."""

    def __init__(
        self,
        store: Store,
        executor_infos: Mapping[str, Json],
        *,
        version: str,
        max_pods: int,
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._store = store
        self._infos = executor_infos
        self._version = version
        self._max_pods = max_pods
        self._new_uid = new_uid

    async def save(self, effects: Iterable[fx.Effect], now: float) -> tuple[set[str], dict[str, Entry]]:
        """Commits all saves among the effects. Returns the ids of refused launches, and the pods' entries by uid.

        Raises StoreFailed.
        """
        refused: set[str] = set()
        changes: list[Change] = []
        pods: list[str] = []
        for effect in effects:
            if isinstance(effect, fx.SAVES):
                changes.append(self._change(effect, now, refused))
                pods.append(effect.pod.uid if isinstance(effect, fx.SavePod) else "")
        if not changes:
            return refused, {}
        entries = await self._store.commit(*changes, patient=True)
        found = {uid: entry for uid, entry in zip(pods, entries, strict=True) if uid and entry is not None}
        return refused, found

    def _change(self, effect: fx.Effect, now: float, refused: set[str]) -> Change:
        match effect:
            case fx.SavePod(pod, change):
                key = Key("pods", pod.namespace, pod.name)
                return key, lambda old: _pod(old, pod.uid, change, now, refused)
            case fx.SaveTask(task):
                new = records.task_object(task)
                return records.task_key(task.id), lambda old: UNCHANGED if task.id in refused else new
            case fx.SaveFramework(framework_id):
                return records.FRAMEWORK, lambda old: _framework(old, framework_id)
            case fx.SaveNode(node):
                return Key("nodes", "", node.name), lambda old: self._node(old, node, now)
            case fx.SaveExecutor(executor):
                obj = records.executor_object(executor, self._infos[executor.id])
                return records.executor_key(executor.id), lambda _: obj
            case fx.DropExecutor(executor_id):
                return records.executor_key(executor_id), _delete
            case fx.DropTask(task_id):
                return records.task_key(task_id), _delete
            case fx.RemovePod(pod):
                return Key("pods", pod.namespace, pod.name), lambda old: _remove(old, pod.uid)
            case fx.SaveVolume() | fx.DropVolume() | fx.SaveClaim() | fx.ReleaseClaim():
                return storage_change(effect, now, self._new_uid)
            case _:
                raise TypeError(f"not a save: {effect}")

    def _node(self, old: Entry | None, node: Node, now: float) -> Json:
        return node_object(
            old.obj if old else None,
            node,
            uid=self._new_uid(),
            now=now,
            max_pods=self._max_pods,
            version=self._version,
        )


def _framework(old: Entry | None, framework_id: str) -> Json:
    obj: Json = dict(old.obj) if old else {"metadata": {"name": records.FRAMEWORK.name}}
    return {**obj, "frameworkId": framework_id}


def _pod(old: Entry | None, uid: str, change: fx.PodChange, now: float, refused: set[str]) -> Result:
    obj = old.obj if old else None
    if isinstance(change, fx.Bound) and not status.can_bind(obj, uid):
        refused.add(change.task_id)
        return UNCHANGED
    if obj is None or obj["metadata"].get("uid") != uid:
        return UNCHANGED
    return status.apply(obj, change, now)


def _remove(old: Entry | None, uid: str) -> Result:
    """Gone; with finalizers it stays, with a grace of 0, and the API removes it when they are done."""
    if old is None or old.obj["metadata"].get("uid") != uid:
        return UNCHANGED
    meta = old.obj["metadata"]
    if not meta.get("finalizers"):
        return None
    return {**old.obj, "metadata": {**meta, "deletionGracePeriodSeconds": 0}}


def _delete(old: Entry | None) -> Result:
    return UNCHANGED if old is None else None
