"""Both drivers and operator calls over real TLS: trust, names, client certificates, redirects, secrets."""

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from shared.mesos.credentials import BasicCredentials
from shared.mesos.http import Endpoint, HttpConnection, HttpError
from shared.mesos.operator import OperatorError, get_agents
from shared.mesos.scheduler_driver import SchedulerDriver
from shared.security.tls import client_context
from tests.mesos.words import EXECUTOR_SUBSCRIBED, SUBSCRIBED

Make = Callable[..., SchedulerDriver]


def redirect(location: str) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    return answer


class Log(logging.Handler):
    """What the driver says, as it says it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.put_nowait(record.getMessage())

    async def until(self, text: str) -> str:
        """The next message with that in it."""
        async with asyncio.timeout(60):
            while text not in (message := await self.said.get()):
                pass
        return message


@pytest.fixture
def log() -> Iterator[Log]:
    logger, one = logging.getLogger("shared.mesos.scheduler_driver"), Log()
    logger.addHandler(one)
    yield one
    logger.removeHandler(one)


async def test_the_scheduler_driver(
    make: Make, secure_peer: Any, authority: Any, scheduler: Any, jwt: Any
) -> None:
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1", want_client=True))
    certificate, key = authority.issue("gantry")
    tls = client_context(ca_file=authority.ca_file, cert_file=certificate, key_file=key)
    driver = make(secure_peer.address, tls=tls, credentials=jwt)
    await driver.start()
    stream = await secure_peer.stream()
    await stream.drip(SUBSCRIBED)
    await scheduler.next("registered")
    assert driver.master == f"https://{secure_peer.address}"
    driver.reviveOffers()
    driver.declineOffer("O1")
    assert [(await secure_peer.call())["type"] for _ in range(2)] == ["REVIVE", "DECLINE"]
    assert len(secure_peer.call_connections) == 1
    assert {headers["Authorization"] for headers in secure_peer.headers} == {"Bearer jwt"}
    assert all(shown["subject"] == ((("commonName", "gantry"),),) for shown in secure_peer.certificates)
    stream.cut()
    await scheduler.next("disconnected")
    await (await secure_peer.stream()).send(SUBSCRIBED)
    await scheduler.next("reregistered")


async def test_large_events_over_tls(make: Make, secure_peer: Any, authority: Any, scheduler: Any) -> None:
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    driver = make(secure_peer.address, tls=client_context(ca_file=authority.ca_file))
    await driver.start()
    stream = await secure_peer.stream()
    offers = [{"id": {"value": f"O{n}"}, "padding": "x" * 1000} for n in range(1000)]
    await stream.send(SUBSCRIBED, {"type": "OFFERS", "offers": {"offers": offers}})
    await scheduler.next("registered")
    assert await scheduler.next("resourceOffers") == (offers,)


@pytest.mark.parametrize(
    ("name", "days", "why"),
    [
        ("127.0.0.1", -1, "its certificate is not accepted: certificate has expired"),
        ("10.0.0.1", 10, "its certificate is not accepted: IP address mismatch"),
    ],
)
async def test_a_certificate_that_is_not_accepted_is_told_and_tried_again(
    make: Make, secure_peer: Any, authority: Any, scheduler: Any, log: Log, name: str, days: float, why: str
) -> None:
    await secure_peer.listen(tls=authority.server_context("master", name, days=days))
    driver = make(
        secure_peer.address,
        tls=client_context(ca_file=authority.ca_file),
        credentials=BasicCredentials("gantry", "hunter2"),
    )
    await driver.start()
    text = await log.until(why)
    assert driver.trouble == text
    assert text.startswith(f"cannot subscribe to {secure_peer.address}: TLS with {secure_peer.address}: ")
    assert not secure_peer.headers  # the credentials did not leave
    port = secure_peer.port
    await secure_peer.close()
    await secure_peer.listen(port, tls=authority.server_context("master", "127.0.0.1"))
    await (await secure_peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")


async def test_an_unknown_ca(make: Make, secure_peer: Any, authority: Any, log: Log) -> None:
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    driver = make(f"https://{secure_peer.address}")  # no context given: the system's CAs
    await driver.start()
    await log.until("unable to get local issuer certificate")


def refuse_one_client(listening: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listening.accept()
    with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secured:
        with pytest.raises(ssl.SSLError):
            secured.do_handshake()
        while os.read(secured.fileno(), 65536):  # closing with unread data would reset, and lose the alert
            pass
    listening.close()


async def test_a_missing_client_certificate(make: Make, authority: Any, log: Log) -> None:
    """The server is no asyncio one: that would close without the alert that says why."""
    listening = socket.create_server(("127.0.0.1", 0))
    context = authority.server_context("master", "127.0.0.1", want_client=True)
    serving = threading.Thread(target=refuse_one_client, args=(listening, context))
    serving.start()
    driver = make(f"127.0.0.1:{listening.getsockname()[1]}", tls=client_context(ca_file=authority.ca_file))
    await driver.start()
    await log.until("certificate required")
    await asyncio.to_thread(serving.join)


async def test_tls_to_one_that_has_none_and_the_other_way(
    make: Make, peer: Any, secure_peer: Any, authority: Any, log: Log
) -> None:
    driver = make(peer.address, tls=client_context())
    await driver.start()
    await log.until("it does not speak TLS")
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    plain = make(secure_peer.address)
    await plain.start()
    await log.until(f"cannot subscribe to {secure_peer.address}")


async def test_an_alert_is_recognised(authority: Any) -> None:
    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\x15\x03\x01\x00\x02\x02\x46")  # fatal, protocol_version
        writer.close()

    server = await asyncio.start_server(alert, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with pytest.raises(HttpError, match="speaks TLS"):
        await get_agents(f"127.0.0.1:{address[1]}")
    server.close()


async def test_a_master_may_be_named_by_ip_or_hostname(secure_peer: Any, authority: Any) -> None:
    """Masters in ZooKeeper have both; a certificate has one of them."""
    await secure_peer.listen(tls=authority.server_context("master", "leader.mesos"))
    tls = client_context(ca_file=authority.ca_file)
    with pytest.raises(HttpError, match="IP address mismatch"):
        await HttpConnection.open(Endpoint("127.0.0.1", secure_peer.port), tls=tls)
    with pytest.raises(HttpError, match=r"\(other.mesos\): .*Hostname mismatch"):
        await HttpConnection.open(Endpoint("127.0.0.1", secure_peer.port, alias="other.mesos"), tls=tls)
    connection = await HttpConnection.open(
        Endpoint("127.0.0.1", secure_peer.port, alias="leader.mesos"), tls=tls
    )
    connection.close()


@pytest.mark.parametrize("scheme", ["https:", ""])
async def test_redirects_keep_tls_and_credentials(
    make: Make, peer: Any, secure_peer: Any, authority: Any, scheduler: Any, scheme: str
) -> None:
    """From http to https when the master says so; without a scheme as it is."""
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    location = f"{scheme}//{secure_peer.address}/master/api/v1/scheduler"
    first = peer
    if not scheme:
        first = type(peer)()
        await first.listen(tls=authority.server_context("standby", "127.0.0.1"))
    first.answers.append(redirect(location))
    start = f"http://{first.address}" if scheme else first.address
    driver = make(
        start,
        tls=client_context(ca_file=authority.ca_file),
        credentials=BasicCredentials("gantry", "hunter2"),
    )
    await driver.start()
    await (await secure_peer.stream()).send(SUBSCRIBED)
    await scheduler.next("registered")
    assert driver.master == f"https://{secure_peer.address}"
    assert {headers["Authorization"] for headers in secure_peer.headers} == {"Basic Z2FudHJ5Omh1bnRlcjI="}
    if first is not peer:
        await first.close()


async def test_no_redirect_leads_from_tls_to_plain_text(
    make: Make, peer: Any, secure_peer: Any, authority: Any, log: Log
) -> None:
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    secure_peer.answers.extend([redirect(f"http://{peer.address}/")] * 100)
    tls = client_context(ca_file=authority.ca_file)
    driver = make(secure_peer.address, tls=tls, credentials=BasicCredentials("gantry", "hunter2"))
    await driver.start()
    await log.until(f"not from TLS to plain text: http://{peer.address}/")
    secure_peer.operator = redirect(f"http://{peer.address}/")
    with pytest.raises(OperatorError, match="not from TLS to plain text"):
        await get_agents(secure_peer.address, tls=tls)
    assert not peer.headers


async def test_operator_calls(secure_peer: Any, authority: Any, jwt: Any) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer jwt"
        return web.json_response({"type": "GET_AGENTS", "get_agents": {}})

    secure_peer.operator = answer
    await secure_peer.listen(tls=authority.server_context("master", "127.0.0.1"))
    tls = client_context(ca_file=authority.ca_file)
    for master in (secure_peer.address, f"https://{secure_peer.address}"):
        assert await get_agents(master, tls=tls, credentials=jwt) == []
    with pytest.raises(HttpError, match="unable to get local issuer"):
        await get_agents(f"https://{secure_peer.address}", credentials=jwt)


@pytest.mark.parametrize("switch", ["MESOS_SSL_ENABLED", "LIBPROCESS_SSL_ENABLED"])
async def test_the_executor_driver(
    make_executor: Any, secure_peer: Any, authority: Any, executor: Any, switch: str
) -> None:
    await secure_peer.listen(tls=authority.server_context("agent", "127.0.0.1", want_client=True))
    certificate, key = authority.issue("executor")
    environ = {
        "MESOS_AGENT_ENDPOINT": secure_peer.address,
        "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "jwt",
        switch: "1",
        "LIBPROCESS_SSL_CA_FILE": str(authority.ca_file),
        "LIBPROCESS_SSL_CERT_FILE": str(certificate),
        "LIBPROCESS_SSL_KEY_FILE": str(key),
    }
    driver = make_executor(**environ)
    await driver.start()
    stream = await secure_peer.stream()
    await stream.send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
    driver.sendStatusUpdate({"task_id": "t.1", "state": "TASK_RUNNING"})
    assert (await secure_peer.call())["type"] == "UPDATE"
    assert {headers["Authorization"] for headers in secure_peer.headers} == {"Bearer jwt"}
    port = secure_peer.port
    await secure_peer.close()
    await executor.next("disconnected")
    await secure_peer.listen(port, tls=authority.server_context("agent", "127.0.0.1"))
    again = await secure_peer.stream()
    assert len(again.body["subscribe"]["unacknowledged_updates"]) == 1
    await again.send(EXECUTOR_SUBSCRIBED)
    await executor.next("reregistered")


async def test_an_agents_certificate_may_name_this_host(
    make_executor: Any, secure_peer: Any, authority: Any, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "agent7.example")
    await secure_peer.listen(tls=authority.server_context("agent", "agent7.example"))
    environ = {
        "MESOS_AGENT_ENDPOINT": secure_peer.address,
        "MESOS_SSL_ENABLED": "1",
        "LIBPROCESS_SSL_CA_FILE": str(authority.ca_file),
    }
    driver = make_executor(**environ)
    await driver.start()
    await (await secure_peer.stream()).send(EXECUTOR_SUBSCRIBED)
    await executor.next("registered")
