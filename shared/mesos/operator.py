"""The v1 operator API of a master, as far as a scheduler needs it.

One connection a call: it is asked every few seconds at most.

Source: Mesos docs/operator-http-api.md.
"""

import asyncio
import ssl
from typing import Any

import orjson

from shared.mesos.credentials import Credentials
from shared.mesos.http import Endpoint, Head, HttpConnection, Reply

_REDIRECTS = 5


class OperatorError(Exception):
    """The master answered with other than 200, or with nothing that can be read."""


async def call(
    master: str,
    body: dict[str, Any],
    *,
    credentials: Credentials | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 10.0,
) -> dict[str, Any]:
    """One call to `host:port` or a URL of it, redirects to the leader followed with the credentials, which are
    renewed once on a 401; the JSON of the answer, {} for an empty one.

    OperatorError for an answer that is not a success, OSError (TimeoutError included) for none.
    """
    endpoint = Endpoint.parse(master)
    renewed = False
    async with asyncio.timeout(timeout):
        for _ in range(_REDIRECTS + 2):
            authorization = await credentials.authorization() if credentials else None
            head, answer = await _post(endpoint, orjson.dumps(body), authorization, tls, timeout)
            if head.status == 401 and credentials and authorization and not renewed:
                renewed = True
                if await credentials.renew(authorization):
                    continue
            if head.status in (301, 302, 307, 308) and "location" in head.headers:
                try:
                    endpoint = endpoint.redirected(head.headers["location"], tls)
                except ValueError as error:
                    raise OperatorError(f"{endpoint}: a redirect that is not followed: {error}") from error
                continue
            return _parse(f"{body.get('type')} at {endpoint}", head, answer)
    raise OperatorError(f"{master}: more than {_REDIRECTS} redirects; is there a leading master?")


async def get_agents(
    master: str,
    *,
    credentials: Credentials | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 10.0,
) -> list[dict[str, Any]]:
    """GET_AGENTS: `get_agents.agents` as the master has it (agent_info, active, version, total_resources,
    allocated_resources…). Errors as of `call`."""
    answer = await call(master, {"type": "GET_AGENTS"}, credentials=credentials, tls=tls, timeout=timeout)
    if answer.get("type") != "GET_AGENTS":
        raise OperatorError(f"GET_AGENTS was answered with {answer.get('type')!r}")
    return list((answer.get("get_agents") or {}).get("agents") or [])


async def _post(
    endpoint: Endpoint, body: bytes, authorization: str | None, tls: ssl.SSLContext | None, timeout: float
) -> tuple[Head, bytes]:
    headers = f"Authorization: {authorization}\r\n" if authorization else ""
    connection = await HttpConnection.open(endpoint, tls=tls, timeout=timeout)
    answer: asyncio.Future[tuple[Head, bytes]] = asyncio.get_running_loop().create_future()

    def done(head: Head, content: bytes) -> None:
        if not answer.done():
            answer.set_result((head, content))

    def lost(error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)

    try:
        connection.post("/api/v1", headers + "Connection: close\r\n", body, Reply(done, lost))
        return await answer
    finally:
        connection.close()


def _parse(what: str, head: Head, answer: bytes) -> dict[str, Any]:
    if not 200 <= head.status < 300:
        text = answer.decode("utf-8", "replace").strip()
        raise OperatorError(f"{what}: HTTP {head.status}" + (f": {text}" if text else ""))
    if not answer:
        return {}
    try:
        parsed = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise OperatorError(f"{what}: the answer is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise OperatorError(f"{what}: the answer is not an object")
    return parsed
