"""A ZooKeeper store as it is kept, out and in: for backups, which need no key and change nothing.

Going in, the table is written first and the layout last, so a store appears whole or not at all: schedulers refuse a
path that has a table and no layout.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from kazoo.exceptions import KazooException, NoAuthError, NodeExistsError

from scheduler.store.base import Key, StoreError
from scheduler.store.vault import Vault
from scheduler.store.zookeeper import layout, records
from scheduler.store.zookeeper.folding import CHUNK, CHUNK_BYTES
from scheduler.store.zookeeper.loading import Loader
from shared.zookeeper.session import Refused, Session
from shared.zookeeper.settings import ZooKeeperSettings

VISIT = 15.0
"""Seconds within which ZooKeeper must be reached."""

AT_ONCE = 8
"""Requests under way."""

RESTORING = "restoring"


class _Closed(Vault):
    """Opens nothing: objects are the bytes that are kept."""

    def open(self, key: Key, blob: bytes) -> bytes:
        return blob


@dataclass(frozen=True)
class Kept:
    """`objects`: key, version, blob. `damaged`: what could not be read, in words."""

    objects: list[tuple[Key, int, bytes]]
    version: int
    cluster: str
    damaged: tuple[str, ...]


async def read(settings: ZooKeeperSettings) -> Kept:
    """All of it at one moment; schedulers may run on it. Raises StoreError."""
    paths = layout.Paths(settings.location)
    async with _session(settings) as session:
        if await session.exists(paths.layout) is None:
            raise StoreError(
                f"store {settings.location}: there is none; is it the path that the scheduler was given?"
            )
        await session.sync(paths.root)
        cluster = str(orjson.loads((await session.get(paths.cluster)).data).get("id", ""))
        await layout.check(session, paths, cluster)
        loaded = await Loader(session, paths, _Closed()).load()
    objects = [(key, entry.version, entry.raw) for key, entry in sorted(loaded.entries.items())]
    damaged = tuple(f"{key}: {why}" for key, why in sorted(loaded.quarantined.items()))
    return Kept(objects, loaded.version, cluster, damaged)


async def fill(
    settings: ZooKeeperSettings, cluster: str, objects: Iterable[tuple[Key, int, bytes]], version: int
) -> None:
    """Makes the store. Raises StoreError when there is one, or anything else of somebody's."""
    paths = layout.Paths(settings.location)
    lock = settings.location.child(RESTORING)
    async with _session(settings) as session:
        await session.ensure(paths.root)
        try:
            await session.create(lock, ephemeral=True)
        except NodeExistsError as error:
            raise StoreError(f"store {settings.location}: another restore is at work there") from error
        found = set(await session.children(paths.root)) - {layout.EPOCH, layout.LEADER, RESTORING}
        if found - {_name(paths.objects)}:
            raise StoreError(
                f"store {settings.location}: is not empty; a backup is restored into an empty store only"
            )
        await layout.remove(session, paths.objects)  # what is left of a restore that was interrupted
        await session.create(paths.objects)
        try:
            await _table(session, paths, objects)
            await session.multi(
                [
                    session.op_create(paths.layout, orjson.dumps({"layout": layout.LAYOUT})),
                    session.op_create(paths.cluster, orjson.dumps({"id": cluster})),
                    session.op_create(paths.folded, layout.encode_folded(0, version)),
                    *(session.op_create(path) for path in (paths.log, paths.parts)),
                ]
            )
        except BaseException:
            await layout.remove(session, paths.objects)
            raise


async def _table(session: Session, paths: layout.Paths, objects: Iterable[tuple[Key, int, bytes]]) -> None:
    made: set[str] = set()
    writing: set[asyncio.Task[list[Any]]] = set()
    operations: list[Any] = []
    size = 0

    async def send() -> None:
        nonlocal operations, size
        if len(writing) >= AT_ONCE:
            done, _ = await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
            writing.difference_update(done)
            for one in done:
                one.result()
        writing.add(asyncio.create_task(session.multi(operations)))
        operations, size = [], 0

    try:
        for key, version, blob in objects:
            directory = f"{paths.objects}/{key.resource}"
            if key.resource not in made:
                made.add(key.resource)
                await session.create(directory)
            path, data = f"{directory}/{records.object_name(key)}", records.encode_object(version, blob)
            if operations and (len(operations) >= CHUNK or size + len(path) + len(data) > CHUNK_BYTES):
                await send()
            operations.append(session.op_create(path, data))
            size += len(path) + len(data)
        if operations:
            await send()
        for one in writing:
            await one
    finally:
        for one in writing:
            one.cancel()
        if writing:
            await asyncio.wait(writing)


@asynccontextmanager
async def _session(settings: ZooKeeperSettings) -> AsyncIterator[Session]:
    session = Session(settings)
    session.start()
    try:
        async with asyncio.timeout(VISIT):
            await session.connected()
        yield session
    except TimeoutError as error:
        raise StoreError(f"store {settings.location}: {session.trouble or 'no answer'}") from error
    except (NoAuthError, Refused) as error:
        if isinstance(error, Refused) and not isinstance(error.error, NoAuthError):
            raise StoreError(f"store {settings.location}: {error.error!r}") from error
        raise StoreError(
            f"store {settings.location}: our login may not read or write there; "
            "give the one that the store was made with (--zk-digest-file), or choose another path"
        ) from error
    except KazooException as error:
        raise StoreError(f"store {settings.location}: {session.trouble or repr(error)}") from error
    finally:
        await session.stop()


def _name(path: str) -> str:
    return path.rpartition("/")[2]
