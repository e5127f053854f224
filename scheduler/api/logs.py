"""pods/log: finds the container, then passes on what the node's executor sends.

What can be said from the pod alone is answered here, in the words of kube-apiserver and the kubelet, because
clients match on them: which container is meant, and that one has not started.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
from aiohttp import web

from scheduler.api.context import API
from scheduler.api.query import Query, flag, number
from scheduler.api.read import find, key_of
from scheduler.api.status import STREAM
from scheduler.registry.errors import ApiError, BadRequest, ServiceUnavailable, Timeout
from scheduler.registry.resource import Resource

PASSED_ON = ("follow", "previous", "timestamps", "tailLines", "sinceSeconds", "sinceTime", "limitBytes")

PATIENCE = 1.0
"""Seconds to wait for the first bytes, and so for an error that can still become a Status."""


async def log(request: web.Request, resource: Resource) -> web.StreamResponse:
    """`pods/NAME/log`, from the pod's executor; a stream with `follow=true`."""
    api = request.app[API]
    pod = find(api, resource, key_of(request, resource)).obj
    query = checked(request.query)
    container = choose_container(pod, request.query.get("container", ""))
    response = web.StreamResponse(
        headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"}
    )
    if not (pod.get("spec") or {}).get("nodeName"):
        return web.Response(text="")  # as kube-apiserver: no node, no log
    refuse_unstarted(pod, container, previous=query.get("previous") == "true")
    await api.stream(_pump(request, response, api.nodes.logs(pod, container, query)))
    return response


async def _pump(request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes]) -> None:
    first = asyncio.ensure_future(_first(chunks))
    try:
        await asyncio.wait([first], timeout=PATIENCE)
        if first.done():
            await first  # an error now becomes a Status
        request[STREAM] = response
        await response.prepare(request)
        chunk = await first
        while chunk is not None:
            if chunk:
                await response.write(chunk)
            chunk = await _first(chunks)
        await response.write_eof()
    finally:
        first.cancel()
        await asyncio.wait([first])  # a generator that still runs cannot be closed
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _first(chunks: AsyncIterator[bytes]) -> bytes | None:
    """The next bytes, None at the end. Raises ApiError for all that a NodeProxy may raise."""
    try:
        return await anext(chunks, None)
    except ApiError:
        raise
    except LookupError as error:
        raise BadRequest(str(error.args[0] if error.args else error)) from error
    except TimeoutError as error:
        raise Timeout(f"the node did not answer: {error}") from error
    except (OSError, aiohttp.ClientError) as error:
        raise ServiceUnavailable(f"the node cannot be reached: {error}") from error


def checked(query: Query) -> dict[str, str]:
    """The parameters for the node. Raises BadRequest."""
    number(query, "tailLines")
    number(query, "limitBytes", least=1)
    number(query, "sinceSeconds", least=1)
    if query.get("sinceTime") and query.get("sinceSeconds"):
        raise BadRequest("at most one of `sinceTime` or `sinceSeconds` may be specified")
    try:
        datetime.fromisoformat(query.get("sinceTime") or "2000-01-01")
    except ValueError:
        raise BadRequest(
            f"query parameter sinceTime: {query['sinceTime']!r} is not an RFC 3339 time"
        ) from None
    passed = {name: query[name] for name in PASSED_ON if query.get(name)}
    for name in ("follow", "previous", "timestamps"):
        passed.pop(name, None)
        if flag(query, name):
            passed[name] = "true"
    return passed


def choose_container(pod: dict[str, Any], wanted: str) -> str:
    """The container meant. Raises BadRequest, worded as in kube-apiserver's `core/pod/strategy.go`."""
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    containers = [one["name"] for one in spec.get("containers") or []]
    others = [
        one["name"] for kind in ("initContainers", "ephemeralContainers") for one in spec.get(kind) or []
    ]
    if wanted:
        if wanted not in containers + others:
            raise BadRequest(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(containers) == 1:
        return str(containers[0])
    choices = f"choose one of: [{' '.join(containers)}]"
    if others:
        choices += f" or one of the init containers: [{' '.join(others)}]"
    raise BadRequest(f"a container name must be specified for pod {name}, {choices}")


def refuse_unstarted(pod: dict[str, Any], container: str, *, previous: bool) -> None:
    """Raises BadRequest when the log asked for cannot exist, in the kubelet's words."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    known = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    state: dict[str, Any] = next((one for one in known if one.get("name") == container), {})
    ended = "terminated" in (state.get("lastState") or {})
    if previous and not ended:
        raise BadRequest(f'previous terminated container "{container}" in pod "{name}" not found')
    now = state.get("state") or {"waiting": {}}
    if "waiting" in now and not ended and status.get("phase") not in ("Succeeded", "Failed"):
        reason = now["waiting"].get("reason") or "ContainerCreating"
        raise BadRequest(f'container "{container}" in pod "{name}" is waiting to start: {reason}')
