"""Who leads, on a real ZooKeeper: one at a time, each with an epoch of its own, and nobody without knowing it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kazoo.exceptions import NoNodeError

from scheduler.election.messages import Candidate

pytestmark = pytest.mark.xdist_group("election")  # one ZooKeeper is enough


async def test_the_first_leads_and_the_others_know_it(voter: Any) -> None:
    one = voter("one").enter()
    epoch = await one.hears("leads")
    two = voter("two").enter()
    await two.follows_one("one")
    one.candidacy.leave()
    assert await two.hears("leads") == epoch + 1
    await one.follows_one("two")
    await one.candidacy.left()


async def test_who_is_no_candidate_sees_the_leader_all_the_same(voter: Any) -> None:
    onlooker = voter("onlooker")
    assert await onlooker.hears("follows") is None
    voter("one").enter()
    await onlooker.follows_one("one")


async def test_what_is_told_of_a_leader_may_change(voter: Any) -> None:
    one, two = voter("one").enter(), voter("two")
    await two.follows_one("one")
    one.candidacy.enter(Candidate("one", "https://elsewhere:2", "ab"))
    async with asyncio.timeout(60):
        while (await two.told.get())[0] != "follows":
            pass
    assert await one.hears("leads") is not None


async def test_the_oldest_candidate_is_next(voter: Any) -> None:
    one = voter("one").enter()
    await one.hears("leads")
    two = voter("two").enter()
    await two.follows_one("one")
    three = voter("three").enter()
    await three.follows_one("one")
    await one.stop()
    await two.hears("leads")
    await three.follows_one("two")


async def test_an_expired_session_ends_the_leadership(voter: Any) -> None:
    one = voter("one").enter()
    first = await one.hears("leads")
    thief = voter("thief")
    thief.session._client._session_id, thief.session._client._session_passwd = one.session.client_id
    await thief.hears("cut off")
    await thief.stop()  # ends the session that they share
    assert "session" in await one.hears("lost")
    assert await one.hears("leads") == first + 1  # it is still a candidate: the next session, the next epoch


async def test_cut_off_and_back_it_leads_on(voter: Any, proxy: Any) -> None:
    one = voter("one", proxy.address).enter()
    await one.hears("leads")
    await proxy.refuse()
    while not await one.hears("cut off"):
        pass
    await proxy.open()
    assert await one.hears("cut off") is False
    assert one.told.empty()


async def test_cut_off_for_too_long_another_leads(voter: Any, proxy: Any) -> None:
    one = voter("one", proxy.address, 1.0).enter()
    await one.hears("leads")
    two = voter("two").enter()
    await two.follows_one("one")
    await proxy.refuse()
    await two.hears("leads")
    await proxy.open()
    await one.hears("lost")
    await one.follows_one("two")


async def test_an_epoch_that_somebody_raised_is_noticed_on_the_way_back(voter: Any, proxy: Any) -> None:
    one = voter("one", proxy.address).enter()
    epoch = await one.hears("leads")
    other = voter("other")
    await other.follows_one("one")
    await proxy.refuse()
    while not await one.hears("cut off"):
        pass
    await other.session.set(other.session.location.child("epoch"), b"")
    await proxy.open()
    assert str(epoch + 1) in await one.hears("lost")


async def test_a_leader_whose_znode_is_removed_leads_no_more(voter: Any) -> None:
    one, other = voter("one").enter(), voter("other")
    await one.hears("leads")
    await other.follows_one("one")
    directory = one.session.location.child("leader")
    (name,) = await other.session.children(directory)
    await other.session.delete(f"{directory}/{name}")
    assert "removed" in await one.hears("lost")


async def test_the_first_leader_ever_is_seen_whenever_it_comes(
    voter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just after somebody looked for candidates, and found not even their directory."""
    other = voter("other")
    look, first = other.session.children, []

    async def children(path: str, changed: Any = None) -> Any:
        try:
            return await look(path, changed)
        except NoNodeError:
            if not first:
                first.append(voter("one").enter())
                await first[0].hears("leads")
            raise

    monkeypatch.setattr(other.session, "children", children)
    await other.follows_one("one")


async def test_many_candidates_one_leader_at_a_time(voter: Any) -> None:
    voters = [voter(f"v{number}").enter() for number in range(5)]
    epochs = []
    while voters:
        leads = {asyncio.create_task(one.hears("leads")): one for one in voters}
        done, others = await asyncio.wait(leads, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        for task in others:
            task.cancel()
        await asyncio.wait(leads)
        (winner,) = done
        epochs.append(winner.result())
        leads[winner].candidacy.leave()
        voters.remove(leads[winner])
    assert epochs == sorted(set(epochs))
