"""The ZooKeeper store's znodes: what is refused, how the log is folded into the table, what becomes of damage."""

import asyncio
import re
from typing import Any

import orjson
import pytest
from kazoo.exceptions import UnimplementedError

from scheduler.store import Key, SlowReader, StoreError
from scheduler.store.zookeeper import ZooKeeperStore, bulk, folding
from scheduler.store.zookeeper.layout import LAYOUT
from shared.zookeeper.session import Session
from tests.store.patience import LIMIT, until, within

A, B = (Key("pods", "default", name) for name in "ab")


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


# ---- the layout


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "layout",
            {"layout": LAYOUT + 1},
            f"has layout {LAYOUT + 1}, this version of gantry knows up to {LAYOUT}",
        ),
        ("layout", {"layout": "two"}, "does not say which layout this is; it is not touched"),
        ("layout", [], "does not say which layout this is; it is not touched"),
        ("cluster", {"id": "other"}, "belongs to cluster 'other', this is 'gantry'; choose another path"),
        ("folded", {}, "the znode folded is damaged; restore a backup"),
    ],
)
async def test_what_is_not_ours_or_not_known_is_refused(zk, znodes, path, name, data, message):
    await (await zk()).close()
    await znodes.set(f"{path}/{name}", orjson.dumps(data))
    with pytest.raises(StoreError, match=re.escape(message)):
        await within(zk())


async def test_znodes_of_another_program_are_left_alone(zk, znodes, path):
    await znodes.ensure(f"{path}/json.info_0000000001")
    with pytest.raises(
        StoreError, match=r"znodes of another program \(json.info_0000000001\); choose another path"
    ):
        await within(zk())
    assert await znodes.children(path) == ["json.info_0000000001"]


async def test_the_election_may_be_there_first(zk, znodes, path, put):
    for name in ("epoch", "leader"):
        await znodes.ensure(f"{path}/{name}")
    await put(await zk(lead=True), "a")


async def test_a_store_that_was_deleted_under_us_is_not_begun_anew(zk, znodes, path, put):
    store = await zk(lead=True)
    await put(store, "a")
    await store.compact()
    await znodes.delete(f"{path}/folded")
    with pytest.raises(StoreError, match="parts of it were deleted; restore a backup, or delete the rest"):
        await within(zk())


async def test_with_a_login_nobody_else_reads_or_writes(zk, znodes, path, put):
    mine = {"digest": "me:hunter2"}
    store = await zk(lead=True, access=mine)
    await put(store, "a")
    await store.compact()
    with pytest.raises(StoreError, match="our login may not read or write there") as info:
        await within(zk(access={"digest": "you:hunter3"}))
    assert "hunter" not in str(info.value)
    for name in (
        path,
        f"{path}/log",
        f"{path}/objects/pods",
        f"{path}/objects/pods/default:a",
        f"{path}/epoch",
    ):
        acls, _ = await znodes.call(store._session._client.get_acls_async, name)
        assert [(acl.id.scheme, acl.id.id.partition(":")[0]) for acl in acls] == [("digest", "me")]
    assert (await zk(access=mine)).get(A) is not None


async def test_exists_and_destroy(zk, znodes, path, put, settings_to, one_server):
    nothing = ZooKeeperStore(settings_to(one_server[0].address, path))
    assert not await nothing.exists()
    assert await znodes.exists(path) is None  # looking leaves nothing behind
    store = await zk(lead=True)
    await put(store, "a")
    await store.compact()
    assert await store.exists()
    await store.destroy()
    assert await znodes.exists(path) is None


# ---- the log and the table


async def log_and_table(znodes: Session, path: str) -> tuple[list[str], list[str]]:
    resources = await znodes.children(f"{path}/objects")
    names = [name for resource in resources for name in await znodes.children(f"{path}/objects/{resource}")]
    return sorted(await znodes.children(f"{path}/log")), sorted(names)


async def test_the_log_stays_short_and_the_table_complete(zk, znodes, path, put, monkeypatch):
    monkeypatch.setattr(folding, "RECORDS", 10)
    monkeypatch.setattr(folding, "KEEP", 5)
    store = await zk(lead=True)
    for i in range(100):
        await put(store, f"p{i % 7}", n=i)
    await store.commit((Key("pods", "default", "p3"), lambda _: None))
    await put(store, "big", text="".join(map(chr, range(0x4E00, 0x9FA0))) * 10)
    async with asyncio.timeout(LIMIT):
        while len((await log_and_table(znodes, path))[0]) > 30:  # noqa: ASYNC110 - it happens in its own time
            await asyncio.sleep(0.02)
    await store.compact()
    log, table = await log_and_table(znodes, path)
    assert log == ["00000000000000000102"]
    assert table == ["default:big", *(f"default:p{i}" for i in (0, 1, 2, 4, 5, 6))]
    assert await znodes.children(f"{path}/parts") == []
    again = await zk()
    assert again.list("pods") == store.list("pods")
    assert again.version == store.version == 102


async def test_a_leader_folds_what_the_one_before_it_left(zk, znodes, path, put):
    first = await zk(lead=True)
    await put(first, "a")
    await put(first, "b")
    await first.compact()
    await put(first, "c")
    await first.commit((A, lambda _: None))
    await first.close()
    second = await zk(lead=True)
    await second.compact()
    log, table = await log_and_table(znodes, path)
    assert (len(log), table) == (1, ["default:b", "default:c"])
    assert [entry.key.name for entry in (await zk()).list("pods")[0]] == ["b", "c"]


async def test_a_follower_that_was_left_behind_reads_everything_anew(zk, put, proxy):
    leader, follower = await zk(lead=True), await zk(address=proxy.address)
    await put(leader, "a")
    await until(follower, 1)
    watch = follower.watch("pods")
    await proxy.refuse()
    for i in range(5):
        await put(leader, f"p{i}")
    await leader.commit((A, lambda _: None))
    await leader.compact()
    await proxy.open()
    with pytest.raises(SlowReader):
        await within(watch.batch())
    await until(follower, leader.version)
    assert follower.list("pods") == leader.list("pods")
    last = await put(leader, "more")
    await until(follower, last)


async def test_names_that_znodes_cannot_have(zk):
    keys = [
        Key("odd", "", name)
        for name in ("..", "a/b", "a%2Fb", "zookeeper", "ü\u2028", "a:b", "system:node:x", "\x00", "x y", "")
    ] + [Key("odd", "ns", "..")]
    store = await zk(lead=True)
    await store.commit(*((key, lambda _: pod()) for key in keys))
    await store.compact()
    await store.commit((keys[0], lambda _: None))
    await store.compact()
    assert {entry.key for entry in (await zk()).list("odd")[0]} == set(keys[1:])


async def test_a_zookeeper_without_multi_reads(zk, put, monkeypatch):
    """Before 3.6. Whether it says so or just closes the connection, znodes are read one by one."""
    store = await zk(lead=True)
    for i in range(150):
        await put(store, f"p{i}")
    await store.compact()
    monkeypatch.setattr(bulk._MultiRead, "deserialize", classmethod(lambda *_: unimplemented()))
    again = await zk()
    assert again.list("pods") == store.list("pods")
    monkeypatch.setattr(bulk._MultiRead, "type", 99)  # it answers nothing then
    again = await zk()
    assert again.list("pods") == store.list("pods")


def unimplemented() -> Any:
    raise UnimplementedError


# ---- damage


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
async def test_a_damaged_object_is_left_out_and_repaired(zk, znodes, path, put, damage, caplog):
    store = await zk(lead=True)
    for name in "abc":
        await put(store, name, text=name * 1000)
    await store.compact()
    await store.close()
    for name in "ab":
        znode = f"{path}/objects/pods/default:{name}"
        data = bytearray((await znodes.get(znode)).data)
        data[-3] ^= 1
        bad = {"flipped": bytes(data), "cut": bytes(data[:10]), "empty": b"", "other": b'{"kind":"Pod"}' * 9}
        await znodes.set(znode, bad[damage])
    again = await zk(lead=True)
    assert again.quarantined.keys() == {A, B}
    assert "pods/default/a is damaged and left out: it" in caplog.text
    assert [entry.key.name for entry in again.list("pods")[0]] == ["c"]
    assert await again.commit((Key("pods", "default", "c"), lambda old: pod(fine=True)))
    await put(again, "a")
    assert await again.commit((B, lambda old: None)) == [None]
    assert again.quarantined == {}
    follower = await zk()
    assert follower.quarantined == {}  # the log is newer than the table
    await again.compact()
    for one in (follower, await zk()):
        assert [entry.key.name for entry in one.list("pods")[0]] == ["a", "c"]
        assert one.quarantined == {}


async def test_a_damaged_record_is_reported_and_all_else_works(zk, znodes, path, put):
    store = await zk(lead=True)
    await put(store, "a")
    await store.close()
    last = max(await znodes.children(f"{path}/log"))
    await znodes.set(f"{path}/log/{last}", b"garbage")
    again = await zk(lead=True)
    ((key, why),) = again.quarantined.items()
    assert (key.resource, key.name, why) == ("log", "1", "a record of the log is lost: it is too short")
    await put(again, "b")
    await again.compact()
    assert [entry.key.name for entry in (await zk()).list("pods")[0]] == ["b"]
