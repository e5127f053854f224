"""What the store tests share: a factory for each implementation of the contract."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from scheduler.store import Key, Store
from scheduler.store.sqlite import SqliteStore

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture(params=["sqlite"])
async def open_it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens a store; a second call, after closing the first, opens the same data again."""
    kinds = {"sqlite": lambda **options: SqliteStore(tmp_path / "store.db", **options)}
    async with AsyncExitStack() as stack:

        async def open_one(**options: int) -> Store:
            store = kinds[request.param](**options)
            await store.open()
            stack.push_async_callback(store.close)
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
