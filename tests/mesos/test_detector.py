"""Where the master is: lists of addresses, and a real ZooKeeper."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from shared.mesos.detector import AddressList, ZooKeeperMasters, masters_of
from shared.mesos.http import Endpoint
from shared.mesos.scheduler_driver import SchedulerDriver
from tests.zookeeper.server import Server, running


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("10.0.0.1:5051", "10.0.0.1", 5051, None),
        ("leader.mesos", "leader.mesos", 5050, None),
        ("//127.0.0.1:6050/master/api/v1/scheduler", "127.0.0.1", 6050, None),
        ("http://h:80/x", "h", 80, False),
        ("https://h", "h", 5050, True),
        ("[::1]:5050", "::1", 5050, None),
    ],
)
def test_addresses(text: str, host: str, port: int, tls: bool | None) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port, tls)
    assert Endpoint.parse(str(Endpoint(host, port))) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text", ["", ":5050", "h:port", "ftp://h:1", "//user:hunter2@h:1", "h:99999", "/path"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address") as info:
        Endpoint.parse(text)
    assert "hunter2" not in str(info.value)


async def test_a_list_goes_round_and_takes_hints() -> None:
    masters = masters_of("a:1, b:2")
    assert isinstance(masters, AddressList)
    assert str(await masters.endpoint()) == "a:1"
    masters.redirected(Endpoint("c", 3))
    assert str(await masters.endpoint()) == "c:3"
    masters.failed()
    assert str(await masters.endpoint()) == "b:2"
    masters.failed()
    assert str(await masters.endpoint()) == "a:1"


# ---- ZooKeeper


@pytest.fixture(scope="module")
def zookeeper() -> Iterator[str]:
    """`host:port` of a ZooKeeper of our own; starting the JVM takes a second or two."""
    with running(Server(memory=64)) as (server,):
        yield server.address


class Znodes:
    """Masters' znodes as they write them, below a path of the test's own."""

    def __init__(self, address: str, path: str) -> None:
        self.client = KazooClient(address)
        self.client.start()
        self.path = path
        self.url = f"zk://{address}{path}"

    def master(self, ip: str, port: int) -> str:
        """Register a master; the znode."""
        info = {
            "address": {"hostname": "localhost", "ip": ip, "port": port},
            "ip": 16777343,
            "version": "1.12.0",
        }
        data = json.dumps(info).encode()
        return str(self.client.create(f"{self.path}/json.info_", data, sequence=True, makepath=True))

    def remove(self, znode: str) -> None:
        self.client.delete(znode)


@pytest.fixture
def znodes(zookeeper: str, request: pytest.FixtureRequest) -> Iterator[Znodes]:
    nodes = Znodes(zookeeper, f"/{request.node.name}")
    yield nodes
    nodes.client.stop()
    nodes.client.close()


@pytest.fixture
async def masters(znodes: Znodes) -> AsyncIterator[ZooKeeperMasters]:
    one = ZooKeeperMasters(znodes.url, retry=0.05)
    yield one
    await one.stop()


def changes(masters: ZooKeeperMasters) -> asyncio.Queue[None]:
    queue: asyncio.Queue[None] = asyncio.Queue()
    masters.on_change = lambda: queue.put_nowait(None)
    return queue


async def leader(masters: ZooKeeperMasters) -> str:
    return str(await asyncio.wait_for(masters.endpoint(), 60))


async def test_row_17_the_lowest_sequence_leads(znodes: Znodes, masters: ZooKeeperMasters) -> None:
    znodes.client.ensure_path(f"{znodes.path}/log_replicas")
    first = znodes.master("127.0.0.1", 6050)
    znodes.master("127.0.0.1", 6051)
    changed = changes(masters)
    await masters.start()
    assert await leader(masters) == "127.0.0.1:6050"
    await changed.get()
    await asyncio.to_thread(znodes.remove, first)
    await asyncio.wait_for(changed.get(), 60)
    assert await leader(masters) == "127.0.0.1:6051"


async def test_a_path_that_is_not_there_yet_is_waited_for(znodes: Znodes, masters: ZooKeeperMasters) -> None:
    await masters.start()
    asked = asyncio.create_task(masters.endpoint())
    await asyncio.wait((asked,), timeout=0.3)
    assert not asked.done()
    await asyncio.to_thread(znodes.master, "127.0.0.1", 6050)
    assert str(await asyncio.wait_for(asked, 60)) == "127.0.0.1:6050"


async def test_no_master_then_another(znodes: Znodes, masters: ZooKeeperMasters) -> None:
    first = znodes.master("127.0.0.1", 6050)
    changed = changes(masters)
    await masters.start()
    await leader(masters)
    await changed.get()
    await asyncio.to_thread(znodes.remove, first)
    await asyncio.wait_for(changed.get(), 60)
    asked = asyncio.create_task(masters.endpoint())
    await asyncio.wait((asked,), timeout=0.1)
    assert not asked.done()
    await asyncio.to_thread(znodes.master, "127.0.0.1", 6052)
    assert str(await asyncio.wait_for(asked, 60)) == "127.0.0.1:6052"


def _expire(client: KazooClient, address: str) -> None:
    """End a session from outside: whoever closes a session with its id and password ends it for all."""
    thief = KazooClient(address, client_id=client.client_id)
    thief.start()
    thief.stop()
    thief.close()


async def test_row_17_an_expired_session_is_opened_again(
    zookeeper: str, znodes: Znodes, masters: ZooKeeperMasters
) -> None:
    first = znodes.master("127.0.0.1", 6050)
    znodes.master("127.0.0.1", 6051)
    changed = changes(masters)
    await masters.start()
    await leader(masters)
    await changed.get()
    assert masters._detector is not None
    states: list[str] = []
    masters._detector.zk.add_listener(states.append)
    await asyncio.to_thread(_expire, masters._detector.zk, zookeeper)
    await asyncio.to_thread(znodes.remove, first)
    await asyncio.wait_for(changed.get(), 90)
    assert await leader(masters) == "127.0.0.1:6051"
    assert KazooState.LOST in states


async def test_row_17_the_driver_follows_the_leader(
    znodes: Znodes, peer: Any, other_peer: Any, scheduler: Any
) -> None:
    subscribed = {"type": "SUBSCRIBED", "subscribed": {"framework_id": {"value": "F"}, "master_info": {}}}
    first = znodes.master("127.0.0.1", peer.port)
    znodes.master("127.0.0.1", other_peer.port)
    framework = {"user": "root", "name": "gantry", "failover_timeout": 1.0}
    driver = SchedulerDriver(scheduler, framework, znodes.url, backoff=(0.005, 0.02))
    await driver.start()
    try:
        await (await peer.stream()).send(subscribed)
        await scheduler.next("registered")
        await asyncio.to_thread(znodes.remove, first)
        await scheduler.next("disconnected")
        await (await other_peer.stream()).send(subscribed)
        await scheduler.next("reregistered")
        assert driver.master == other_peer.address
    finally:
        await driver.stop()


async def test_credentials_are_shown_to_zookeeper_and_to_nobody_else(
    zookeeper: str, znodes: Znodes, caplog: pytest.LogCaptureFixture
) -> None:
    znodes.master("127.0.0.1", 6050)
    (child,) = znodes.client.get_children(znodes.path)
    znodes.client.set_acls(f"{znodes.path}/{child}", [make_digest_acl("mesos", "hunter2", read=True)])
    with pytest.raises(KazooException):
        znodes.client.get(f"{znodes.path}/{child}")
    masters = ZooKeeperMasters(f"zk://mesos:hunter2@{zookeeper},{zookeeper}{znodes.path}")
    caplog.set_level(1, logger="kazoo")
    await masters.start()
    try:
        assert await leader(masters) == "127.0.0.1:6050"
    finally:
        await masters.stop()
    assert "Auth(…)" in caplog.text  # kazoo did log it
    assert "hunter2" not in caplog.text + str(masters) + repr(masters)


async def test_a_path_that_may_not_be_read_is_tried_again(znodes: Znodes, masters: ZooKeeperMasters) -> None:
    znodes.master("127.0.0.1", 6050)
    znodes.client.add_auth("digest", "mesos:secret")
    znodes.client.set_acls(znodes.path, [make_digest_acl("mesos", "secret", all=True)])
    await masters.start()
    asked = asyncio.create_task(masters.endpoint())
    await asyncio.wait((asked,), timeout=0.3)
    assert not asked.done()
    await asyncio.to_thread(znodes.client.set_acls, znodes.path, OPEN_ACL_UNSAFE)
    assert str(await asyncio.wait_for(asked, 60)) == "127.0.0.1:6050"


async def test_stopping_while_zookeeper_is_away() -> None:
    masters = ZooKeeperMasters("zk://127.0.0.1:1/mesos")
    await masters.start()
    await asyncio.wait_for(masters.stop(), 60)
