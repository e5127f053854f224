"""What only the ZooKeeper store has: followers and leaders, its znodes, and what they look like from other programs."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.store import Fenced, Key, NotLeading, Unavailable
from scheduler.store.zookeeper import ZooKeeperStore
from shared.zookeeper.session import Session
from tests.store.patience import LIMIT, until, within
from tests.zookeeper.server import Proxy, Server, wait_for

A, B = (Key("pods", "default", name) for name in "ab")


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


# ---- following and leading


async def test_a_follower_sees_everything_in_order(zk, put):
    leader = await zk(lead=True)
    await put(leader, "a", n=1)
    follower = await zk()
    assert follower.list("pods") == leader.list("pods")
    watch = follower.watch("pods")
    await put(leader, "a", n=2)
    await put(leader, "b")
    await leader.commit((A, lambda _: None), (B, lambda _: pod(n=3)))
    events = []
    while len(events) < 4:
        events += await within(watch.batch())
    assert [(event.type, event.entry.key.name) for event in events] == [
        ("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("MODIFIED", "b"),
    ]  # fmt: skip
    versions = [event.entry.version for event in events]
    assert versions == sorted(set(versions))
    assert events[0].previous.obj["spec"] == {"n": 1}
    assert events[2].entry.obj["metadata"]["resourceVersion"] == str(events[2].entry.version)
    assert follower.list("pods") == leader.list("pods")
    assert follower.version == leader.version


async def test_only_who_leads_may_write(zk):
    follower = await zk()
    assert not follower.writable
    with pytest.raises(NotLeading, match="this scheduler does not lead"):
        await follower.commit((A, lambda _: pod()))


async def test_a_new_leader_has_all_and_the_old_one_is_fenced(zk, put, claim, settings_to, one_server, path):
    old = await zk(lead=True)
    new = await zk()
    for i in range(20):
        await put(old, f"p{i}")
    epoch = await claim(settings_to(one_server[0].address, path))
    with pytest.raises(Fenced, match=r"another scheduler leads; epoch 1 is over"):
        await put(old, "late")
    assert isinstance(old.failure, Fenced)
    assert not old.writable
    await new.lead(epoch)
    assert len(new.list("pods")[0]) == 20
    last = await put(new, "mine")
    assert last == 21  # of the refused write nothing is left, not even its version
    with pytest.raises(Fenced):
        await put(old, "later")
    with pytest.raises(Fenced, match="epoch 1 is over, the newest is 2"):
        await (await zk()).lead(1)


async def test_a_write_in_flight_when_another_leads_never_arrives(
    zk, put, proxy, settings_to, one_server, path, claim
):
    old = await zk(lead=True, address=proxy.address)
    await put(old, "before")
    proxy.freeze()
    late = asyncio.ensure_future(put(old, "late"))
    await asyncio.wait([late], timeout=0.1)
    new = await zk(lead=True)
    await put(new, "after")
    proxy.thaw()
    with pytest.raises(Fenced):
        await within(late)
    again = await zk()
    assert [entry.key.name for entry in again.list("pods")[0]] == ["after", "before"]


async def test_a_write_that_was_done_before_it_was_fenced_is_told_so(zk, put, proxy):
    old = await zk(lead=True, address=proxy.address)
    proxy.swallow_answers = True
    done = asyncio.ensure_future(put(old, "done"))
    other = await zk()
    await until(other, 1)
    await zk(lead=True)
    proxy.swallow_answers = False
    proxy.cut()
    assert await within(done) == 1
    with pytest.raises(Fenced):
        await put(old, "more")


WRITER = Path(__file__).with_name("writer.py")


async def test_kill_nine_loses_no_acknowledged_commit(zk, one_server, path):
    for _ in range(2):  # the second round starts from what the first left
        url = f"zk://{one_server[0].address}{path}"
        writer = await asyncio.create_subprocess_exec(
            sys.executable, WRITER, url, stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        try:
            lines = [await within(writer.stdout.readline()) for _ in range(300)]
        finally:
            writer.kill()
        lines += (await writer.stdout.read()).splitlines(keepends=True)
        await writer.wait()
        said = [line.split() for line in lines if line.endswith(b"\n")]
        assert len(said) >= 300
        store = await zk(lead=True)
        for n, name, i, version in said:
            entry = store.get(Key("pods", f"ns{n.decode()}", name.decode()))
            assert entry is not None
            assert entry.obj["spec"]["i"] >= int(i)
            assert entry.version >= int(version)
        # A commit of two is there as a whole or not at all.
        pods, twins = (store.list(resource)[0] for resource in ("pods", "twins"))
        assert [(e.key[1:], e.obj["spec"]) for e in pods] == [(e.key[1:], e.obj["spec"]) for e in twins]


# ---- connections


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_commit_whose_answer_is_lost_is_done_once(zk, put, proxy, arrives):
    store = await zk(lead=True, address=proxy.address)
    follower = await zk()
    watch = follower.watch("pods")
    if arrives:
        proxy.swallow_answers = True
    else:
        proxy.freeze()
    writing = asyncio.ensure_future(store.commit((A, lambda old: pod(first=old is None))))
    if arrives:
        await within(watch.batch())
    else:
        await asyncio.wait([writing], timeout=0.1)
    proxy.swallow_answers = False
    proxy.cut()
    proxy.thaw()
    (entry,) = await within(writing)
    assert entry.obj["spec"] == {"first": True}
    assert await put(store, "next") == entry.version + 1
    await until(follower, entry.version + 1)
    assert follower.list("pods") == store.list("pods")


async def test_without_a_connection_reads_go_on_and_writes_are_unavailable(zk, put, proxy):
    store = await zk(lead=True, address=proxy.address, patience=0.2)
    await put(store, "a")
    watch = store.watch("pods")
    await proxy.refuse()
    with pytest.raises(Unavailable, match="nothing can be written at the moment: waiting for ZooKeeper at"):
        await within(put(store, "b"))
    # From now on at once, and these never were.
    with pytest.raises(Unavailable):
        await store.commit((Key("pods", "default", "c"), lambda _: pod()))
    assert store.failure is None
    assert store.trouble.startswith("waiting for ZooKeeper at")
    assert [entry.key.name for entry in store.list("pods")[0]] == ["a"]
    await proxy.open()
    assert [event.entry.key.name for event in await within(watch.batch())] == ["b"]
    assert store.trouble == ""
    assert await put(store, "d") == 3
    assert [entry.key.name for entry in (await zk()).list("pods")[0]] == ["a", "b", "d"]


async def write_until_refused(store: Any, put: Any) -> None:
    """What is left of an ensemble takes a moment to notice."""
    async with asyncio.timeout(LIMIT):
        while True:
            await put(store, "b", n=store.version)


async def test_quorum_lost_and_found(three_servers, settings_to, path, claim, put):
    settings = settings_to(",".join(server.address for server in three_servers), path)
    store = ZooKeeperStore(settings, patience=0.5)
    await store.open()
    try:
        await store.lead(await claim(settings))
        await put(store, "a")
        for server in three_servers[:2]:
            server.kill()
        with pytest.raises(Unavailable):
            await write_until_refused(store, put)
        assert store.get(A) is not None
        for server in three_servers[:2]:
            server.start()
        await asyncio.to_thread(wait_for, *three_servers)
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    await put(store, "c")
                except Unavailable:
                    await asyncio.sleep(0.05)
                else:
                    break
        other = ZooKeeperStore(settings)
        await other.open()
        assert other.list("pods") == store.list("pods")
        await other.close()
    finally:
        await store.close()


async def test_an_expired_session_is_of_no_account(zk, put, znodes, settings_to, one_server, path):
    store, follower = await zk(lead=True), await zk()
    await put(store, "a")
    for one in (store, follower):
        heir = Session(settings_to(one_server[0].address, path), client_id=one._session.client_id)
        heir.start()
        await within(heir.connected())
        await heir.stop()
    last = await within(put(store, "b"))
    await until(follower, last)
    assert follower.list("pods") == store.list("pods")


async def test_zookeeper_that_is_not_there_yet_is_waited_for(settings_to, path):
    server = Server()
    store = ZooKeeperStore(settings_to(server.address, path))
    opening = asyncio.ensure_future(store.open())
    try:
        async with asyncio.timeout(LIMIT):
            while "Connection refused" not in store.trouble:  # noqa: ASYNC110 - there is nobody to tell us
                await asyncio.sleep(0.01)
        assert store.trouble == f"waiting for ZooKeeper at {server.address}: Connection refused"
        server.start()
        await asyncio.wait_for(opening, 90)
        assert store.trouble == ""
        assert store.list("pods") == ([], 0)
        await store.close()
    finally:
        opening.cancel()
        server.close()


async def test_tls(one_server, settings_to, path, tmp_path, authority, tls_of, claim, put):
    """ZooKeeper's own TLS is for the tests of sessions; this is about large answers over it."""
    proxy = await Proxy(one_server[0].address, tls=authority.server_context("127.0.0.1")).open()
    settings = settings_to(proxy.address, path, tls=tls_of(authority))
    store = ZooKeeperStore(settings)
    try:
        await store.open()
        await store.lead(await claim(settings))
        for i in range(30):
            await put(store, f"p{i}", text="x" * 100_000)
        again = ZooKeeperStore(settings)
        await within(again.open())
        assert again.list("pods") == store.list("pods")
        await again.close()
    finally:
        await store.close()
        await proxy.close()
