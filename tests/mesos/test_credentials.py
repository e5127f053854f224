"""Who the scheduler driver says it is: a DC/OS service account from login to renewal, and what is never logged."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from shared.mesos.credentials import BasicCredentials
from shared.mesos.operator import get_agents
from shared.mesos.scheduler_driver import SchedulerDriver
from shared.security.dcos import DcosLogin, ServiceAccount
from tests.mesos.words import SUBSCRIBED

Make = Callable[..., SchedulerDriver]


@pytest.fixture
def account(iam: Any) -> ServiceAccount:
    return ServiceAccount.parse(iam.secret(), "secret")


def answer(status: int) -> Any:
    async def respond(_: web.Request) -> web.Response:
        return web.Response(status=status)

    return respond


def shown(peer: Any) -> list[str]:
    """The Authorization headers, in order."""
    return [headers["Authorization"] for headers in peer.headers]


async def test_a_service_account_logs_in_and_calls_carry_its_token(
    make: Make, iam: Any, account: ServiceAccount, peer: Any, scheduler: Any
) -> None:
    peer.answers.extend([answer(503), answer(503)])
    driver = make(credentials=DcosLogin(account, clock=iam.clock))
    await driver.start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    driver.reviveOffers()
    await peer.call()
    assert shown(peer) == [f"token={iam.tokens[0]}"] * 4
    assert len(iam.logins) == 1


async def test_a_token_is_renewed_while_subscribed(
    make: Make, iam: Any, account: ServiceAccount, peer: Any, scheduler: Any
) -> None:
    """Calls carry the new one; the subscription stands."""
    renewed = asyncio.Event()

    class Noted(DcosLogin):
        async def authorization(self) -> str:
            header = await super().authorization()
            if len(iam.tokens) > 1:
                asyncio.get_running_loop().call_soon(renewed.set)
            return header

        def renew_in(self) -> float | None:
            delay = super().renew_in()
            iam.now += delay or 0  # time passes as soon as somebody waits
            return 0.0 if len(iam.tokens) < 2 else None

    driver = make(credentials=Noted(account, clock=iam.clock))
    await driver.start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    await asyncio.wait_for(renewed.wait(), 60)
    driver.reviveOffers()
    await peer.call()
    assert shown(peer) == [f"token={iam.tokens[0]}", f"token={iam.tokens[1]}"]
    assert driver.connected
    assert scheduler.nothing()


async def test_a_401_renews_once_then_backs_off(
    make: Make, iam: Any, account: ServiceAccount, peer: Any, scheduler: Any
) -> None:
    peer.answers.extend([answer(401)] * 4)
    driver = make(credentials=DcosLogin(account, clock=iam.clock))
    await driver.start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    first, second = iam.tokens
    assert shown(peer) == [f"token={first}"] + [f"token={second}"] * 4


async def test_a_call_refused_with_401_subscribes_again_with_another_token(
    make: Make, iam: Any, account: ServiceAccount, peer: Any, scheduler: Any
) -> None:
    driver = make(credentials=DcosLogin(account, clock=iam.clock))
    await driver.start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    peer.refusals.append(("REVIVE", 401, ""))
    driver.reviveOffers()
    await scheduler.next("callRefused")
    await scheduler.next("disconnected")
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("reregistered")
    assert shown(peer)[-1] == f"token={iam.tokens[1]}"
    assert len(iam.tokens) == 2


async def test_a_login_that_fails_is_told_and_tried_again(
    make: Make, iam: Any, account: ServiceAccount, peer: Any, scheduler: Any
) -> None:
    refusal = {"description": "no such account"}
    iam.answers.extend(web.json_response(refusal, status=401) for _ in range(2))
    driver = make(credentials=DcosLogin(account, clock=iam.clock))
    troubles: list[str | None] = []
    iam.on_login = lambda: troubles.append(driver.trouble)
    await driver.start()
    await (await peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert len(iam.logins) == 3
    assert troubles[2] == (
        f"cannot subscribe to {peer.address}: DC/OS login of 'gantry' at {account.login_endpoint}: "
        "HTTP 401: no such account"
    )
    assert len(peer.subscribes) == 1


async def test_operator_calls_renew_once_on_401(iam: Any, account: ServiceAccount, peer: Any) -> None:
    seen: list[str] = []

    async def operator(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        if len(seen) == 1:
            return web.Response(status=401)
        return web.json_response({"type": "GET_AGENTS", "get_agents": {}})

    peer.operator = operator
    assert await get_agents(peer.address, credentials=DcosLogin(account, clock=iam.clock)) == []
    assert seen == [f"token={token}" for token in iam.tokens]
    assert len(seen) == 2


async def test_secrets_are_in_no_log_and_no_repr(
    make: Make, iam: Any, account: ServiceAccount, peer: Any, scheduler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    said: list[str] = []
    peer.answers.extend([answer(401), answer(503), answer(403)])
    for credentials in (DcosLogin(account, clock=iam.clock), BasicCredentials("gantry", "hunter2")):
        driver = make(credentials=credentials)
        await driver.start()
        stream = await peer.stream()
        said.append(str(driver.trouble))
        await stream.send(SUBSCRIBED)
        await scheduler.next("registered")
        peer.refusals.append(("REVIVE", 401, "no"))
        driver.reviveOffers()
        said.append(repr((await scheduler.next("callRefused"), driver, driver._subscription, credentials)))
        await scheduler.next("disconnected")
        await driver.stop(timeout=0)
    everything = caplog.text + "".join(said)
    assert "HTTP 401" in everything
    key = json.loads(iam.secret())["private_key"].splitlines()[1]
    for secret in (*iam.tokens, iam.logins[0]["body"]["token"], key, "hunter2", "Z2FudHJ5Omh1bnRlcjI="):
        assert secret not in everything


@pytest.mark.parametrize(("principal", "secret"), [("", "x"), ("a:b", "hunter2"), ("a", "")])
def test_basic_credentials_that_cannot_be_sent(principal: str, secret: str) -> None:
    with pytest.raises(ValueError, match=r"must not be empty|is empty") as info:
        BasicCredentials(principal, secret)
    assert "hunter2" not in str(info.value)
