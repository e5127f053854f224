"""Bytes to HTTP responses: content type, warnings, gzip for what is large."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable
from typing import Any

import orjson
from aiohttp import hdrs, web

from scheduler.api.context import API
from scheduler.api.negotiate import negotiate
from scheduler.api.table import Renderer, include_object
from scheduler.registry.resource import Resource
from scheduler.store import Entry

GZIP_FROM = 128 * 1024
"""Bytes from which an answer is compressed, as in kube-apiserver."""


def renderer(request: web.Request, resource: Resource, *, stream: bool = False) -> Renderer:
    """Raises NotAcceptable, BadRequest."""
    form = negotiate(request.headers.get(hdrs.ACCEPT, ""), stream=stream)
    include = include_object(request.query.get("includeObject"))
    return Renderer(resource, form, include, request.app[API].clock)


async def answer(
    request: web.Request,
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    warnings: Iterable[str] = (),
) -> web.Response:
    """With Warning headers; large bodies are compressed for clients that take gzip."""
    response = web.Response(body=body, status=status, headers={hdrs.CONTENT_TYPE: content_type})
    for warning in warnings:
        response.headers.add("Warning", warning_header(warning))
    if len(body) >= GZIP_FROM and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        response.body = await asyncio.to_thread(_gzip, body)
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
        response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    return response


async def answer_entry(
    request: web.Request, resource: Resource, entry: Entry, *, status: int = 200, warnings: Iterable[str] = ()
) -> web.Response:
    """One object in the form the client accepts."""
    writer = renderer(request, resource)
    body, content_type = writer.one(entry), writer.form.content_type
    return await answer(request, body, status=status, content_type=content_type, warnings=warnings)


async def answer_object(request: web.Request, obj: dict[str, Any], *, status: int = 200) -> web.Response:
    """Something that is no resource (a Status, a discovery document), as JSON."""
    negotiate(request.headers.get(hdrs.ACCEPT, ""))
    return await answer(request, orjson.dumps(obj), status=status)


def warning_header(text: str) -> str:
    """RFC 7234 warning 299, as client-go parses it: printable, quotes escaped."""
    printable = "".join(one if one.isprintable() else " " for one in text)
    quoted = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted}"'


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()
