"""Stores under faults drawn at random: connections cut, frozen, answers lost, leaders replaced while they write.

Whatever happens, what was acknowledged is there, what was refused for good is not, each write is there once, and all
stores agree in the end.
"""

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.store import Entry, Fenced, Key, StoreFailed, Unavailable
from scheduler.store.zookeeper import ZooKeeperStore

COUNTER = Key("counters", "", "total")

ACTIONS = ["write", "write", "write", "burst", "cut", "swallow", "freeze", "flow", "takeover", "fold", "turn"]


class Scenario:
    """Stores, each behind a proxy; the last leads. A write appends its number to one object, and makes another."""

    def __init__(self, kit: Any, address: str, root: str) -> None:
        self.kit, self.address, self.root = kit, address, root
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.next = 0
        self.writes: list[asyncio.Task[None]] = []
        self.members: list[tuple[Any, ZooKeeperStore]] = []

    async def member(self) -> None:
        proxy = await self.kit.Proxy(self.address).open()
        store = ZooKeeperStore(self.kit.settings_to(proxy.address, self.root), patience=0.15)
        await store.open()
        self.members.append((proxy, store))

    async def lead(self) -> None:
        """The last of the members leads from now on."""
        await self.members[-1][1].lead(await self.kit.claim(self.kit.settings_to(self.address, self.root)))

    async def write(self, store: ZooKeeperStore) -> None:
        number, self.next = self.next, self.next + 1

        def append(old: Entry | None) -> dict[str, Any]:
            return {"metadata": {}, "seen": [*(old.obj["seen"] if old else []), number]}

        try:
            await store.commit((COUNTER, append), (Key("own", "", str(number)), lambda _: {"number": number}))
        except Fenced:
            self.refused.add(number)
        except (Unavailable, StoreFailed):
            pass  # nobody knows
        else:
            self.acknowledged.add(number)

    async def act(self, action: str) -> None:
        proxy, store = self.members[-1]
        match action:
            case "write" | "burst":
                count = 1 if action == "write" else 7
                self.writes += [asyncio.create_task(self.write(store)) for _ in range(count)]
            case "cut":
                proxy.cut()
            case "swallow":
                proxy.swallow_answers = True
            case "freeze":
                proxy.freeze()
            case "flow":
                self.heal(proxy)
            case "takeover":
                await self.member()
                await self.lead()
            case "fold" if store._folder is not None:
                store._folder._full.set()
                store._folder._wake.set()
        await asyncio.sleep(0.003)

    def heal(self, proxy: Any) -> None:
        if proxy.swallow_answers:
            proxy.swallow_answers = False
            proxy.cut()
        proxy.thaw()

    async def check(self) -> None:
        for proxy, _ in self.members:
            self.heal(proxy)
        async with asyncio.timeout(90):
            await asyncio.gather(*self.writes)
            while True:
                before = set(self.acknowledged)
                await self.write(self.members[-1][1])
                if self.acknowledged != before:
                    break
                await asyncio.sleep(0.01)
        leader = self.members[-1][1]
        seen = leader.get(COUNTER).obj["seen"]
        own = {int(entry.key.name) for entry in leader.list("own")[0]}
        assert len(seen) == len(set(seen))
        assert set(seen) == own
        assert self.acknowledged <= own
        assert not self.refused & own
        fresh = ZooKeeperStore(self.kit.settings_to(self.address, self.root))
        await fresh.open()
        assert (fresh.list("own"), fresh.get(COUNTER)) == (leader.list("own"), leader.get(COUNTER))
        await fresh.close()

    async def close(self) -> None:
        for proxy, store in self.members:
            self.heal(proxy)
            await store.close()
            await proxy.close()


async def play(kit: Any, address: str, root: str, actions: list[str]) -> None:
    scenario = Scenario(kit, address, root)
    try:
        await scenario.member()
        await scenario.lead()
        for action in actions:
            await scenario.act(action)
        await scenario.check()
    finally:
        await scenario.close()


def test_whatever_happens_to_connections_and_leaders(one_server, kit, new_path):
    @given(st.lists(st.sampled_from(ACTIONS), min_size=3, max_size=14))
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(actions: list[str]) -> None:
        asyncio.run(play(kit, one_server[0].address, new_path(), actions))

    check()
