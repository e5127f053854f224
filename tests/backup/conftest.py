"""A real ZooKeeper for the tests of this folder, and what they write into stores."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from scheduler.store import Key, Store, open_store
from shared.security.atrest import KeyRing
from shared.zookeeper.session import Session
from shared.zookeeper.settings import settings_from
from tests.zookeeper.server import Server, running

RING = KeyRing([b"k" * 32])


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[str]:
    """Its address."""
    with running(Server(memory=128)) as (server,):
        yield server.address


@pytest.fixture(params=["sqlite", "zookeeper"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Where there is no store yet, of either kind."""

    def make() -> str:
        if request.param == "sqlite":
            return f"sqlite:{tmp_path}/{uuid4().hex}.db"
        return f"zk://{request.getfixturevalue('zookeeper')}/{uuid4().hex}"

    return make


@asynccontextmanager
async def _leading(url: str, ring: KeyRing | None = RING) -> AsyncIterator[Store]:
    store = open_store(url, ring=ring)
    await store.open()
    try:
        epoch = 0
        if url.startswith("zk://"):
            session = Session(settings_from(url))
            session.start()
            epoch = (await session.set(f"{settings_from(url).location.path}/epoch", b"")).version
            await session.stop()
        await store.lead(epoch)
        yield store
    finally:
        await store.close()


@pytest.fixture
def leading() -> Any:
    """Opens a store that can be written; its Secrets are encrypted."""
    return _leading


@pytest.fixture
def fill() -> Any:
    """Writes some objects of every kind into a store."""

    async def write(store: Store, count: int = 300) -> None:
        for number in range(count):
            key = Key(("pods", "secrets", "configmaps")[number % 3], f"ns-{number % 7}", f"name-{number}")
            obj = {
                "metadata": {"name": key.name, "namespace": key.namespace},
                "text": "grüße\n\t" * (number % 40),
            }
            await store.commit((key, lambda old, obj=obj: obj))
        await store.commit((Key("pods", "ns-0", "name-0"), lambda old: None))
        await store.commit((Key("meta.gantry.io", "", "framework"), lambda old: {"frameworkId": "f-1"}))

    return write


@pytest.fixture
def content() -> Any:
    """All that is in an open store, to be compared."""

    def all_of(store: Store) -> dict[Key, tuple[int, bytes]]:
        resources = ("pods", "secrets", "configmaps", "meta.gantry.io")
        return {one.key: (one.version, one.raw) for name in resources for one in store.list(name)[0]}

    return all_of
