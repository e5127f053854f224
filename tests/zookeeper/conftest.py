"""A real ZooKeeper for the tests of sessions."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.zookeeper.location import Location
from shared.zookeeper.session import Session
from shared.zookeeper.settings import ZooKeeperSettings


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_server = _load(Path(__file__).with_name("server.py"))
_authority = _load(Path(__file__).parents[1] / "security" / "authority.py")


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[str]:
    """`host:port` of one server, with SASL for those who ask for it."""
    if _server.needs_zookeeper.args[0]:
        pytest.skip("no ZooKeeper installed")
    jaas = (
        'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_gantry="sasl-secret"; };'
    )
    server = _server.Server(jaas=jaas)
    try:
        server.start()
        _server.wait_for(server)
        yield server.address
    finally:
        server.close()


@pytest.fixture
def servers() -> Any:
    """The module itself."""
    return _server


@pytest.fixture
def authority(tmp_path: Path) -> Any:
    return _authority.Authority(tmp_path)


@pytest.fixture
async def proxy(zookeeper: str) -> AsyncIterator[Any]:
    one = await _server.Proxy(zookeeper).open()
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
