"""The way to the nodes: logs from executors' node servers, and the list of agents from the master."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp

from scheduler.framework.core.events import AgentsListed, Event
from scheduler.framework.mesos import agent_from_json
from scheduler.registry.errors import ApiError, BadRequest, InternalError, ServiceUnavailable
from shared.mesos import operator
from shared.mesos.scheduler_driver import SchedulerDriver
from shared.mesos.settings import Access

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
CONNECT_SECONDS = 5.0

CONNECTING_SECONDS = 0.1
FAST_SECONDS = 1.0
FAST_ROUNDS = 30
SLOW_SECONDS = 15.0


class NodeProxy:
    """Implements the API's NodeProxy over HTTP. `where_is`: node server and token of a pod by uid."""

    def __init__(self, where_is: Callable[[str], tuple[str, str] | None]) -> None:
        self._where_is = where_is
        self._session: aiohttp.ClientSession | None = None

    async def logs(
        self, pod: dict[str, Any], container: str, query: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """GET /containerLogs/NAMESPACE/POD/CONTAINER, as the kubelet has it; the stream as it comes."""
        meta = pod["metadata"]
        where = self._where_is(meta["uid"])
        if where is None:
            raise ServiceUnavailable(
                f"the node of pod {meta['namespace']}/{meta['name']} has not reported yet"
            )
        server, token = where
        url = f"http://{server}/containerLogs/{meta['namespace']}/{meta['name']}/{container}"
        headers = {"Authorization": f"Bearer {token}"}
        async with self._client().get(url, params=dict(query), headers=headers) as answer:
            if answer.status != 200:
                raise await _refusal(answer)
            async for chunk in answer.content.iter_any():
                yield chunk

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _refusal(answer: aiohttp.ClientResponse) -> ApiError:
    text = (
        " ".join((await answer.text(errors="replace")).split()) or f"the node answered HTTP {answer.status}"
    )
    if answer.status in {400, 404}:
        return BadRequest(text)
    return InternalError(f"the node answered HTTP {answer.status}: {text}")


async def watch_agents(
    driver: SchedulerDriver, roles: Sequence[str], put: Callable[[Event], None], access: Access
) -> None:
    """Asks the master for its agents, often in the beginning of a connection, then now and then; until cancelled."""
    rounds, master, complained = 0, None, ""
    while True:
        if driver.master != master:
            rounds, master = 0, driver.master
        if master is None:
            await asyncio.sleep(CONNECTING_SECONDS)
            continue
        complaint = await _list_agents(master, roles, put, access)
        if complaint and complaint != complained:
            log.warning("cannot list the agents of %s, nodes come from offers alone: %s", master, complaint)
        complained = complaint
        rounds += 1
        await asyncio.sleep(FAST_SECONDS if rounds < FAST_ROUNDS else SLOW_SECONDS)


async def _list_agents(
    master: str, roles: Sequence[str], put: Callable[[Event], None], access: Access
) -> str:
    """One round; what went wrong, or ""."""
    try:
        answer = await operator.call(
            master, {"type": "GET_AGENTS"}, credentials=access.credentials, tls=access.tls
        )
    except (operator.OperatorError, OSError) as error:
        return str(error) or type(error).__name__
    listed = answer.get("get_agents") or {}
    agents = tuple(agent_from_json(one, roles) for one in listed.get("agents") or ())
    recovering = frozenset(one["id"]["value"] for one in listed.get("recovered_agents") or ())
    put(AgentsListed(agents, recovering))
    return ""
