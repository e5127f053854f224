"""What a follower reads ahead is what the engine would read, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.framework import records
from scheduler.framework.core.entities import Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.policy import Policy
from scheduler.framework.engine import load
from scheduler.framework.warm import Warm
from scheduler.store import Key, StoreError
from scheduler.store.sqlite import SqliteStore


def pod(name: str, node: str = "") -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    spec = {"containers": [{"name": "main", "image": "x"}], **({"nodeName": node} if node else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {}}


def key(name: str) -> Key:
    return Key("pods", "default", name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db", history=20, backlog=30)
    await store.open()
    yield store
    await store.close()


async def until(check: Any) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - nothing tells when something was read
            await asyncio.sleep(0.01)


async def test_what_was_read_ahead_is_used_only_as_long_as_it_is_true(store: SqliteStore) -> None:
    warm = Warm()
    for name in ("a", "b", "c"):
        await store.commit((key(name), lambda _, name=name: pod(name)))
    following = asyncio.create_task(warm.follow(store))
    await until(lambda: len(warm.pods) == 3)
    first = warm.pods.get(store.get(key("a")))
    assert warm.pods.get(store.get(key("a"))) is first
    assert first == pod_from_object(store.get(key("a")).obj)
    await store.commit((key("a"), lambda _: pod("a", "n1")), (key("b"), lambda _: None))
    assert warm.pods.get(store.get(key("a"))).node == "n1", "though it was not read again yet"
    await until(lambda: len(warm.pods) == 2)
    again = warm.pods.get(store.get(key("a")))
    assert again.node == "n1"
    assert warm.pods.get(store.get(key("a"))) is again
    following.cancel()
    await asyncio.wait([following])
    await store.commit((key("c"), lambda _: None), (key("d"), lambda _: pod("d")))
    state, *_ = await load(store, Policy(), warm)
    assert {one.name: one.node for one in state.pods.values()} == {"a": "n1", "d": ""}
    assert state.pods["uid-a"] is again


async def test_one_that_fell_behind_catches_up(store: SqliteStore) -> None:
    warm = Warm()
    following = asyncio.create_task(warm.follow(store))
    await asyncio.sleep(0)
    for start in range(0, 200, 50):
        changes = [(key(f"p{n}"), lambda _, n=n: pod(f"p{n}")) for n in range(start, start + 50)]
        await store.commit(*changes)
    await until(lambda: len(warm.pods) == 200)
    following.cancel()
    await asyncio.wait([following])


async def test_a_record_that_cannot_be_read_is_told_to_who_wants_it(store: SqliteStore) -> None:
    task = Task("t", "u", "default", "a", 1, "agent", "n", "e", TaskState.RUNNING)
    await store.commit(
        (records.task_key("t"), lambda _: records.task_object(task)),
        (records.task_key("x"), lambda _: {"metadata": {"name": "x"}, "state": "UNHEARD_OF"}),
    )
    warm = Warm()
    following = asyncio.create_task(warm.follow(store))
    await until(lambda: len(warm.tasks) == 1)
    following.cancel()
    await asyncio.wait([following])
    assert warm.tasks.get(store.get(records.task_key("t"))) == task
    with pytest.raises(StoreError, match="the record of task x cannot be read"):
        warm.tasks.get(store.get(records.task_key("x")))
