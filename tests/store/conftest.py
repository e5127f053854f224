"""What the store tests share: a factory for each implementation of the contract, and real ZooKeepers."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from scheduler.store import Key, Store
from scheduler.store.sqlite import SqliteStore
from scheduler.store.zookeeper import ZooKeeperStore
from shared.security.tls import client_context
from shared.zookeeper.location import Location
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings
from tests.security.authority import Authority
from tests.zookeeper.server import Proxy, Server, ensemble, running

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture(scope="session")
def one_server() -> Iterator[tuple[Server, ...]]:
    with running(Server(memory=192)) as servers:
        yield servers


@pytest.fixture(scope="session")
def three_servers() -> Iterator[tuple[Server, ...]]:
    """An ensemble."""
    with running(*ensemble()) as servers:
        yield servers


def _settings(address: str, path: str, **options: Any) -> ZooKeeperSettings:
    return ZooKeeperSettings(Location(address, path), **{"session_timeout": 4.0, **options})


async def _claim(settings: ZooKeeperSettings) -> int:
    session = Session(settings)
    session.start()
    try:
        return (await session.set(f"{settings.location.path}/epoch", b"")).version
    finally:
        await session.stop()


@pytest.fixture
def settings_to() -> Callable[..., ZooKeeperSettings]:
    """Settings for an address and a path."""
    return _settings


@pytest.fixture
def claim() -> Callable[[ZooKeeperSettings], Awaitable[int]]:
    """Raises the epoch, as the election does, and returns it."""
    return _claim


@pytest.fixture
def kit() -> SimpleNamespace:
    """What a scenario needs that makes its own loop."""
    return SimpleNamespace(Proxy=Proxy, settings_to=_settings, claim=_claim)


@pytest.fixture
def new_path() -> Callable[[], str]:
    """A root that nobody has, at each call."""
    return lambda: f"/test-{uuid4().hex}"


@pytest.fixture
def path() -> str:
    """A root of the test's own."""
    return f"/test-{uuid4().hex}"


@pytest.fixture
async def zk(
    one_server: tuple[Server, ...], path: str
) -> AsyncIterator[Callable[..., Awaitable[ZooKeeperStore]]]:
    """Opens a store on the one server, that follows; with `lead=True` one that leads."""
    async with AsyncExitStack() as stack:

        async def open_one(
            *, lead: bool = False, address: str = one_server[0].address, access: Any = None, **options: Any
        ) -> ZooKeeperStore:
            settings = _settings(address, path, **(access or {}))
            store = ZooKeeperStore(settings, **options)
            await store.open()
            stack.push_async_callback(store.close)
            if lead:
                await store.lead(await _claim(_settings(one_server[0].address, path, **(access or {}))))
            return store

        yield open_one


@pytest.fixture
async def znodes(one_server, path, settings_to):
    """A session below the test's root, without any login."""
    session = Session(settings_to(one_server[0].address, path))
    session.start()
    yield session
    await session.stop()


@pytest.fixture
async def proxy(one_server):
    one = await Proxy(one_server[0].address).open()
    yield one
    await one.close()


@pytest.fixture(params=["sqlite", "zookeeper", "ensemble"])
async def open_it(request: pytest.FixtureRequest, tmp_path: Path, path: str) -> AsyncIterator[OpenStore]:
    """Opens a store that leads; a second call, after closing the first, opens the same data again."""
    kinds: dict[str, Callable[..., Store]] = {
        "sqlite": lambda **options: SqliteStore(tmp_path / "store.db", **options),
        "zookeeper": lambda **options: ZooKeeperStore(settings, **options),
        "ensemble": lambda **options: ZooKeeperStore(settings, **options),
    }
    if request.param != "sqlite":
        name = {"zookeeper": "one_server", "ensemble": "three_servers"}[request.param]
        servers = request.getfixturevalue(name)
        settings = _settings(",".join(server.address for server in servers), path)
    async with AsyncExitStack() as stack:

        async def open_one(**options: int) -> Store:
            store = kinds[request.param](**options)
            await store.open()
            stack.push_async_callback(store.close)
            await store.lead(0 if request.param == "sqlite" else await _claim(settings))
            return store

        yield open_one


@pytest.fixture
async def store(open_it: OpenStore) -> Store:
    return await open_it()


@pytest.fixture
def put() -> Callable[..., Awaitable[int]]:
    """Writes one small object unconditionally and returns its version."""

    async def write(
        store: Store, name: str, namespace: str = "default", resource: str = "pods", **spec: object
    ) -> int:
        obj = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
        (entry,) = await store.commit((Key(resource, namespace, name), lambda _: obj))
        assert entry is not None
        return entry.version

    return write


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Issues certificates."""
    return Authority(tmp_path)


@pytest.fixture
def tls_of() -> Callable[[Any], ssl.SSLContext]:
    """What trusts an authority."""
    return lambda authority: client_context(ca_file=authority.ca_file)
