"""The way to the nodes: logs from executors' node servers, and from the master the list of agents, the maintenance
schedule and the quota of roles."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp

from scheduler.framework.core.events import AgentsListed, Event, MaintenanceListed, QuotaListed
from scheduler.framework.reading import AgentReader, windows_from_json
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

AGENTS, SCHEDULE, QUOTA = "GET_AGENTS", "GET_MAINTENANCE_SCHEDULE", "GET_QUOTA"


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
        server, token = self.where(pod)
        url = f"http://{server}/containerLogs/{meta['namespace']}/{meta['name']}/{container}"
        headers = {"Authorization": f"Bearer {token}"}
        async with self._client().get(url, params=dict(query), headers=headers) as answer:
            if answer.status != 200:
                raise await _refusal(answer)
            async for chunk in answer.content.iter_any():
                yield chunk

    def where(self, pod: dict[str, Any]) -> tuple[str, str]:
        """HOST:PORT of the pod's node server, and the token for it. Raises ServiceUnavailable."""
        meta = pod["metadata"]
        found = self._where_is(meta["uid"])
        if found is None:
            raise ServiceUnavailable(
                f"the node of pod {meta['namespace']}/{meta['name']} has not reported yet"
            )
        return found

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
    driver: SchedulerDriver,
    roles: Sequence[str],
    put: Callable[[Event], None],
    access: Access,
    clock: Callable[[], float] = time.time,
) -> None:
    """Asks the master for its agents, for what maintenance is planned and for quota, often in the beginning of a
    connection, then now and then; until cancelled. Credentials that may read the one need not be allowed to read the
    others."""
    rounds, master, reader = 0, None, AgentReader(roles)
    complained: dict[str, str] = {}
    while True:
        if driver.master != master:
            rounds, master = 0, driver.master
        if master is None:
            await asyncio.sleep(CONNECTING_SECONDS)
            continue
        for kind, lacking in (
            (AGENTS, "nodes come from offers alone"),
            (SCHEDULE, "maintenance shows in offers alone"),
            (QUOTA, "pods that wait do not say what limits their role has"),
        ):
            asked_at = clock()
            try:
                answer = await operator.call(
                    master, {"type": kind}, credentials=access.credentials, tls=access.tls
                )
                put(_listed(kind, answer, reader, asked_at))
                complaint = ""
            except (operator.OperatorError, OSError) as error:
                complaint = str(error) or type(error).__name__
            if complaint and complaint != complained.get(kind):
                log.warning("cannot read %s of %s, %s: %s", kind, master, lacking, complaint)
            complained[kind] = complaint
        rounds += 1
        await asyncio.sleep(FAST_SECONDS if rounds < FAST_ROUNDS else SLOW_SECONDS)


def _listed(kind: str, answer: dict[str, Any], reader: AgentReader, asked_at: float) -> Event:
    if kind == SCHEDULE:
        schedule = (answer.get("get_maintenance_schedule") or {}).get("schedule") or {}
        return MaintenanceListed(windows_from_json(schedule), asked_at)
    if kind == QUOTA:
        return QuotaListed(limits_from_json((answer.get("get_quota") or {}).get("status") or {}))
    listed = answer.get("get_agents") or {}
    agents = reader.read(listed.get("agents") or ())
    recovering = frozenset(one["id"]["value"] for one in listed.get("recovered_agents") or ())
    return AgentsListed(agents, recovering)


def limits_from_json(status: dict[str, Any]) -> dict[str, str]:
    """The limits in a QuotaStatus, in words, by role. Before Mesos 1.9 a guarantee was the limit, too."""
    found: dict[str, dict[str, float]] = {}
    for config in status.get("configs") or ():
        limits = config.get("limits") or {}
        found[config["role"]] = {name: scalar["value"] for name, scalar in limits.items()}
    for info in () if "configs" in status else status.get("infos") or ():
        listed = info.get("guarantee") or ()
        found[info["role"]] = {one["name"]: one["scalar"]["value"] for one in listed if "scalar" in one}
    return {
        role: ", ".join(f"{name} {amount:g}" for name, amount in sorted(limits.items()))
        for role, limits in found.items()
        if limits
    }
