"""pods/exec, pods/attach, pods/portforward: what is refused here, what is passed on to the node, and that bytes are."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

PODS = "/api/v1/namespaces/default/pods"
V4 = "v4.channel.k8s.io"


@pytest.fixture
async def web_pod(api, pod, running):
    await api("POST", PODS, pod())
    await running("web")


class Node:
    """A node server that says what it was asked, then echoes."""

    def __init__(self):
        self.asked = []
        self.refuse = None
        self.gone = asyncio.Event()

    async def handle(self, request):
        self.asked.append((request.method, request.raw_path, request.headers["Authorization"]))
        if self.refuse is not None:
            return web.Response(status=self.refuse[0], text=self.refuse[1])
        socket = web.WebSocketResponse(protocols=(V4,))
        await socket.prepare(request)
        try:
            async for message in socket:
                await socket.send_bytes(message.data)
        finally:
            self.gone.set()
        return socket


@pytest.fixture
async def node(nodes):
    made = Node()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    nodes.server = f"127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (
            "exec?command=sh&command=-c&command=a%20%26%20b&stdin=true&stdout=1&tty=true&stderr=false",
            "/exec/default/web/c?command=sh&command=-c&command=a+%26+b&input=1&output=1&tty=1",
        ),
        ("attach?container=c&stdout=true&stderr=true", "/attach/default/web/c?output=1&error=1"),
        ("portforward", "/portForward/default/web"),
        ("portforward?ports=80,81&ports=82", "/portForward/default/web?port=80&port=81&port=82"),
    ],
)
async def test_bytes_go_both_ways(api, web_pod, node, path, asked):
    async with api.session.ws_connect(f"{api.base}{PODS}/web/{path}", protocols=(V4,)) as socket:
        assert socket.protocol == V4
        for data in (b"hello", b"x" * 100_000):
            await socket.send_bytes(data)
            assert await socket.receive_bytes() == data
    async with asyncio.timeout(60):
        await node.gone.wait()
    assert node.asked == [("GET", asked, "Bearer node-token")]  # the client's own token stays here


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("exec", "you must specify at least 1 command for the container"),
        ("exec?command=a&container=nope", "container nope is not valid for pod web"),
        ("attach?container=nope", "container nope is not valid for pod web"),
    ],
)
async def test_what_the_pod_does_not_have_is_refused_here(api, web_pod, node, path, said):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    answer = await api("POST", f"{PODS}/web/{path}", headers=headers)
    assert (answer.status, answer.json["reason"], answer.json["message"]) == (400, "BadRequest", said)
    assert node.asked == []


async def test_without_an_upgrade_nothing_is_passed_on(api, web_pod, node):
    answer = await api("POST", f"{PODS}/web/exec?command=a")
    assert (answer.status, answer.json["message"]) == (400, "Upgrade request required")
    assert (await api("POST", f"{PODS}/none/attach")).status == 404


async def test_a_pod_without_a_node_has_nothing_to_execute_in(api, pod):
    await api("POST", PODS, pod())
    answer = await api("POST", f"{PODS}/web/attach")
    assert (answer.status, answer.json["message"]) == (400, "pod web does not have a host assigned")


@pytest.mark.parametrize(
    ("refuse", "status"), [((400, "container not found\n"), 400), ((404, ""), 400), ((401, "no"), 500)]
)
async def test_what_the_node_refuses_becomes_a_status(api, web_pod, node, refuse, status):
    node.refuse = refuse
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    answer = await api("POST", f"{PODS}/web/exec?command=a&stdout=1", headers=headers)
    assert answer.status == status
    assert (refuse[1].strip() or "the node answered HTTP 404") in answer.json["message"]


async def test_a_node_that_is_not_there(api, web_pod, nodes):
    nodes.server = "127.0.0.1:1"
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await api.session.ws_connect(f"{api.base}{PODS}/web/exec?command=a&stdout=1")
    assert error.value.status == 503


async def test_discovery_tells_of_them(api):
    listed = {one["name"]: one for one in (await api("GET", "/api/v1")).json["resources"]}
    for name, kind in (("exec", "PodExecOptions"), ("attach", "PodAttachOptions")):
        assert listed[f"pods/{name}"]["kind"] == kind
        assert listed[f"pods/{name}"]["verbs"] == ["create", "get"]
