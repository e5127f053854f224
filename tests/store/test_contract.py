"""What every store must do. Runs over each implementation in conftest.open_it."""

import asyncio
import os
from typing import Any

import orjson
import pytest

from scheduler.store import OBJECT_LIMIT, UNCHANGED, Entry, Expired, Key, SlowReader, StoreFailed, TooLarge
from scheduler.store.base import HARD_LIMIT

KEY = Key("pods", "default", "web")


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


async def test_created_object_carries_its_version_and_bytes(store):
    (entry,) = await store.commit((KEY, lambda _: pod(a=1)))
    assert store.get(KEY) is entry
    assert entry.obj["metadata"]["resourceVersion"] == str(entry.version) == str(store.version)
    assert orjson.loads(entry.raw) == entry.obj
    assert entry.obj["spec"] == {"a": 1}


async def test_function_sees_the_object_and_its_argument_is_left_alone(store):
    (first,) = await store.commit((KEY, lambda old: pod(n=0) if old is None else None))
    (second,) = await store.commit((KEY, lambda old: {**old.obj, "spec": {"n": old.obj["spec"]["n"] + 1}}))
    assert second.obj["spec"] == {"n": 1}
    assert second.version > first.version
    assert first.obj["spec"] == {"n": 0}
    assert first.obj["metadata"]["resourceVersion"] == str(first.version)


async def test_object_without_metadata_is_kept(store):
    key = Key("meta.gantry.io", "", "framework")
    await store.commit((key, lambda _: {"frameworkId": "f-1"}))
    assert store.get(key).obj == {"frameworkId": "f-1", "metadata": {"resourceVersion": str(store.version)}}
    version = store.version
    await store.commit((key, lambda _: {"frameworkId": "f-1"}))
    assert store.version == version


async def test_delete_removes_and_missing_delete_is_nothing(store):
    await store.commit((KEY, lambda _: pod()))
    assert await store.commit((KEY, lambda _: None)) == [None]
    assert store.get(KEY) is None
    version = store.version
    assert await store.commit((KEY, lambda _: None)) == [None]
    assert store.version == version


async def test_unchanged_and_equal_objects_make_no_version(store):
    (entry,) = await store.commit((KEY, lambda _: pod(a=1)))
    watch = store.watch("pods")
    assert await store.commit((KEY, lambda old: UNCHANGED)) == [entry]
    assert await store.commit((KEY, lambda old: pod(a=1))) == [entry]
    assert await store.commit((KEY, lambda old: old.obj)) == [entry]
    assert store.version == entry.version
    (changed,) = await store.commit((KEY, lambda old: pod(a=2)))
    assert (await anext(watch)).entry is changed


async def test_exception_aborts_the_whole_commit(store):
    def refuse(old: Entry | None) -> dict[str, Any]:
        raise LookupError("no")

    version = store.version
    with pytest.raises(LookupError, match="no"):
        await store.commit((KEY, lambda _: pod()), (Key("pods", "default", "b"), refuse))
    assert store.get(KEY) is None
    assert store.version == version
    assert store.list("pods") == ([], version)


async def test_what_json_cannot_hold_aborts_too(store):
    with pytest.raises(TypeError):
        await store.commit((KEY, lambda _: pod(a=object())))
    assert await store.commit((KEY, lambda old: pod(first=old is None)))
    assert store.get(KEY).obj["spec"] == {"first": True}


async def test_changes_of_one_commit_see_one_another(store):
    results = await store.commit(
        (KEY, lambda old: pod(n=1)),
        (KEY, lambda old: {**old.obj, "spec": {"n": old.obj["spec"]["n"] + 1}}),
        (KEY, lambda old: None),
        (KEY, lambda old: pod(again=old is None)),
    )
    assert [entry and entry.obj["spec"] for entry in results] == [{"n": 1}, {"n": 2}, None, {"again": True}]


async def test_concurrent_increments_lose_nothing(store):
    await store.commit((KEY, lambda _: pod(n=0)))

    def increment(old: Entry) -> dict[str, Any]:
        return {**old.obj, "spec": {"n": old.obj["spec"]["n"] + 1}}

    await asyncio.gather(*(store.commit((KEY, increment)) for _ in range(200)))
    assert store.get(KEY).obj["spec"]["n"] == 200


@pytest.mark.parametrize(
    "turns", [1, 2]
)  # of the loop: the first commit waits for the writer, is with the writer
async def test_commit_sees_the_commits_in_flight_but_readers_do_not(store, turns):
    first = asyncio.ensure_future(store.commit((KEY, lambda _: pod(a=1))))
    for _ in range(turns):
        await asyncio.sleep(0)
    seen = []

    def look(old: Entry | None) -> Any:
        seen.append((old is not None, store.get(KEY) is not None))
        return UNCHANGED

    await store.commit((KEY, look))
    assert seen == [(True, False)]
    # That answer rested on the first commit, so it came only after it was durable.
    assert first.done()
    assert store.get(KEY) is not None


async def test_cancelled_caller_does_not_undo(store):
    task = asyncio.ensure_future(store.commit((KEY, lambda _: pod(a=1))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.commit((Key("pods", "default", "other"), lambda _: pod()))
    assert store.get(KEY).obj["spec"] == {"a": 1}


async def test_list_is_sorted_and_cut_to_a_namespace(store, put):
    for namespace, name in [("b", "x"), ("a", "z"), ("a-b", "q"), ("a", "b"), ("ab", "c")]:
        await put(store, name, namespace)
    await put(store, "n1", "", resource="nodes")
    entries, version = store.list("pods")
    assert [entry.key[1:] for entry in entries] == [
        ("a", "b"), ("a", "z"), ("a-b", "q"), ("ab", "c"), ("b", "x"),
    ]  # fmt: skip
    assert version == store.version
    assert [entry.key.name for entry in store.list("pods", "a")[0]] == ["b", "z"]
    assert store.list("pods", "none")[0] == []
    assert [entry.key.name for entry in store.list("nodes")[0]] == ["n1"]


async def test_everything_survives_reopening(open_it, put):
    store = await open_it()
    await put(store, "a", text="ünïcode \u2028 \x00 'quoted'")
    await put(store, "gone")
    await store.commit((Key("pods", "default", "gone"), lambda _: None))
    before, version = store.list("pods"), store.version
    await store.close()
    again = await open_it()
    assert again.list("pods") == before
    assert again.version == version
    # The deletion was the last version: it must not be handed out again.
    assert await put(again, "next") == version + 1


async def test_history_does_not_survive_but_now_does(open_it, put):
    store = await open_it()
    old = await put(store, "a")
    last = await put(store, "b")
    await store.close()
    again = await open_it()
    with pytest.raises(Expired):
        again.watch("pods", since=old)
    watch = again.watch("pods", since=last)
    await put(again, "c")
    assert (await anext(watch)).entry.key.name == "c"


async def test_watch_tells_added_modified_deleted_with_the_previous(store, put):
    watch = store.watch("pods")
    await put(store, "a", n=1)
    await put(store, "a", n=2)
    await store.commit((Key("pods", "default", "a"), lambda _: None))
    added, modified, deleted = [await anext(watch) for _ in range(3)]
    assert [event.type for event in (added, modified, deleted)] == ["ADDED", "MODIFIED", "DELETED"]
    assert added.previous is None
    assert modified.previous == added.entry
    assert deleted.previous == modified.entry
    assert deleted.entry.version == store.version
    assert deleted.entry.obj["metadata"]["resourceVersion"] == str(store.version)
    assert deleted.entry.obj["spec"] == {"n": 2}


async def test_watch_is_cut_to_resource_and_namespace(store, put):
    watch = store.watch("pods", "a")
    await put(store, "n", "", resource="nodes")
    await put(store, "x", "b")
    await put(store, "y", "a")
    assert [event.entry.key for event in await watch.batch()] == [Key("pods", "a", "y")]


async def test_take_does_not_wait(store, put):
    watch = store.watch("pods")
    assert watch.take() == []
    await put(store, "a")
    assert [event.entry.key.name for event in watch.take()] == ["a"]
    assert watch.take() == []


async def test_watch_resumes_without_gap_or_double(store, put):
    versions = [await put(store, f"p{i}") for i in range(5)]
    watch = store.watch("pods", since=versions[1])
    await put(store, "p5")
    seen = []
    while len(seen) < 4:
        seen += [event.entry.key.name for event in await watch.batch()]
    assert seen == ["p2", "p3", "p4", "p5"]


async def test_watch_beyond_the_history_or_the_future_is_expired(open_it, put):
    store = await open_it(history=3)
    versions = [await put(store, f"p{i}") for i in range(5)]
    with pytest.raises(Expired, match="too old resource version"):
        store.watch("pods", since=versions[0])
    watch = store.watch("pods", since=versions[1])
    assert [event.entry.key.name for event in await watch.batch()] == ["p2", "p3", "p4"]
    with pytest.raises(Expired, match="never reached"):
        store.watch("pods", since=store.version + 1)


async def test_slow_reader_is_closed_and_told(open_it, put):
    store = await open_it(backlog=3)
    slow, quick = store.watch("pods"), store.watch("pods")
    for i in range(5):
        await put(store, f"p{i}")
        assert len(await quick.batch()) == 1
    with pytest.raises(SlowReader, match="more than 3 changes behind"):
        await anext(slow)


async def test_closing_ends_watches(open_it):
    store = await open_it()
    one, two = store.watch("pods"), store.watch("pods")
    waiting = asyncio.ensure_future(two.batch())
    one.close()
    assert [event async for event in one] == []
    await store.close()
    assert await waiting == []
    with pytest.raises(StoreFailed, match="closed"):
        await store.commit((KEY, lambda _: pod()))


async def test_close_finishes_what_is_in_flight(open_it):
    store = await open_it()
    tasks = [
        asyncio.ensure_future(store.commit((Key("pods", "default", f"p{i}"), lambda _: pod())))
        for i in range(50)
    ]
    await asyncio.sleep(0)
    await store.close()
    assert len(await asyncio.gather(*tasks)) == 50
    again = await open_it()
    assert len(again.list("pods")[0]) == 50


async def test_batch_larger_than_one_statement(open_it):
    store = await open_it()
    keys = [Key("pods", "default", f"p{i}") for i in range(1203)]
    await store.commit(*((key, lambda _: pod()) for key in keys))
    await store.commit(*((key, lambda _: None) for key in keys[1:]))
    await store.close()
    again = await open_it()
    assert [entry.key for entry in again.list("pods")[0]] == keys[:1]


async def test_object_over_the_limit_aborts_the_commit_and_one_at_the_limit_does_not(store, open_it):
    def sized(size: int) -> dict[str, Any]:
        rest = len(orjson.dumps({**pod(a=""), "metadata": {"resourceVersion": str(store.version + 1)}}))
        return {"metadata": {}, "spec": {"a": "x" * (size - rest)}}

    with pytest.raises(
        TooLarge, match=r"pods/default/web: the object is \d+ bytes .* the limit is 983040"
    ) as info:
        await store.commit(
            (Key("pods", "default", "b"), lambda _: pod()), (KEY, lambda _: sized(OBJECT_LIMIT + 1))
        )
    assert info.value.size == OBJECT_LIMIT + 1
    assert store.list("pods")[0] == []
    await store.commit((KEY, lambda _: sized(OBJECT_LIMIT)))
    assert len(store.get(KEY).raw) == OBJECT_LIMIT
    # There is room for the status of what users may create; and nothing is said of a deletion.
    await store.commit((KEY, lambda _: sized(HARD_LIMIT)), patient=True)
    await store.close()
    again = await open_it()
    assert len(again.get(KEY).raw) == HARD_LIMIT
    assert await again.commit((KEY, lambda _: None)) == [None]


async def test_a_commit_of_many_large_objects(store, open_it):
    """More than fits into one request of a ZooKeeper, and still all or nothing."""
    keys = [Key("configmaps", "default", f"c{i}") for i in range(12)]
    noise = [os.urandom(200_000).hex() for _ in keys]
    await store.commit(
        *(
            (key, lambda _, text=text: {"metadata": {}, "data": text})
            for key, text in zip(keys, noise, strict=True)
        )
    )
    await store.close()
    again = await open_it()
    assert [entry.obj["data"] for entry in again.list("configmaps")[0]] == [
        noise[int(entry.key.name[1:])] for entry in again.list("configmaps")[0]
    ]


async def test_who_leads_may_write(store):
    assert store.writable
    assert store.failure is None
    assert store.trouble == ""
    assert store.quarantined == {}
