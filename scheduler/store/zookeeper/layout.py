"""Where what is below the root, whose it is, and which version of the layout.

<root>/layout      {"layout": 1}
<root>/cluster     {"id": …}          whose state this is
<root>/epoch       its znode version is the epoch: every write checks it, every new leader raises it
<root>/leader/     the candidates (scheduler.election)
<root>/log/        one record a commit batch, numbered without a gap
<root>/parts/      payloads of records that are too large for one request
<root>/objects/    <resource>/<namespace>:<name>: the table, written behind the log
<root>/folded      {"record": …, "version": …}: up to which record everything is in the table
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from kazoo.exceptions import NoAuthError, NodeExistsError, NoNodeError, NotEmptyError

from scheduler.store.base import StoreError
from shared.zookeeper.location import Location
from shared.zookeeper.session import Refused, Session

LAYOUT = 1
"""A newer one is refused, an older one would be migrated here."""

AT_ONCE = 200
"""Znodes that are removed at a time."""

EPOCH = "epoch"
LEADER = "leader"


class Paths:
    """The paths below a root."""

    def __init__(self, location: Location) -> None:
        self.root = location.path
        self.layout, self.cluster = location.child("layout"), location.child("cluster")
        self.epoch, self.folded = location.child(EPOCH), location.child("folded")
        self.log, self.parts, self.objects = (location.child(one) for one in ("log", "parts", "objects"))

    def record(self, number: int) -> str:
        return f"{self.log}/{number:020d}"

    def part(self, number: int, batch: bytes, index: int) -> str:
        return f"{self.parts}/{number:020d}-{batch.hex()}-{index}"


async def check(session: Session, paths: Paths, cluster: str) -> None:
    """Makes the layout where there is nothing yet. StoreError when it is not ours, not this layout, or not readable."""
    store = str(session.location)
    try:
        await session.ensure(paths.root)
        if await session.exists(paths.layout) is None:
            await _create(session, paths, cluster, store)
        found = _json((await session.get(paths.layout)).data).get("layout")
        owner = _json((await session.get(paths.cluster)).data).get("id")
        await session.ensure(paths.epoch)
    except NoAuthError as error:
        raise StoreError(
            f"store {store}: our login may not read or write there; "
            "give the one that the store was made with, or choose another path"
        ) from error
    except NoNodeError as error:
        raise StoreError(
            f"store {store}: parts of it were deleted; restore a backup, or delete the rest"
        ) from error
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise StoreError(
            f"store {store}: {paths.layout} does not say which layout this is; it is not touched"
        )
    if found > LAYOUT:
        raise StoreError(
            f"store {store}: has layout {found}, this version of gantry knows up to {LAYOUT}; "
            "run the gantry that wrote it, or a newer one"
        )
    if owner != cluster:
        raise StoreError(
            f"store {store}: belongs to cluster {owner!r}, this is {cluster!r}; "
            "choose another path, or the same --cluster-id"
        )


async def _create(session: Session, paths: Paths, cluster: str, store: str) -> None:
    others = set(await session.children(paths.root)) - {EPOCH, LEADER}
    if others:
        if await session.exists(paths.layout) is not None:
            return  # another one of us was quicker
        raise StoreError(
            f"store {store}: there are znodes of another program ({', '.join(sorted(others)[:3])}); choose another path"
        )
    try:
        await session.multi(
            [
                session.op_create(paths.layout, orjson.dumps({"layout": LAYOUT})),
                session.op_create(paths.cluster, orjson.dumps({"id": cluster})),
                session.op_create(paths.folded, encode_folded(0, 0)),
                *(session.op_create(path) for path in (paths.log, paths.parts, paths.objects)),
            ]
        )
    except Refused as refused:
        if not isinstance(refused.error, NodeExistsError):
            raise refused.error from refused


def encode_folded(record: int, version: int) -> bytes:
    return orjson.dumps({"record": record, "version": version})


def decode_folded(data: bytes, location: object) -> tuple[int, int]:
    """Raises StoreError."""
    found = _json(data)
    record, version = found.get("record"), found.get("version")
    if not isinstance(record, int) or not isinstance(version, int):
        raise StoreError(f"store {location}: the znode folded is damaged; restore a backup")
    return record, version


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


async def remove(session: Session, path: str) -> None:
    """`path` and all below it."""
    while True:
        try:
            names = await session.children(path)
            for at in range(0, len(names), AT_ONCE):
                chunk = names[at : at + AT_ONCE]
                await asyncio.gather(*(remove(session, f"{path}/{name}") for name in chunk))
            await session.delete(path)
        except NoNodeError:
            return
        except NotEmptyError:
            continue  # somebody made something in between
        return
