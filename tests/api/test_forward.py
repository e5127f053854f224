"""An instance that does not lead: what it answers by itself, and how it passes on the rest. One store serves both."""

import asyncio
import contextlib
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from scheduler.api.app import make_app
from scheduler.api.checks import Check, HealthReport
from scheduler.api.forward import Forwarder, Role
from scheduler.api.forward_http import FORWARDED_BY, Leader
from scheduler.api.server import start_server
from scheduler.serving import Certificate

PODS = "/api/v1/namespaces/default/pods"
PATIENCE = 0.5


@pytest.fixture
def seen(app):
    """What the leader was asked by another instance: (method, path with query, headers)."""
    requests = []

    @web.middleware
    async def note(request, handler):
        if FORWARDED_BY in request.headers:
            requests.append((request.method, request.raw_path, request.headers.copy()))
        return await handler(request)

    app.middlewares.insert(0, note)
    return requests


@pytest.fixture
async def instance(store, nodes, token, clock):
    """Makes an instance: its forwarder, and a client's way to it."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(name="standby", patience=PATIENCE, **more):
            forwarder = Forwarder(name, patience=patience)
            stack.push_async_callback(forwarder.close)
            more = {"clock": clock, "health": lambda: HealthReport((Check("mine"),)), **more}
            made = make_app(store, nodes=nodes, version="0.1.0", token=token, forwarder=forwarder, **more)
            runner, port = await start_server(made, "127.0.0.1", 0)
            stack.push_async_callback(runner.cleanup)
            return forwarder, f"http://127.0.0.1:{port}"

        yield make


@pytest.fixture
async def standby(instance, seen, server, api):
    """(its forwarder, a client of it); the leader is `api`."""
    forwarder, url = await instance()
    forwarder.become(Role.FOLLOWING, Leader(api.base))
    return forwarder, type(api)(api.session, url)


async def test_writes_go_to_the_leader(standby, seen, pod, api):
    _, client = standby
    created = await client("POST", f"{PODS}?fieldManager=a%26b&x=%20", pod(), headers={"User-Agent": "me"})
    assert created.status == 201
    ((method, path, headers),) = seen
    assert (method, path) == ("POST", f"{PODS}?fieldManager=a%26b&x=%20")
    assert (headers["X-Forwarded-For"], headers["User-Agent"]) == ("127.0.0.1", "me")
    assert headers["X-Forwarded-Host"] == headers["Host"] == client.base.partition("//")[2]
    assert (await client("DELETE", f"{PODS}/web")).status == 200
    assert (await client("GET", f"{PODS}/web")).status == 404
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("path", "here"),
    [
        (f"{PODS}/web?resourceVersion=0", True),
        (f"{PODS}?resourceVersion=0", True),
        ("/api/v1/pods?resourceVersion=1", True),
        ("/api/v1/pods?resourceVersion=1&resourceVersionMatch=NotOlderThan", True),
        (f"{PODS}/web/status?resourceVersion=0", False),
        (f"{PODS}/web/log?resourceVersion=0", False),
        (f"{PODS}/web", False),
        (PODS, False),
        (f"{PODS}?resourceVersion=", False),
        (f"{PODS}?resourceVersion=1&resourceVersionMatch=Exact", False),
        (f"{PODS}?resourceVersion=99999", False),
        ("/api/v1/unheard-of", False),
        ("/apis/example.com/v1/things?resourceVersion=0", False),
        ("/api", True),
        ("/api/v1", True),
        ("/apis", True),
        ("/apis/storage.k8s.io/v1", True),
        ("/openapi/v2", True),
        ("/version", True),
        ("/healthz", True),
        ("/readyz?verbose", True),
        ("/", True),
    ],
)
async def test_what_is_answered_here(standby, seen, pod, api, path, here):
    await api("POST", PODS, pod())
    _, client = standby
    answer = await client("GET", path)
    assert (seen == []) == here
    if here or "web" in path:
        assert answer.status in (200, 400)


async def test_health_is_ones_own(standby):
    assert "[+]mine ok" in (await standby[1]("GET", "/readyz?verbose")).text


async def test_a_long_list_goes_on_where_it_began(standby, seen, pod, api):
    for number in range(5):
        await api("POST", PODS, pod(f"p{number}"))
    _, client = standby
    first = await client.get(PODS, resourceVersion=0, limit=2)
    rest = await client.get(PODS, limit=2, **{"continue": first["metadata"]["continue"]})
    assert [one["metadata"]["name"] for one in rest["items"]] == ["p2", "p3"]
    assert seen == []
    await api("POST", PODS, pod("p5"))
    elsewhere = await api.get(PODS, limit=2)
    rest = await client.get(PODS, limit=2, **{"continue": elsewhere["metadata"]["continue"]})
    assert [one["metadata"]["name"] for one in rest["items"]] == ["p2", "p3"]
    assert len(seen) == 1


async def test_a_watch_from_a_known_version_is_served_here(standby, seen, pod, api, store):
    _, client = standby
    await api("POST", PODS, pod("a"))
    stream = await client.watch(PODS, resourceVersion=store.version)
    await api("POST", PODS, pod("b"))
    assert await stream.take(1) == [("ADDED", "b")]
    stream.close()
    assert seen == []


async def test_a_watch_waits_here_for_the_version_it_was_told_elsewhere(standby, seen, pod, api, store):
    _, client = standby
    opening = asyncio.ensure_future(client.watch(PODS, resourceVersion=store.version + 1))
    await asyncio.sleep(0)
    await api("POST", PODS, pod("a"))
    stream = await opening
    await api("POST", PODS, pod("b"))
    assert await stream.take(1) == [("ADDED", "b")]
    stream.close()
    assert seen == []


async def test_a_watch_of_the_newest_is_the_leaders(standby, seen, pod, api, app):
    _, client = standby
    stream = await client.watch(PODS, headers={"Accept-Encoding": "identity"})
    for name in ("a", "b"):
        await api("POST", PODS, pod(name))
        assert await stream.take(1) == [("ADDED", name)]
    assert len(seen) == 1
    stream.close()
    async with asyncio.timeout(60):  # the leader learns that its watcher is gone
        await next(iter(app.values())).watches.none.wait()


async def test_large_bodies_and_answers_pass(standby, seen, pod, api):
    _, client = standby
    for number in range(4):
        big = pod(f"big{number}")
        big["metadata"]["annotations"] = {"x": f"{number}" * 200_000}
        assert (await client("POST", PODS, big)).status == 201
    listed = await client.get(PODS)
    assert [len(one["metadata"]["annotations"]["x"]) for one in listed["items"]] == [200_000] * 4
    refused = await client("POST", PODS, b"x" * (4 << 20))
    assert refused.status == 413
    assert len(seen) == 6


async def test_logs_are_passed_on_as_they_come(standby, running, pod, api, nodes):
    _, client = standby
    await api("POST", PODS, pod())
    await running("web")
    async with client.session.get(f"{client.base}{PODS}/web/log?follow=true") as answer:
        assert await answer.content.readline() == b"one\n"
        assert await answer.content.readline() == b"two\n"
        nodes.more.put_nowait(b"three\n")
        assert await answer.content.readline() == b"three\n"
    async with asyncio.timeout(60):
        await nodes.ended.wait()


# ---- no leader, or not the one we think


async def test_without_a_leader_it_is_503_and_when_to_come_again(standby, pod):
    forwarder, client = standby
    forwarder.become(Role.FOLLOWING)
    forwarder.trouble = lambda: "ZooKeeper is out of reach"
    for method, path in (("GET", PODS), ("POST", PODS), ("GET", "/unheard-of")):
        answer = await client(method, path, pod() if method == "POST" else None)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json["reason"] == "ServiceUnavailable"
        assert answer.json["message"] == "ZooKeeper is out of reach; try again"
    assert (await client("GET", PODS, resourceVersion=0)).status == 200


async def test_what_has_no_state_yet_answers_no_reads(instance, api):
    _, url = await instance()
    client = type(api)(api.session, url)
    assert (await client("GET", f"{PODS}?resourceVersion=0")).status == 503
    assert (await client("GET", "/version")).status == 200


async def test_requests_wait_for_a_leader(instance, seen, server, api, pod):
    forwarder, url = await instance(patience=60.0)
    client = type(api)(api.session, url)
    forwarder.become(Role.FOLLOWING)
    waiting = asyncio.ensure_future(client("POST", PODS, pod("a")))
    await asyncio.sleep(0.05)
    forwarder.become(Role.FOLLOWING, Leader(api.base))
    assert (await waiting).status == 201
    assert len(seen) == 1
    forwarder.become(Role.FOLLOWING)
    waiting = asyncio.ensure_future(client("POST", PODS, pod("b")))
    await asyncio.sleep(0.05)
    forwarder.become(Role.LEADING)
    assert (await waiting).status == 201
    assert len(seen) == 1


async def test_a_request_never_goes_round(instance, api, pod):
    one, first = await instance("one")
    two, second = await instance("two")
    one.become(Role.FOLLOWING, Leader(second))
    two.become(Role.FOLLOWING, Leader(first))
    answer = await type(api)(api.session, first)("POST", PODS, pod())
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


class Dying:
    """A leader of whom one sees `said`, and then the end of the connection."""

    def __init__(self, said=b""):
        self.said = said
        self.requests = 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        writer.write(self.said)
        await writer.drain()
        writer.close()


async def test_a_leader_that_dies_before_it_answers(standby, pod):
    """What may have been done is not done again, and not called undone."""
    forwarder, client = standby
    async with Dying() as leader:
        forwarder.become(Role.FOLLOWING, Leader(leader.url))
        answer = await client("POST", PODS, pod())
        assert (answer.status, answer.json["reason"], leader.requests) == (504, "Timeout", 1)
        assert "may have been done, or not" in answer.json["message"]
        assert (await client("GET", PODS)).status == 503
    answer = await client("POST", PODS, pod())  # nobody listens there any more
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_watch_ends_cleanly_when_the_leader_dies(standby):
    forwarder, client = standby
    line = b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n'
    async with Dying(HEAD + b"%x\r\n%b\r\n" % (len(line) + 9, line + b'{"type":"')) as leader:
        forwarder.become(Role.FOLLOWING, Leader(leader.url))
        stream = await client.watch(PODS)
        assert await stream.take(1) == [("ADDED", "a")]
        assert await stream.next() is None


async def test_an_answer_that_breaks_off_is_seen_to_break_off(standby):
    forwarder, client = standby
    async with Dying(HEAD + b'9\r\n{"items":\r\n') as leader:
        forwarder.become(Role.FOLLOWING, Leader(leader.url))
        with pytest.raises(aiohttp.ClientError):
            await client("GET", PODS)


@pytest.mark.parametrize("token", ["s3cret"])
async def test_tokens_are_looked_at_here_and_there(standby, instance, seen, pod, api, store, nodes):
    forwarder, client = standby
    assert (await client("GET", PODS)).status == 401
    assert seen == []
    good = {"Authorization": "Bearer s3cret"}
    assert (await client("GET", PODS, headers=good)).status == 200
    app = make_app(store, nodes=nodes, version="0.1.0", token="other")
    runner, port = await start_server(app, "127.0.0.1", 0)
    forwarder.become(Role.FOLLOWING, Leader(f"http://127.0.0.1:{port}"))
    answer = await client("GET", PODS, headers=good)
    assert answer.status == 503
    assert "all have to have the same token" in answer.json["message"]
    await runner.cleanup()


async def test_a_leader_that_is_cut_off_says_so(instance, api):
    forwarder, url = await instance()
    client = type(api)(api.session, url)
    forwarder.become(Role.LEADING)
    assert (await client("GET", PODS)).warnings == []
    forwarder.doubt = lambda: "ZooKeeper is out of reach"
    (warning,) = (await client("GET", PODS)).warnings
    assert warning == '299 - "ZooKeeper is out of reach: what this scheduler shows may be old"'
    assert (await client("GET", "/version")).warnings == []


# ---- TLS


@pytest.fixture
async def secure(app, seen, serving_tls):
    """The leader with TLS: its address and its certificate's fingerprint."""
    runner, port = await start_server(app, "127.0.0.1", 0, tls=serving_tls[0])
    yield f"https://127.0.0.1:{port}", serving_tls[1]
    await runner.cleanup()


@pytest.fixture
def serving_tls(tmp_path):
    made = Certificate(directory=tmp_path / "certs").tls(["127.0.0.1"], datetime.now(UTC))
    return made.context, made.fingerprint


async def test_the_leaders_certificate_is_pinned(instance, secure, seen, api, pod):
    url, fingerprint = secure
    forwarder, here = await instance()
    client = type(api)(api.session, here)
    forwarder.become(Role.FOLLOWING, Leader(url, fingerprint))
    assert (await client("POST", PODS, pod())).status == 201
    seen.clear()
    forwarder.become(Role.FOLLOWING, Leader(url, "00" * 32))
    answer = await client("GET", PODS)
    assert answer.status == 503
    assert seen == [], "the token would have been shown"


# ---- other protocols


class Upgrading:
    """A leader that answers 101 to a POST with `Upgrade: SPDY/3.1`, and sends back what it gets, reversed."""

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 21)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.head = b""
        self.gone = asyncio.Event()
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        self.head = await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Is: exec\r\n\r\n"
        )
        while line := await reader.readline():
            writer.write(line[:-1][::-1] + b"\n")
        self.gone.set()
        writer.close()


async def open_raw(url):
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


@pytest.mark.parametrize("protocol", ["SPDY/3.1", "websocket"])
async def test_what_changes_its_protocol_is_a_tunnel(standby, protocol):
    forwarder, client = standby
    async with Upgrading() as leader:
        forwarder.become(Role.FOLLOWING, Leader(leader.url))
        reader, writer = await open_raw(client.base)
        request = f"POST {PODS}/web/exec?command=a%20b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        writer.write(f"{request}Upgrade: {protocol}\r\nContent-Length: 0\r\nX-Mine: 1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"X-Is: exec" in head
        assert b"exec?command=a%20b HTTP/1.1\r\n" in leader.head
        assert f"Upgrade: {protocol}\r\n".encode() in leader.head
        assert b"X-Mine: 1\r\n" in leader.head
        for size in (3, 300_000):
            writer.write(b"abc" * size + b"\n")
            assert await reader.readexactly(size * 3 + 1) == b"cba" * size + b"\n"
        writer.close()
        async with asyncio.timeout(60):
            await leader.gone.wait()


async def test_a_refused_change_of_protocol_is_an_answer(standby, pod, api, seen):
    _, client = standby
    await api("POST", PODS, pod())
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    answer = await client("POST", f"{PODS}/web/unheard-of", headers=headers)
    assert (answer.status, answer.json["reason"]) == (404, "NotFound")
    assert len(seen) == 1
