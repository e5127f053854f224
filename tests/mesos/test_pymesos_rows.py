"""What pymesos 0.3.15 lacks for production, one test for each of the seventeen points, in their known order.

Each shows our answer in the small; the files named with it have the rest. Row 17 needs a real ZooKeeper and is in
test_detector.py.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import http_parser
import pytest
from aiohttp import web

from shared.mesos.backoff import Backoff
from shared.mesos.recordio import Decoder
from shared.mesos.scheduler_driver import NotConnected, SchedulerDriver
from shared.security.dcos import DcosLogin, ServiceAccount
from shared.security.tls import client_context
from tests.mesos.words import EXECUTOR_SUBSCRIBED, FRAMEWORK, SUBSCRIBED, subscribed

OFFERS = {"type": "OFFERS", "offers": {"offers": [{"id": {"value": "O1"}}]}}
TASK = {"task_id": {"value": "t.1"}, "name": "t"}

Make = Callable[..., Any]


def test_row_01_pymesos_has_an_http_parser_that_needs_no_compiler() -> None:
    """See test_http_parser.py, and test_stock_drivers.py for the stock drivers on it."""
    assert any(one.startswith("http-parser") for one in distribution("pymesos").requires or ())
    assert distribution("http-parser").version == "0.9.1"
    (directory,) = http_parser.__path__
    assert not [path.name for path in Path(directory).iterdir() if path.suffix in (".so", ".c", ".pyx")]


async def test_row_02_tls(make: Make, secure_peer: Any, authority: Any, scheduler: Any) -> None:
    """See test_tls_wire.py."""
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    await make(secure_peer.address, tls=client_context(ca_file=authority.ca_file)).start()
    await (await secure_peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")


async def test_row_03_a_dcos_service_account(make: Make, iam: Any, peer: Any, scheduler: Any) -> None:
    """See test_credentials.py."""
    account = ServiceAccount.parse(iam.secret(), "secret")
    await make(credentials=DcosLogin(account, clock=iam.clock)).start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert [headers["Authorization"] for headers in peer.headers] == [f"token={iam.tokens[0]}"]


async def test_row_04_five_missed_heartbeats_are_a_disconnection(
    make: Make, peer: Any, scheduler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await make().start()
    await (await peer.stream()).send(subscribed(heartbeat_interval_seconds=0.01))
    await scheduler.next("registered")
    await scheduler.next("disconnected")
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("reregistered")
    assert "nothing heard for 0.05 s (5 heartbeats)" in caplog.text


@pytest.mark.timeout(30)
def test_row_05_a_large_event_costs_what_its_size_costs() -> None:
    """48 MB by 4 KB. Slicing one bytes object would copy some 280 GB, which takes longer than the limit."""
    decoder, chunk = Decoder(), b"x" * 4096
    assert decoder.feed(b"%d\n" % (12288 * len(chunk))) == []
    for _ in range(12287):
        assert not decoder.feed(chunk)
    (record,) = decoder.feed(chunk)
    assert len(record) == 12288 * len(chunk)


async def test_row_06_what_the_scheduler_cannot_take_yet_waits_for_it(
    make: Make, peer: Any, scheduler: Any
) -> None:
    """Neither the loop nor the connection suffer meanwhile. See test_handover.py for the bound."""
    driver = make()
    await driver.start()
    stream = await peer.stream()
    await stream.send(subscribed(heartbeat_interval_seconds=0.1))
    await scheduler.next("registered")
    driver.pauseEvents()
    await stream.send(OFFERS, {"type": "RESCIND", "rescind": {"offer_id": {"value": "O1"}}}, OFFERS)
    loop = asyncio.get_running_loop()
    enough = loop.time() + 0.75  # longer than silence would be taken for a disconnection
    while loop.time() < enough:
        driver.declineOffer("O0")
        await peer.call()
    assert scheduler.nothing()
    assert driver.connected
    driver.resumeEvents()
    for name in ("resourceOffers", "offerRescinded", "resourceOffers"):
        await scheduler.next(name)


async def test_row_06_many_events_do_not_hold_up_the_loop(
    driver: SchedulerDriver, peer: Any, scheduler: Any
) -> None:
    """Callbacks that take longer than a time slice each let everybody else run in between."""
    turns: list[int] = []
    spent = 0.0
    subscription = driver._subscription
    assert subscription is not None
    subscription._handover._clock = lambda: spent

    def slow(*_: Any) -> None:
        nonlocal spent
        spent += 1.0
        turns.append(0)
        asyncio.get_running_loop().call_soon(turns.append, 1)

    scheduler.then["resourceOffers"] = slow
    await peer.now.send(*[OFFERS] * 5)
    for _ in range(5):
        await scheduler.next("resourceOffers")
    assert turns[:9] == [0, 1, 0, 1, 0, 1, 0, 1, 0]


async def test_row_07_calls_while_disconnected_fail_loudly(make: Make) -> None:
    driver = make()
    for call in (
        lambda: driver.acceptOffers("O1", [{"type": "LAUNCH"}]),
        lambda: driver.killTask("t.1"),
        lambda: driver.reconcileTasks([]),
    ):
        with pytest.raises(NotConnected, match="was not sent"):
            call()


async def test_row_08_stop_tears_nothing_down(driver: SchedulerDriver, peer: Any) -> None:
    driver.declineOffer("O1")
    await driver.stop()
    assert (await peer.call())["type"] == "DECLINE"
    assert peer.calls.empty()


async def test_row_09_reconciliation_names_the_agent(driver: SchedulerDriver, peer: Any) -> None:
    task = {"task_id": {"value": "t.1"}, "agent_id": {"value": "S0"}}
    driver.reconcileTasks([{**task, "state": "TASK_RUNNING"}])
    assert (await peer.call())["reconcile"] == {"tasks": [task]}


async def test_row_10_subscribe_says_what_is_meant(make: Make, peer: Any, scheduler: Any) -> None:
    await make(suppressed_roles=["gantry"]).start()
    stream = await peer.stream()
    assert stream.body["subscribe"] == {"framework_info": FRAMEWORK, "suppressed_roles": ["gantry"]}
    with pytest.raises(ValueError, match="set failover_timeout"):
        SchedulerDriver(scheduler, {"user": "root", "name": "gantry"}, peer.address)


async def test_row_11_updates_and_tasks_are_kept_until_acknowledged(
    make_executor: Make, peer: Any, executor: Any
) -> None:
    driver = make_executor()
    await driver.start()
    stream = await peer.stream()
    await stream.send(EXECUTOR_SUBSCRIBED, {"type": "LAUNCH", "launch": {"task": TASK}})
    await executor.next("registered")
    await executor.next("launchTask")
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_FINISHED"})
    running, finished = [(await peer.call())["update"] for _ in range(2)]

    def acknowledged(update: dict[str, Any]) -> dict[str, Any]:
        body = {"task_id": {"value": "t.1"}, "uuid": update["status"]["uuid"]}
        return {"type": "ACKNOWLEDGED", "acknowledged": body}

    await stream.send(acknowledged(running))
    stream.end()
    stream = await peer.stream()
    assert stream.body["subscribe"] == {
        "unacknowledged_tasks": [TASK],
        "unacknowledged_updates": [finished],
    }
    await stream.send(EXECUTOR_SUBSCRIBED, acknowledged(finished))
    stream.end()
    last = await peer.stream()
    assert last.body["subscribe"] == {"unacknowledged_tasks": [], "unacknowledged_updates": []}


async def test_row_12_an_agent_that_is_away_costs_nothing_until_the_recovery_timeout(
    make_executor: Make, peer: Any, executor: Any
) -> None:
    driver = make_executor(MESOS_RECOVERY_TIMEOUT="2mins")
    await driver.start()
    await (await peer.stream()).send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    port = peer.port
    await peer.close()
    await executor.next("disconnected")
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    await peer.listen(port)
    stream = await peer.stream()
    states = [one["status"]["state"] for one in stream.body["subscribe"]["unacknowledged_updates"]]
    assert states == ["TASK_RUNNING"]
    await stream.send(EXECUTOR_SUBSCRIBED)
    await executor.next("reregistered")
    driver._recovery_timeout = 0.05
    await peer.close()
    await executor.next("disconnected")
    await executor.next("shutdown")


async def test_row_13_the_executor_shows_its_token_over_tls(
    make_executor: Make, secure_peer: Any, authority: Any, executor: Any
) -> None:
    """See test_tls_wire.py."""
    await secure_peer.listen(tls=authority.server_context("agent", "127.0.0.1"))
    driver = make_executor(
        MESOS_AGENT_ENDPOINT=secure_peer.address,
        MESOS_EXECUTOR_AUTHENTICATION_TOKEN="jwt",
        MESOS_SSL_ENABLED="1",
        LIBPROCESS_SSL_CA_FILE=str(authority.ca_file),
    )
    await driver.start()
    await (await secure_peer.stream()).send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    assert [headers["Authorization"] for headers in secure_peer.headers] == ["Bearer jwt"]


def test_row_14_the_import_leaves_sigint_alone() -> None:
    """See test_vocabulary.py."""
    code = (
        "import signal\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "import shared.mesos.executor_driver\n"
        "print(signal.getsignal(signal.SIGINT) is before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "True\n"


async def test_row_15_headers_belong_to_one_subscription(
    make: Make, peer: Any, other_peer: Any, scheduler: Any, jwt: Any
) -> None:
    first, second = make(credentials=jwt), make(other_peer.address)
    for one, where in ((first, peer), (second, other_peer)):
        await one.start()
        await (await where.stream()).send(SUBSCRIBED)
        await scheduler.next("registered")
        one.reviveOffers()
        await where.call()
    subscribe, revive = peer.headers
    assert (subscribe["Authorization"], revive["Authorization"]) == ("Bearer jwt", "Bearer jwt")
    assert "Mesos-Stream-Id" not in subscribe
    assert revive["Mesos-Stream-Id"] == "stream"
    assert all("Authorization" not in headers for headers in other_peer.headers)
    assert "Mesos-Stream-Id" not in other_peer.headers[0]


async def test_row_16_backing_off_holds_up_nobody(make: Make, peer: Any, scheduler: Any) -> None:
    """It is a timer on the loop, with jitter; news of another leader end it."""

    async def unavailable(_: web.Request) -> web.Response:
        return web.Response(status=503)

    backing_off = asyncio.Event()

    class Watched(SchedulerDriver):
        async def _pause(self, seconds: float) -> None:
            backing_off.set()
            await super()._pause(seconds)

    peer.answers.append(unavailable)
    driver = make(cls=Watched, backoff=(1000.0, 1000.0))
    await driver.start()
    await asyncio.wait_for(backing_off.wait(), 60)
    driver._masters.on_change()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")


def test_row_16_delays_grow_and_differ() -> None:
    random = iter([0.0, 0.5, 0.999, 0.0, 0.0])
    backoff = Backoff(1.0, 5.0, jitter=lambda: next(random))
    delays = [backoff.next() for _ in range(4)]
    assert delays == [1.0, 1.5, pytest.approx(2.0, abs=0.01), 5.0]
    backoff.reset()
    assert backoff.next() == 1.0
