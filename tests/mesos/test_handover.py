"""The way of records to the callbacks: order, the bound, the time slice, pause."""

import asyncio
from typing import Any

import pytest

from shared.mesos.handover import Handover


class Way:
    """A handover whose clock moves by `cost` with each record."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[bytes] = []
        self.reading: list[bool] = []
        self.now = 0.0
        self.cost = 0.0
        self.then: Any = lambda record: None
        options = {"clock": lambda: self.now, **options}
        self.handover = Handover(self._deliver, self.reading.append, **options)

    def _deliver(self, record: bytes) -> None:
        self.seen.append(record)
        self.now += self.cost
        self.then(record)


async def turn() -> None:
    """One turn of the loop."""
    await asyncio.sleep(0)


async def test_a_record_is_delivered_in_the_same_turn() -> None:
    way = Way()
    way.handover.put([b"a", b"b"])
    assert way.seen == [b"a", b"b"]
    assert not way.handover.holding


async def test_many_at_once_share_the_loop() -> None:
    way = Way(time_slice=0.01)
    way.cost = 0.004
    way.handover.put([b"%d" % n for n in range(6)])
    assert len(way.seen) == 3
    way.handover.put([b"6"])  # what comes meanwhile does not overtake
    assert len(way.seen) == 3
    await turn()
    assert len(way.seen) == 6
    await turn()
    assert way.seen == [b"%d" % n for n in range(7)]


async def test_a_slow_callback_is_one_a_turn() -> None:
    way = Way()
    way.cost = 5.0
    way.handover.put([b"a", b"b", b"c"])
    assert way.seen == [b"a"]
    await turn()
    assert way.seen == [b"a", b"b"]


async def test_reading_stops_at_the_bound_and_begins_at_half_of_it() -> None:
    way = Way(bound=10, time_slice=1.0)
    way.cost = 1.0
    way.handover.put([b"x" * 4] * 4)
    assert (len(way.seen), way.reading, way.handover.holding) == (1, [False], True)
    way.handover.put([b"x" * 4])
    assert way.reading == [False]  # said once
    while len(way.seen) < 3:
        await turn()
    assert way.reading == [False]
    while len(way.seen) < 4:
        await turn()
    assert way.reading == [False, True]
    assert not way.handover.holding
    while len(way.seen) < 5:
        await turn()


async def test_pause_holds_back_and_resume_delivers_in_order() -> None:
    way = Way(bound=3)
    way.handover.pause()
    way.handover.put([b"a", b"b"])
    assert way.handover.holding
    assert way.reading == []
    way.handover.put([b"c", b"d"])
    assert way.reading == [False]
    await turn()
    assert way.seen == []
    way.handover.resume()
    way.handover.resume()
    way.handover.put([b"e"])
    await turn()
    assert way.seen == [b"a", b"b", b"c", b"d", b"e"]
    assert way.reading == [False, True]


async def test_pause_from_within_a_callback() -> None:
    way = Way()

    def then(record: bytes) -> None:
        if record == b"b":
            way.handover.pause()
        if record == b"c":
            way.handover.pause()
            way.handover.resume()

    way.then = then
    way.handover.put([b"a", b"b", b"c", b"d"])
    assert way.seen == [b"a", b"b"]
    way.handover.resume()
    await turn()
    assert way.seen == [b"a", b"b", b"c"]
    await turn()
    assert way.seen == [b"a", b"b", b"c", b"d"]


async def test_the_end_comes_after_the_last_record() -> None:
    way = Way()
    way.cost = 1.0
    ended: list[int] = []
    way.handover.put([b"a", b"b"])
    way.handover.finish(lambda: ended.append(len(way.seen)))
    assert ended == []
    await turn()
    assert ended == [2]
    at_once = Way()
    at_once.handover.finish(lambda: ended.append(0))
    assert ended == [2, 0]


@pytest.mark.parametrize("within", [True, False])
async def test_nothing_is_delivered_after_close(within: bool) -> None:
    way = Way(bound=1, time_slice=1.0)
    way.cost = 1.0
    if within:
        way.then = lambda record: way.handover.close()
    way.handover.put([b"aa", b"bb", b"cc"])
    if not within:
        way.handover.close()
    await turn()
    assert way.seen == [b"aa"]
    assert True not in way.reading
