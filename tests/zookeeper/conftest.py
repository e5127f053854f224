"""A real ZooKeeper for the tests of sessions."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.zookeeper.location import Location
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings
from tests.security.authority import Authority
from tests.zookeeper.server import Proxy, Server, running


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[str]:
    """`host:port` of one server, with SASL for those who ask for it."""
    jaas = (
        'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_gantry="sasl-secret"; };'
    )
    with running(Server(jaas=jaas)) as (server,):
        yield server.address


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def proxy(zookeeper: str) -> AsyncIterator[Proxy]:
    one = await Proxy(zookeeper).open()
    yield one
    await one.close()


@pytest.fixture
async def session_to(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[Session]]]:
    """Starts a session to an address, below a path of the test's own; stops it in the end."""
    made: list[Session] = []
    path = "/" + request.node.name.replace("/", "-")

    async def start(
        address: str, *, on_state: Any = lambda state: None, client_id: Any = None, **options: Any
    ):
        settings = ZooKeeperSettings(Location(address, path), **{"session_timeout": 2.0, **options})
        session = Session(settings, on_state=on_state, client_id=client_id)
        made.append(session)
        session.start()
        return session

    yield start
    for session in made:
        await session.stop()
