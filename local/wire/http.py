"""The HTTP manners of Mesos' v1 endpoints: what is refused, with which status, header and words.

Not the endpoints themselves. A refusal is an exception that aiohttp turns into the reply.

Source: Mesos src/master/http.cpp (`Master::Http::scheduler`), src/slave/http.cpp (`Http::executor`),
3rdparty/libprocess/include/process/http.hpp (`MethodNotAllowed`, `acceptsMediaType`).
"""

from typing import Any

import orjson
from aiohttp import web

from local.wire.proto import Json, ProtoError, parse

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
MAX_BODY = 64 * 1024 * 1024


def bad_request(text: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=text)


def require_post(request: web.Request) -> None:
    """405 for every method but POST."""
    if request.method != "POST":
        raise web.HTTPMethodNotAllowed(
            request.method,
            ["POST"],
            text=f"405 Method Not Allowed. Expecting one of {{ 'POST' }}, but received '{request.method}'.",
        )


def accepts(header: str | None, media_type: str) -> bool:
    """Whether an Accept header allows the type; no header allows everything."""
    if not header:
        return True
    main = media_type.split("/")[0]
    for item in header.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        zero = any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
        if name.lower() in (media_type, f"{main}/*", "*/*") and not zero:
            return True
    return False


def require_accept(request: web.Request) -> None:
    """406 when the peer takes no JSON."""
    header = request.headers.get("Accept")
    if accepts(header, JSON):
        return
    text = f"Expecting 'Accept' to allow '{PROTOBUF}' or '{JSON}'"
    if accepts(header, PROTOBUF):
        text = f"Expecting 'Accept' to allow '{JSON}': the embedded Mesos speaks no protobuf"
    raise web.HTTPNotAcceptable(text=text)


async def read_call(request: web.Request, message: str) -> Json:
    """The call in the body: `read_json`, then the message. Every refusal is Mesos'."""
    body = await read_json(request)
    try:
        return parse(message, body)
    except ProtoError as error:
        raise bad_request(f"Failed to convert JSON into Call protobuf: {error}") from error


async def read_json(request: web.Request) -> Any:
    """The JSON of the body; 400 or 415 when it is something else."""
    content_type = request.headers.get("Content-Type")
    if content_type is None:
        raise bad_request("Expecting 'Content-Type' to be present")
    if content_type != JSON:
        text = f"Expecting 'Content-Type' of {JSON} or {PROTOBUF}"
        if content_type == PROTOBUF:
            text = f"Expecting 'Content-Type' of {JSON}: the embedded Mesos speaks no protobuf"
        raise web.HTTPUnsupportedMediaType(text=text)
    body = await request.read()
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        rest = body[error.pos :].split(b"\n")[0].decode("utf-8", "replace")
        text = f"Failed to parse body into JSON: syntax error at line {error.lineno} near: {rest}"
        raise bad_request(text) from error


def json_reply(obj: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(obj), status=status, content_type=JSON)


def accepted() -> web.Response:
    return web.Response(status=202)


def redirect(location: str) -> web.Response:
    """307 with a Location that has no scheme, as Mesos sends it."""
    return web.Response(status=307, headers={"Location": location})
