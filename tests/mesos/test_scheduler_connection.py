"""How the scheduler driver comes to a master, stays there and leaves: redirects, refusals, silence, lost streams."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from shared.mesos.credentials import BasicCredentials
from shared.mesos.scheduler_driver import NotConnected, SchedulerDriver
from tests.mesos.words import FRAMEWORK, OFFER, OFFERS, STATUS, SUBSCRIBED, UPDATE, subscribed

Make = Callable[..., SchedulerDriver]


async def test_a_redirect_is_followed(make: Make, peer: Any, other_peer: Any, scheduler: Any) -> None:
    async def redirect(_: web.Request) -> web.Response:
        location = f"//{other_peer.address}/master/api/v1/scheduler"
        return web.Response(status=307, headers={"Location": location})

    peer.answers.append(redirect)
    one = make(credentials=BasicCredentials("gantry", "secret"))
    await one.start()
    await (await other_peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert one.master == other_peer.address
    one.reviveOffers()
    await other_peer.call()
    # The credentials go to the leader too, with every call.
    assert {headers["Authorization"] for headers in other_peer.headers} == {"Basic Z2FudHJ5OnNlY3JldA=="}
    assert peer.calls.empty()


async def test_redirects_in_a_circle_back_off_and_end_with_the_election(
    make: Make, peer: Any, other_peer: Any, scheduler: Any
) -> None:
    def to(address: str) -> Any:
        async def redirect(_: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"//{address}"})

        return redirect

    peer.answers.extend([to(other_peer.address)] * 6)
    other_peer.answers.extend([to(peer.address)] * 6)
    await make().start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert len(peer.subscribes) == 7


async def test_503_is_tried_again(make: Make, peer: Any, scheduler: Any) -> None:
    async def unavailable(_: web.Request) -> web.Response:
        return web.Response(status=503, text="Master has not finished recovery")

    peer.answers.extend([unavailable, unavailable])
    await make().start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert len(peer.subscribes) == 3
    assert scheduler.nothing()


async def test_the_next_of_several_masters_is_tried(make: Make, peer: Any, scheduler: Any) -> None:
    with_nobody = "127.0.0.1:1"
    await make(master=f"{with_nobody},{peer.address}").start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")


async def test_error_after_200_is_final(make: Make, peer: Any, scheduler: Any) -> None:
    one = make()
    await one.start()
    stream = await peer.stream()
    await stream.send({"type": "ERROR", "error": {"message": "Framework has been removed"}})
    assert await scheduler.next("error") == ("Framework has been removed",)
    assert await asyncio.wait_for(one.join(), 60) == "Framework has been removed"
    assert len(peer.subscribes) == 1
    assert scheduler.nothing()


async def test_the_loser_of_a_takeover_does_not_fight(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    await peer.now.send({"type": "ERROR", "error": {"message": "Framework failed over"}}, OFFERS)
    assert await scheduler.next("error") == ("Framework failed over",)
    await asyncio.wait_for(driver.join(), 60)
    with pytest.raises(NotConnected):
        driver.reviveOffers()
    assert scheduler.nothing()  # neither the offers behind it, nor a reconnection
    assert len(peer.subscribes) == 1


async def test_a_refused_subscription_is_final(make: Make, peer: Any, scheduler: Any) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=400, text="Framework's principal is another")

    peer.answers.append(refuse)
    one = make()
    await one.start()
    (message,) = await scheduler.next("error")
    assert message == f"{peer.address} refused the subscription: HTTP 400: Framework's principal is another"
    assert await asyncio.wait_for(one.join(), 60) == message
    assert one.trouble == message


@pytest.mark.parametrize("status", [401, 403])
async def test_wrong_credentials_are_tried_again_and_told(
    make: Make, peer: Any, scheduler: Any, status: int
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status, text="who?")

    peer.answers.extend([refuse] * 3)
    one = make(credentials=BasicCredentials("gantry", "hunter2"))
    assert one.trouble == "not started"
    await one.start()
    stream = await peer.stream()
    assert one.trouble == f"cannot subscribe to {peer.address}: HTTP {status}: who?"
    await stream.send(SUBSCRIBED)
    await scheduler.next("registered")
    assert one.trouble is None
    assert len(peer.subscribes) == 4
    assert one.failures == {"credentials": 3}
    assert one.events == {"SUBSCRIBED": 1}


async def test_missed_heartbeats_are_a_disconnection(make: Make, peer: Any, scheduler: Any) -> None:
    one = make()
    await one.start()
    await (await peer.stream()).send(subscribed(heartbeat_interval_seconds=0.01))
    await scheduler.next("registered")
    await scheduler.next("disconnected")  # nothing was closed: the connection just fell silent
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("reregistered")
    assert one.failures == {"connection": 1}
    assert one.events == {"SUBSCRIBED": 2}


async def test_a_master_that_never_says_subscribed_is_left(make: Make, peer: Any, scheduler: Any) -> None:
    await make(subscribe_timeout=0.05).start()
    await peer.stream()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")


async def test_a_master_that_never_answers_is_left(make: Make, peer: Any, scheduler: Any) -> None:
    async def silence(_: web.Request) -> web.Response:
        await peer.silence.wait()
        return web.Response()

    peer.silence = asyncio.Event()
    peer.answers.append(silence)
    await make(subscribe_timeout=0.05).start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    peer.silence.set()


async def test_credentials_are_renewed_after_401(make: Make, peer: Any, scheduler: Any) -> None:
    class Renewed:
        token = "old"

        async def authorization(self) -> str:
            return f"token={self.token}"

        async def renew(self, refused: str) -> bool:
            assert refused == "token=old"
            self.token = "new"
            return True

        def renew_in(self) -> float | None:
            return None

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401)

    peer.answers.append(refuse)
    await make(credentials=Renewed()).start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert [headers["Authorization"] for headers in peer.headers] == ["token=old", "token=new"]


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_a_lost_stream_is_subscribed_again(
    driver: SchedulerDriver, peer: Any, scheduler: Any, how: str
) -> None:
    driver.suppressOffers()
    await peer.call()
    getattr(peer.now, how)()
    await scheduler.next("disconnected")
    assert not driver.connected
    stream = await peer.stream()
    assert stream.body["framework_id"] == {"value": "F-0002"}
    assert stream.body["subscribe"]["suppressed_roles"] == ["gantry"]  # or the master would offer again
    await stream.send(SUBSCRIBED)
    await scheduler.next("reregistered")
    driver.reviveOffers()
    await peer.call()
    stream.cut()
    assert "suppressed_roles" not in (await peer.stream()).body["subscribe"]


async def test_a_stream_that_is_not_recordio_is_left(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    await peer.now.raw(b"<html>a proxy's error page</html>")
    await scheduler.next("disconnected")
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("reregistered")


async def test_unanswered_calls_lost_are_a_disconnection(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    """Nobody knows whether the call arrived: only a registration and a reconciliation can tell."""
    peer.hold = asyncio.Event()
    driver.declineOffer("O5")
    await peer.call()
    peer.drop_call_connections()
    await scheduler.next("disconnected")
    peer.hold.set()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("reregistered")


async def test_an_idle_call_connection_may_be_closed_by_the_peer(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    driver.reviveOffers()
    await peer.call()
    assert driver._subscription is not None
    await driver._subscription.drain()
    connection = driver._subscription._calls
    assert connection is not None
    lost = asyncio.Event()
    connection.on_lost = lambda _: lost.set()
    peer.drop_call_connections()
    await asyncio.wait_for(lost.wait(), 60)
    driver.declineOffer("O5")
    driver.reviveOffers()
    assert [(await peer.call())["type"] for _ in range(2)] == ["DECLINE", "REVIVE"]
    assert driver.connected
    assert scheduler.nothing()


async def test_a_refused_call_is_told(driver: SchedulerDriver, peer: Any, scheduler: Any) -> None:
    peer.refusals.append(("KILL", 400, "Failed to validate scheduler::Call: Expecting 'kill.task_id'"))
    driver.killTask("t.1")
    call, status, text = await scheduler.next("callRefused")
    assert (call["type"], status) == ("KILL", 400)
    assert text.startswith("Failed to validate")
    assert driver.connected
    with pytest.raises(TypeError):
        driver.sendFrameworkMessage("e", "a", b"not JSON")  # type: ignore[arg-type]
    peer.refusals.append(("DECLINE", 403, "Framework is not subscribed"))
    driver.declineOffer("O5")
    await scheduler.next("callRefused")
    await scheduler.next("disconnected")


async def test_a_callback_that_raises_ends_the_driver(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("engine")

    scheduler.then["resourceOffers"] = fail
    await peer.now.send(OFFERS, OFFERS)
    await scheduler.next("resourceOffers")
    (message,) = await scheduler.next("error")
    assert message == "handling an event of type OFFERS failed: KeyError('engine')"
    assert await asyncio.wait_for(driver.join(), 60) == message


async def test_stop_waits_for_calls_and_tears_nothing_down(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    peer.hold = asyncio.Event()
    driver.declineOffer("O5")
    stopping = asyncio.create_task(driver.stop(timeout=10))
    assert (await peer.call())["type"] == "DECLINE"
    assert not stopping.done()
    peer.hold.set()
    await asyncio.wait_for(stopping, 60)
    assert not driver.connected
    assert peer.calls.empty()
    assert scheduler.nothing()


async def test_implicit_acknowledgement_when_asked_for(make: Make, peer: Any, scheduler: Any) -> None:
    await make(implicit_acknowledgements=True).start()
    await (await peer.stream()).send(SUBSCRIBED, UPDATE)
    assert (await peer.call())["acknowledge"]["uuid"] == STATUS["uuid"]


async def test_an_offers_event_of_many_agents(driver: SchedulerDriver, peer: Any, scheduler: Any) -> None:
    """Linear: some 6 MB in chunks of 64 KB."""
    offers = [{**OFFER, "id": {"value": f"O{n}"}, "padding": "x" * 1000} for n in range(5000)]
    await peer.now.send({"type": "OFFERS", "offers": {"offers": offers}})
    assert await scheduler.next("resourceOffers") == (offers,)


def test_options_that_cannot_work_are_refused(scheduler: Any) -> None:
    with pytest.raises(ValueError, match="set failover_timeout"):
        SchedulerDriver(scheduler, {"user": "root", "name": "x"}, "h:1")
    for master in (
        "",
        "ftp://h:1",
        "http://u:hunter2@h:1",
        "zk://h:1",
        "zk://h:1/",
        "zk://user@h:1/mesos",
        ":5050",
        "h:port",
    ):
        with pytest.raises(ValueError, match=r"expecting|not an address|must be user:password"):
            SchedulerDriver(scheduler, FRAMEWORK, master)
    with pytest.raises(ValueError) as info:
        SchedulerDriver(scheduler, FRAMEWORK, "zk://user:hunter2@h:1")
    assert "hunter2" not in str(info.value)
