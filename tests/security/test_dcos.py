"""The login of a DC/OS service account, against a scripted endpoint that checks the signature."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.security.dcos import DcosLogin, LoginFailed, ServiceAccount, expiry
from shared.security.tls import client_context


def login(iam: Any, **options: Any) -> DcosLogin:
    return DcosLogin(ServiceAccount.parse(iam.secret(), "secret"), clock=iam.clock, **options)


async def test_a_token_is_asked_for_once_and_kept(iam: Any) -> None:
    one = login(iam)
    assert await one.authorization() == f"token={iam.tokens[0]}"
    assert await one.authorization() == f"token={iam.tokens[0]}"
    (seen,) = iam.logins
    assert seen["uid"] == "gantry"
    assert seen["exp"] == iam.now + 120
    assert seen["body"].keys() == {"uid", "token"}


async def test_it_is_renewed_before_it_expires(iam: Any) -> None:
    one = login(iam)
    await one.authorization()
    assert one.renew_in() == 750  # a quarter of its life before the end
    iam.now += 749
    assert await one.authorization() == f"token={iam.tokens[0]}"
    iam.now += 1
    assert await one.authorization() == f"token={iam.tokens[1]}"
    assert one.renew_in() == 750
    iam.life = 5 * 86400.0
    iam.now += 800
    await one.authorization()
    assert one.renew_in() == 5 * 86400 - 3600  # but not more than an hour


async def test_while_it_works_a_failed_renewal_is_only_warned_of(
    iam: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = login(iam)
    await one.authorization()
    iam.now += 800
    iam.answers.append(web.json_response({"title": "Internal"}, status=500))
    assert await one.authorization() == f"token={iam.tokens[0]}"
    assert "HTTP 500: Internal; the present token works for another 200 s" in caplog.text
    assert one.renew_in() == 30
    await one.authorization()
    assert len(iam.logins) == 2
    iam.now += 300
    iam.answers.append(web.json_response({}, status=503))
    with pytest.raises(LoginFailed, match="HTTP 503"):
        await one.authorization()  # it has expired
    assert await one.authorization() == f"token={iam.tokens[1]}"


async def test_a_401_renews_once(iam: Any) -> None:
    one = login(iam)
    first = await one.authorization()
    assert await one.renew(first)
    second = await one.authorization()
    assert second != first
    assert await one.renew(first)  # somebody else's 401 for the old one
    assert not await one.renew(second)  # fresh, and refused: another would not do better
    assert len(iam.logins) == 2
    iam.now += 61
    assert await one.renew(second)
    assert len(iam.logins) == 3


async def test_a_failed_renewal_does_not_count(iam: Any) -> None:
    one = login(iam)
    first = await one.authorization()
    iam.answers.append(web.Response(status=503))
    with pytest.raises(LoginFailed):
        await one.renew(first)
    assert await one.renew(first)


async def test_those_who_ask_at_once_share_one_login(iam: Any) -> None:
    iam.gate = asyncio.Event()
    one = login(iam)
    asked = [asyncio.create_task(one.authorization()) for _ in range(5)]
    await asyncio.sleep(0)
    iam.gate.set()
    assert len(set(await asyncio.gather(*asked))) == 1
    assert len(iam.logins) == 1


async def test_a_token_without_an_end_is_not_renewed_ahead(iam: Any) -> None:
    iam.life = None
    one = login(iam)
    await one.authorization()
    assert one.renew_in() is None
    iam.now += 1e9
    await one.authorization()
    assert len(iam.logins) == 1


async def test_a_clock_that_is_wrong_makes_no_storm(iam: Any, caplog: pytest.LogCaptureFixture) -> None:
    iam.life = -5000.0
    one = login(iam)
    assert await one.authorization() == await one.authorization()
    assert len(iam.logins) == 1
    assert "is this machine's clock right?" in caplog.text


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (
            {"status": 401, "text": '{"description": "Invalid\\ncredentials"}'},
            "HTTP 401: Invalid credentials$",
        ),
        ({"status": 403, "text": "<html>"}, "HTTP 403$"),
        ({"status": 307, "headers": {"Location": "http://127.0.0.1:1/"}}, "HTTP 307$"),
        ({"text": "<html>"}, "there is no token in the answer$"),
        ({"text": '{"token": 7}'}, "there is no token in the answer$"),
        ({"text": '{"token": "a\\r\\nb: c"}'}, "there is no token in the answer$"),
    ],
)
async def test_a_login_that_fails(iam: Any, answer: dict[str, Any], complaint: str) -> None:
    iam.answers.append(web.Response(**answer))
    with pytest.raises(LoginFailed, match=complaint) as info:
        await login(iam).authorization()
    assert str(info.value).startswith(f"DC/OS login of 'gantry' at http://127.0.0.1:{iam.port}/acs")


async def test_an_endpoint_that_is_not_there(iam: Any) -> None:
    one = login(iam)
    await iam.close()
    with pytest.raises(LoginFailed, match="Connect"):
        await one.authorization()


async def test_one_that_does_not_answer(iam: Any) -> None:
    iam.gate = asyncio.Event()
    with pytest.raises(LoginFailed, match="imeout"):
        await login(iam, timeout=0.05).authorization()
    iam.gate.set()


async def test_secrets_are_in_no_message(iam: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    one = login(iam)
    await one.authorization()
    said = [repr(one), repr(one.account), str(one.account)]
    sent = iam.logins[0]["body"]["token"]
    iam.now += 2000

    async def echo(request: web.Request) -> web.Response:
        body = await request.json()
        iam.logins.append(body)
        return web.json_response({"description": f"cannot verify {body['token']}"}, status=401)

    echoing = web.Application()
    echoing.router.add_post("/acs/api/v1/auth/login", echo)
    runner = web.AppRunner(echoing, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    secret = iam.secret(login_endpoint=f"http://127.0.0.1:{port}")
    other = DcosLogin(ServiceAccount.parse(secret, "secret"), clock=iam.clock)
    with pytest.raises(LoginFailed, match="cannot verify …") as info:
        await other.authorization()
    await runner.cleanup()
    said.append(str(info.value))
    everything = caplog.text + "".join(said)
    key = json.loads(iam.secret())["private_key"].splitlines()[1]
    for word in (iam.tokens[0], sent, iam.logins[-1]["token"], key):
        assert word not in everything


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_endpoint_is_verified(rsa_key: Any, iam: Any, authority: Any, trusted: bool) -> None:
    secure = type(iam)(rsa_key)
    await secure.listen(ssl_context=authority.server_context("iam", "127.0.0.1"))
    try:
        secret = secure.secret(login_endpoint=f"https://127.0.0.1:{secure.port}")  # the path is known
        tls: ssl.SSLContext | None = client_context(ca_file=authority.ca_file) if trusted else None
        one = DcosLogin(ServiceAccount.parse(secret, "secret"), tls=tls, clock=secure.clock)
        if trusted:
            assert await one.authorization() == f"token={secure.tokens[0]}"
        else:
            with pytest.raises(
                LoginFailed, match="its certificate is not accepted: unable to get local issuer"
            ):
                await one.authorization()
            assert not secure.logins
    finally:
        await secure.close()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"uid": ""}, "'uid' is missing"),
        ({"private_key": None}, "'private_key' is missing"),
        ({"private_key": "hunter2"}, "'private_key' must be an RSA key in PEM, without a passphrase"),
        ({"login_endpoint": 7}, "'login_endpoint' is missing"),
        ({"login_endpoint": "leader.mesos"}, r"'login_endpoint' must be an http\(s\) URL"),
        ({"login_endpoint": "https://u:hunter2@h"}, r"'login_endpoint' must be an http\(s\) URL"),
        ({"scheme": "HS256"}, "'scheme' must be RS256"),
    ],
)
def test_a_secret_that_cannot_be_used(
    iam: Any, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "account.json"
    path.write_text(iam.secret(**changes))
    with pytest.raises(ValueError, match=complaint) as info:
        ServiceAccount.load(path)
    assert str(info.value).startswith(f"service account file '{path}': ")
    assert "hunter2" not in str(info.value)


@pytest.mark.parametrize("text", ["hunter2", '["hunter2"]', ""])
def test_a_secret_that_is_no_json_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"^X: not a JSON object$"):
        ServiceAccount.parse(text, "X")


@pytest.mark.parametrize("token", ["opaque", "a.b.c", "a.!!.c", "a.e30.c", "a.W10.c", "a.eyJleHAiOiAiMSJ9.c"])
def test_tokens_whose_end_cannot_be_read(token: str) -> None:
    assert expiry(token) is None
