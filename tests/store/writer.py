"""Writes into a store, four commits at a time, until it is killed; says on standard output what was acknowledged.

usage: writer.py URL    prints `N NAME I VERSION`: pod NAME of namespace nsN, and its twin, have I since that version
"""

import asyncio
import sys

from scheduler.store import Key, Store, open_store


async def write(store: Store, n: int) -> None:
    i = 0
    while True:
        key = Key("pods", f"ns{n}", f"p{i % 7}")
        obj = {"metadata": {}, "spec": {"i": i}}
        twin = Key("twins", key.namespace, key.name)
        entry, _ = await store.commit((key, lambda _, obj=obj: obj), (twin, lambda _, obj=obj: obj))
        assert entry is not None
        print(n, key.name, i, entry.version, flush=True)
        i += 1


async def main() -> None:
    store = open_store(sys.argv[1])
    await store.open()
    await store.lead_alone()
    await asyncio.gather(*(write(store, n) for n in range(4)))


if __name__ == "__main__":
    asyncio.run(main())
