from typing import Any

import pytest
from aiohttp import web

from shared.mesos.credentials import BasicCredentials
from shared.mesos.operator import OperatorError, call, get_agents

AGENTS = [{"agent_info": {"id": {"value": "S0"}, "hostname": "h"}, "active": True}]


async def test_agents_are_asked_of_the_leader(peer: Any, other_peer: Any) -> None:
    asked: list[tuple[dict[str, Any], str | None]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((await request.json(), request.headers.get("Authorization")))
        return web.json_response({"type": "GET_AGENTS", "get_agents": {"agents": AGENTS}})

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"//{other_peer.address}/master/api/v1"})

    peer.operator, other_peer.operator = redirect, answer
    assert await get_agents(peer.address, credentials=BasicCredentials("a", "b")) == AGENTS
    assert asked == [({"type": "GET_AGENTS"}, "Basic YTpi")]


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        ({"status": 403, "text": "not allowed"}, "HTTP 403: not allowed"),
        ({"text": "<html>"}, "not JSON"),
        ({"text": "[]"}, "not an object"),
        ({"text": '{"type": "GET_ROLES"}'}, "answered with 'GET_ROLES'"),
        ({"status": 307, "headers": {"Location": "//"}}, "a redirect that is not followed: not an address"),
    ],
)
async def test_answers_that_are_none(peer: Any, response: dict[str, Any], complaint: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(**response)

    peer.operator = answer
    with pytest.raises(OperatorError, match=complaint):
        await get_agents(peer.address)


async def test_a_circle_of_redirects_ends(peer: Any) -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"//{peer.address}"})

    peer.operator = redirect
    with pytest.raises(OperatorError, match="more than 5 redirects"):
        await get_agents(peer.address)


async def test_a_master_that_hangs_up(peer: Any) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    peer.operator = hang_up
    with pytest.raises(OSError):
        await get_agents(peer.address)
    await peer.close()
    with pytest.raises(OSError):
        await get_agents(peer.address)


async def test_a_call_without_an_answer(peer: Any) -> None:
    async def accept(_: web.Request) -> web.Response:
        return web.Response(status=202)

    peer.operator = accept
    assert await call(peer.address, {"type": "MARK_AGENT_GONE"}) == {}
