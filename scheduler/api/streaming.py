"""pods/exec, pods/attach, pods/portforward: finds the container, then passes bytes on, both ways, to its executor.

What can be said from the pod alone is answered here, in the words of kube-apiserver. What is spoken on the connection,
WebSocket or SPDY, is a matter of the client and the executor (executor/server/streaming.py).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import hdrs, web

from scheduler.api.context import API
from scheduler.api.forward_http import Leader, NotSent, end_to_end
from scheduler.api.forward_tunnel import tunnel, wants_upgrade
from scheduler.api.logs import choose_container
from scheduler.api.query import flag
from scheduler.api.read import find, key_of
from scheduler.registry.errors import ApiError, BadRequest, InternalError, ServiceUnavailable
from scheduler.registry.resource import Resource

_FLAGS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
"""What the API calls them, and what the kubelet does."""


async def execute(request: web.Request, resource: Resource) -> web.StreamResponse:
    """`pods/NAME/exec`: the client's connection is passed on to the pod's executor."""
    command = request.query.getall("command", [])
    if not command:
        raise BadRequest("you must specify at least 1 command for the container")
    pod = _pod(request, resource)
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        phase = pod["status"]["phase"]
        raise BadRequest(f"cannot exec into a container in a completed pod; current phase is {phase}")
    return await _pass_on(
        request, pod, "exec", _container(request, pod), [("command", word) for word in command]
    )


async def attach(request: web.Request, resource: Resource) -> web.StreamResponse:
    """`pods/NAME/attach`, likewise."""
    pod = _pod(request, resource)
    return await _pass_on(request, pod, "attach", _container(request, pod), [])


async def forward_ports(request: web.Request, resource: Resource) -> web.StreamResponse:
    """`pods/NAME/portforward`, likewise."""
    pod = _pod(request, resource)
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise BadRequest(f"cannot forward ports of a completed pod; current phase is {phase}")
    ports = [one for value in request.query.getall("ports", []) for one in value.split(",") if one]
    return await _pass_on(request, pod, "portForward", "", [("port", port) for port in ports])


def _pod(request: web.Request, resource: Resource) -> dict[str, Any]:
    pod = find(request.app[API], resource, key_of(request, resource)).obj
    if not (pod.get("spec") or {}).get("nodeName"):
        raise BadRequest(f"pod {pod['metadata']['name']} does not have a host assigned")
    if not wants_upgrade(request):
        raise BadRequest("Upgrade request required")
    return pod


def _container(request: web.Request, pod: dict[str, Any]) -> str:
    return choose_container(pod, request.query.get("container", ""))


async def _pass_on(
    request: web.Request, pod: dict[str, Any], what: str, container: str, query: list[tuple[str, str]]
) -> web.StreamResponse:
    api, meta = request.app[API], pod["metadata"]
    server, token = api.nodes.where(pod)
    parts = [what, meta["namespace"], meta["name"], *([container] if container else [])]
    given = [(theirs, "1") for ours, theirs in _FLAGS if flag(request.query, ours)] if container else []
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    if query or given:
        path += "?" + urlencode([*query, *given])
    headers = end_to_end(request.headers)
    headers.popall(hdrs.COOKIE, None)
    headers[hdrs.AUTHORIZATION] = f"Bearer {token}"
    leader = Leader(f"http://{server}")
    try:
        answer = await api.stream(tunnel(request, leader, headers, path=path, who="node's executor"))
    except NotSent as error:
        raise ServiceUnavailable(str(error)) from error
    if answer is None:
        raise ConnectionResetError
    raise _refusal(answer)


def _refusal(answer: web.StreamResponse) -> ApiError:
    """The tunnel is at its end without having begun."""
    body = answer.body if isinstance(answer, web.Response) else b""
    text = " ".join(body.decode(errors="replace").split()) if isinstance(body, bytes) else ""
    text = text or f"the node answered HTTP {answer.status}"
    return BadRequest(text) if answer.status in {400, 404} else InternalError(text)
