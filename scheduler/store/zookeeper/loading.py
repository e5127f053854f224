"""Everything from ZooKeeper into memory: the table, then what the log has beyond it.

The table is read while the leader may be writing it, so an object can be newer than the record that is being replayed:
the higher version is the newer one. A deletion that is in the table already is in the log still, or long past.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kazoo.exceptions import NoNodeError

from scheduler.store.base import Entry, Key, StoreError
from scheduler.store.vault import Unreadable, Vault
from scheduler.store.zookeeper import records
from scheduler.store.zookeeper.bulk import BulkReader
from scheduler.store.zookeeper.layout import Paths, decode_folded
from shared.zookeeper.session import Session

LOG = Key("log", "", "")
"""Its resource names a damaged record among the quarantined: whose changes it had, nobody knows."""


@dataclass
class Loaded:
    """`record` is the last one; `unfolded` are the keys that changed after the table was last complete."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    version: int = 0
    record: int = 0
    quarantined: dict[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Read:
    """A record, read. `changes` is None when it is damaged, for the reason `why`."""

    number: int
    last: int
    changes: list[records.Change] | None
    why: str = ""
    size: int = 0


class Gap(Exception):
    """Records that are needed are gone from the log: load again."""


class Loader:
    """Reads the whole store: the table, and what the log has beyond it."""

    def __init__(self, session: Session, paths: Paths, vault: Vault) -> None:
        self._session = session
        self._paths = paths
        self._vault = vault
        self._bulk = BulkReader(session)

    async def load(self) -> Loaded:
        """Raises one of `Lost`, StoreError."""
        while True:
            try:
                return await self._load()
            except Gap:
                continue  # the leader folded and cut its log in the meantime

    async def _load(self) -> Loaded:
        record, version = await self.folded()
        loaded = Loaded(record=record, version=version)
        for resource in sorted(await self._session.children(self._paths.objects)):
            await self._table(resource, loaded)
        for read in await self.records(record):
            replay(read, loaded, self._vault)
        return loaded

    async def folded(self) -> tuple[int, int]:
        """Up to which record and version all is in the table."""
        try:
            data = (await self._session.get(self._paths.folded)).data
        except NoNodeError as error:
            raise StoreError(
                f"store {self._session.location}: parts of it were deleted; restore a backup, or delete the rest"
            ) from error
        return decode_folded(data, self._session.location)

    async def _table(self, resource: str, loaded: Loaded) -> None:
        directory = f"{self._paths.objects}/{resource}"
        paths = [f"{directory}/{name}" for name in await self._session.children(directory)]
        async for chunk, found in self._bulk.read(paths):
            for path, data in zip(chunk, found, strict=True):
                if data is None:
                    continue  # deleted since
                key = records.object_key(resource, path[len(directory) + 1 :])
                try:
                    version, blob = records.decode_object(data)
                    raw = self._vault.open(key, blob)
                except (records.Damaged, Unreadable) as error:
                    loaded.quarantined[key] = str(error)
                    continue
                loaded.entries[key] = Entry(key, None, version, raw)

    async def records(self, after: int) -> list[Read]:
        """The records of the log with higher numbers than `after`, in order. Raises Gap when the first are gone."""
        names = await self._session.children(self._paths.log)
        numbers = sorted(int(name) for name in names if name.isdecimal() and int(name) > after)
        if numbers and numbers != list(range(after + 1, after + 1 + len(numbers))):
            raise Gap
        if not numbers and after and f"{after:020d}" not in names:
            raise StoreError(f"store {self._session.location}: its log was deleted; restore a backup")
        found = await self._bulk.read_all([self._paths.record(number) for number in numbers])
        if None in found:
            raise Gap
        return [await self.read(number, data or b"") for number, data in zip(numbers, found, strict=True)]

    async def read(self, number: int, data: bytes) -> Read:
        """One record, with the parts of its payload that lie beside it."""
        try:
            record = records.decode_record(data)
        except records.Damaged as error:
            return Read(number, 0, None, str(error))
        names = [self._paths.part(number, record.id, index) for index in range(record.parts)]
        parts = [one or b"" for one in await self._bulk.read_all(names)]
        try:
            changes = records.payload_of(record, parts)
        except records.Damaged as error:
            return Read(number, record.last, None, str(error))
        return Read(number, record.last, changes, size=len(data) + sum(map(len, parts)))


def replay(read: Read, loaded: Loaded, vault: Vault) -> None:
    """Raises StoreError when a Secret is encrypted with a key that we don't have."""
    loaded.record = read.number
    loaded.version = max(loaded.version, read.last)
    if read.changes is None:
        loaded.quarantined[LOG._replace(name=str(read.number))] = f"a record of the log is lost: {read.why}"
        return
    for key, version, blob in read.changes:
        present = loaded.entries.get(key)
        if present is not None and present.version >= version:
            continue
        loaded.quarantined.pop(key, None)
        if blob is None:
            loaded.entries.pop(key, None)
            continue
        try:
            loaded.entries[key] = Entry(key, None, version, vault.open(key, blob))
        except Unreadable as error:
            loaded.quarantined[key] = str(error)
