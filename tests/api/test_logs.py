"""pods/log: which container, what is refused here, what is passed on, how streams end."""

import asyncio

import aiohttp
import pytest

from scheduler.api import logs
from scheduler.registry.errors import BadRequest, NotFound

PODS = "/api/v1/namespaces/default/pods"
LOG = f"{PODS}/web/log"


@pytest.fixture
async def web(api, pod, running):
    await api("POST", PODS, pod())
    await running("web")


async def test_log_is_passed_on_with_its_query(api, web, nodes):
    answer = await api(
        "GET", LOG, tailLines=5, timestamps="true", previous="false", pretty="true", limitBytes=9
    )
    assert (answer.status, answer.headers["Content-Type"], answer.text) == (200, "text/plain", "one\ntwo\n")
    assert nodes.calls == [("web", "c", {"tailLines": "5", "timestamps": "true", "limitBytes": "9"})]


async def test_followed_log_comes_as_it_is_written(api, web, nodes):
    async with api.session.get(api.base + LOG, params={"follow": "true"}) as response:
        assert await response.content.readline() == b"one\n"
        assert await response.content.readline() == b"two\n"
        await nodes.more.put(b"three\n")
        assert await response.content.readline() == b"three\n"
        await nodes.more.put(None)
        assert await response.content.read() == b""


async def test_headers_come_before_the_first_line(api, web, nodes, monkeypatch):
    monkeypatch.setattr(logs, "PATIENCE", 0.01)
    nodes.chunks = []
    async with api.session.get(api.base + LOG, params={"follow": "true"}) as response:
        assert response.status == 200
        await nodes.more.put(b"late\n")
        assert await response.content.readline() == b"late\n"


async def test_client_that_goes_away_ends_the_log(api, web, nodes):
    response = await api.session.get(api.base + LOG, params={"follow": "true"})
    await response.content.readline()
    response.close()
    async with asyncio.timeout(60):
        await nodes.ended.wait()


async def test_client_that_goes_away_before_the_first_line(api, web, nodes, caplog):
    nodes.chunks = []
    task = asyncio.ensure_future(api.session.get(api.base + LOG, params={"follow": "true"}))
    async with asyncio.timeout(60):
        await nodes.asked.wait()
        task.cancel()
        await nodes.ended.wait()
    assert caplog.records == []


async def test_server_that_stops_ends_the_log(api, web, nodes, server):
    async with api.session.get(api.base + LOG, params={"follow": "true"}) as response:
        assert await response.content.readline() == b"one\n"
        await server[0].cleanup()
        async with asyncio.timeout(60):
            await nodes.ended.wait()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (NotFound("pods", "web"), 404, "NotFound"),
        (BadRequest("container is waiting"), 400, "BadRequest"),
        (LookupError("no log of c"), 400, "BadRequest"),
        (ConnectionRefusedError(111, "refused"), 503, "ServiceUnavailable"),
        (aiohttp.ServerDisconnectedError(), 503, "ServiceUnavailable"),
        (TimeoutError(), 504, "Timeout"),
        (RuntimeError("bug"), 500, "InternalError"),
    ],
)
async def test_errors_of_nodes_become_statuses(api, web, nodes, error, status, reason):
    nodes.error = error
    answer = await api("GET", LOG)
    assert (answer.status, answer.json["reason"]) == (status, reason)


async def test_pod_without_a_node_has_an_empty_log(api, pod, nodes):
    await api("POST", PODS, pod())
    answer = await api("GET", LOG)
    assert (answer.status, answer.text, nodes.calls) == (200, "", [])
    assert (await api("GET", f"{PODS}/nope/log")).status == 404


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tailLines": "-1"}, "tailLines: must be at least 0"),
        ({"tailLines": "x"}, "'x' is not a number"),
        ({"sinceSeconds": "0"}, "sinceSeconds: must be at least 1"),
        ({"sinceSeconds": "5", "sinceTime": "2026-01-01T00:00:00Z"}, "at most one of"),
        ({"sinceTime": "yesterday"}, "'yesterday' is not an RFC 3339 time"),
        ({"follow": "maybe"}, "neither true nor false"),
        ({"container": "z"}, "container z is not valid for pod web"),
        ({"previous": "true"}, 'previous terminated container "c" in pod "web" not found'),
    ],
)
async def test_refused_without_asking_the_node(api, web, nodes, query, message):
    answer = await api("GET", LOG, **query)
    assert (answer.status, nodes.calls) == (400, [])
    assert message in answer.json["message"]


async def test_choice_of_containers(api, pod, stored, nodes):
    body = pod(
        containers=[{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        initContainers=[{"name": "setup", "image": "i"}],
    )
    await api("POST", PODS, body)
    waiting = {"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    crashed = {
        "name": "b",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {}},
    }
    done = {"name": "setup", "state": {"terminated": {"exitCode": 0}}}
    status = {"phase": "Pending", "containerStatuses": [waiting, crashed], "initContainerStatuses": [done]}
    await stored("pods", "default", "web", spec={"nodeName": "n"}, status=status)
    none = await api("GET", LOG)
    assert none.json["message"] == (
        "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [setup]"
    )
    unstarted = await api("GET", LOG, container="a")
    assert unstarted.json["message"] == 'container "a" in pod "web" is waiting to start: ImagePullBackOff'
    assert (await api("GET", LOG, container="b")).status == 200
    assert (await api("GET", LOG, container="b", previous="true")).status == 200
    assert (await api("GET", LOG, container="setup")).status == 200
