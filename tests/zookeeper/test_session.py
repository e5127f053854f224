"""Sessions against a real ZooKeeper: requests, watches, what a lost connection and a lost session look like."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError

from shared.security.tls import client_context
from shared.zookeeper.session import Lost, Refused, Session
from shared.zookeeper.settings import Sasl
from tests.ports import free_port
from tests.zookeeper.server import Server

LIMIT = 60.0


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


async def says(session: Session, words: str) -> None:
    async with asyncio.timeout(LIMIT):
        while words not in session.trouble:  # noqa: ASYNC110 - there is nobody to tell us
            await asyncio.sleep(0.01)


async def test_requests(zookeeper: str, session_to: Any) -> None:
    session: Session = await session_to(zookeeper)
    root = session.location.path
    await within(session.ensure(root))  # waits for the connection
    assert session.state == "CONNECTED"
    assert session.trouble == ""
    assert await session.exists(f"{root}/a") is None
    assert await session.create(f"{root}/a", b"1") == f"{root}/a"
    with pytest.raises(NodeExistsError):
        await session.create(f"{root}/a", b"1")
    assert (await session.set(f"{root}/a", b"2")).version == 1
    with pytest.raises(BadVersionError):
        await session.set(f"{root}/a", b"3", version=0)
    node = await session.get(f"{root}/a")
    assert (node.data, node.stat.version) == (b"2", 1)
    assert await session.children(root) == ["a"]
    await session.sync(root)
    made = await session.create(f"{root}/s-", ephemeral=True, sequence=True)
    assert made.startswith(f"{root}/s-")
    await session.delete(f"{root}/a")
    with pytest.raises(NoNodeError):
        await session.get(f"{root}/a")


async def test_multi_is_all_or_none_and_names_what_was_refused(zookeeper: str, session_to: Any) -> None:
    session = await session_to(zookeeper)
    root = session.location.path
    await within(session.ensure(root))
    made, stat = await session.multi(
        [session.op_create(f"{root}/a", b"1"), session.op_set(f"{root}/a", b"2")]
    )
    assert (made, stat.version) == (f"{root}/a", 1)
    with pytest.raises(Refused) as info:
        await session.multi(
            [session.op_create(f"{root}/b"), session.op_check(f"{root}/a", 7), session.op_delete(f"{root}/a")]
        )
    assert (info.value.index, type(info.value.error)) == (1, BadVersionError)
    assert await session.children(root) == ["a"]


async def test_watches_call_once_on_the_loop(zookeeper: str, session_to: Any) -> None:
    session = await session_to(zookeeper)
    root = session.location.path
    await within(session.ensure(root))
    seen: asyncio.Queue[str] = asyncio.Queue()
    assert await session.exists(f"{root}/a", lambda: seen.put_nowait("made")) is None
    await session.children(root, lambda: seen.put_nowait("children"))
    await session.create(f"{root}/a")
    assert {await within(seen.get()), await within(seen.get())} == {"made", "children"}
    await session.get(f"{root}/a", lambda: seen.put_nowait("changed"))
    await session.set(f"{root}/a", b"1")
    await session.set(f"{root}/a", b"2")
    assert await within(seen.get()) == "changed"
    await session.sync(root)
    assert seen.empty()


def recorder() -> tuple[asyncio.Queue[str], Callable[[str], None]]:
    states: asyncio.Queue[str] = asyncio.Queue()
    return states, states.put_nowait


async def test_a_cut_connection_suspends_and_comes_back(proxy: Any, session_to: Any) -> None:
    states, note = recorder()
    session = await session_to(proxy.address, on_state=note)
    await within(session.ensure(session.location.path))
    me = session.client_id
    proxy.swallow_answers = True
    unknown = asyncio.ensure_future(session.create(f"{session.location.path}/a"))
    await asyncio.wait([unknown], timeout=0.2)
    proxy.cut()
    with pytest.raises(Lost):
        await within(unknown)
    assert [await within(states.get()) for _ in range(2)] == ["CONNECTED", "SUSPENDED"]
    assert session.trouble.startswith(f"waiting for ZooKeeper at {proxy.address}")
    proxy.swallow_answers = False
    proxy.cut()
    await within(session.connected())
    assert await within(session.exists(f"{session.location.path}/a")) is not None  # it had been done
    assert session.client_id == me
    assert states.get_nowait() == "CONNECTED"


async def test_a_session_ended_by_another_is_lost_and_replaced(zookeeper: str, session_to: Any) -> None:
    states, note = recorder()
    session = await session_to(zookeeper, on_state=note)
    root = session.location.path
    await within(session.ensure(root))
    await session.create(f"{root}/mine", ephemeral=True)
    # Whoever knows a session's id and password may end it for all.
    heir = await session_to(zookeeper, client_id=session.client_id)
    await within(heir.connected())
    assert heir.client_id == session.client_id
    await heir.stop()
    while await within(states.get()) != "LOST":
        pass
    assert await within(states.get()) == "CONNECTED"
    assert await within(session.exists(f"{root}/mine")) is None


async def test_nothing_listens(session_to: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    session = await session_to(address)
    await says(session, f"waiting for ZooKeeper at {address}: Connection refused")
    await within(session.stop())


async def test_znodes_of_a_login_are_for_it_alone(
    zookeeper: str, session_to: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    caplog.set_level(1, "kazoo.gantry")
    mine, other = await session_to(zookeeper, digest="me:hunter2"), await session_to(zookeeper)
    root = mine.location.path
    await within(mine.ensure(root))
    await mine.create(f"{root}/a", b"secret")
    for forbidden in (other.get(f"{root}/a"), other.children(root), other.create(f"{root}/b")):
        with pytest.raises(NoAuthError):
            await within(forbidden)
    assert (await mine.get(f"{root}/a")).data == b"secret"
    assert "Auth(…)" in caplog.text  # kazoo did log it
    assert "hunter2" not in caplog.text
    logging.getLogger("kazoo.gantry").setLevel(logging.CRITICAL)


async def test_sasl(zookeeper: str, session_to: Any) -> None:
    mine, other = await session_to(zookeeper, sasl=Sasl("gantry", "sasl-secret")), await session_to(zookeeper)
    root = mine.location.path
    await within(mine.ensure(root))
    await mine.create(f"{root}/a", b"x")
    with pytest.raises(NoAuthError):
        await within(other.get(f"{root}/a"))
    assert (await mine.get(f"{root}/a")).data == b"x"


async def test_wrong_sasl_password_is_refused_and_said(zookeeper: str, session_to: Any) -> None:
    states, note = recorder()
    session = await session_to(zookeeper, sasl=Sasl("gantry", "wrong"), on_state=note)
    while not session.refused:
        await within(states.get())
    assert session.trouble == f"ZooKeeper at {zookeeper} refuses our login"


async def test_tls_of_zookeepers_own(authority: Any, session_to: Any) -> None:
    """Client certificates included: its default is to demand one."""
    pair = [authority.issue(name) for name in ("127.0.0.1", "client")]
    server_pem, client_pem = (
        authority.write(f"both{i}.pem", key.read_bytes() + certificate.read_bytes())
        for i, (certificate, key) in enumerate(pair)
    )
    server = Server(tls=(server_pem, authority.ca_file))
    try:
        server.start()
        tls = client_context(ca_file=authority.ca_file, cert_file=client_pem)
        session = await session_to(server.address, tls=tls, session_timeout=20.0)
        root = session.location.path
        await asyncio.wait_for(session.ensure(root), 90)
        # Many answers at once share TLS records; each must arrive without waiting for the next one.
        big = b"x" * 50_000
        await within(asyncio.gather(*(session.create(f"{root}/{i}", big) for i in range(60))))
        nodes = await within(asyncio.gather(*(session.get(f"{root}/{i}") for i in range(60))))
        assert {node.data for node in nodes} == {big}
        stranger = await session_to(server.address, tls=client_context(cert_file=client_pem))
        await says(stranger, "its certificate is not accepted")
    finally:
        server.close()
