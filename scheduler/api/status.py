"""Errors to Kubernetes `Status` answers: the one middleware through which every failure leaves."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from scheduler.api.body import LIMIT
from scheduler.registry.errors import (
    ApiError,
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    TooLarge,
)
from scheduler.store import OBJECT_LIMIT, NotLeading, StoreFailed, Unavailable
from scheduler.store import TooLarge as ObjectTooLarge

log = logging.getLogger(__name__)

RETRY_AFTER = 1
"""Seconds after which what is unavailable for the moment may be tried again."""

STREAM: Any = getattr(web, "RequestKey", web.AppKey)("STREAM", web.StreamResponse)
"""Where a request keeps the response it has begun to send. (aiohttp before 3.14 has no RequestKey.)"""


@web.middleware
async def status_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every exception into a Status. What breaks a stream already begun can only end it."""
    try:
        return await handler(request)
    except ApiError as error:
        return _begun(request, error) or status_response(error)
    except web.HTTPException as error:
        return _from_http(error)
    except StoreFailed as error:
        return _begun(request, error) or status_response(ServiceUnavailable(str(error)))
    except (NotLeading, Unavailable) as error:
        return _begun(request, error) or status_response(ServiceUnavailable(str(error), RETRY_AFTER))
    except ObjectTooLarge as error:
        return _begun(request, error) or status_response(TooLarge(OBJECT_LIMIT, str(error)))
    except ConnectionResetError:
        raise  # the client went away: there is nobody to answer
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return _begun(request, error) or status_response(InternalError(f"{type(error).__name__}: {error}"))


def _begun(request: web.Request, error: Exception) -> web.StreamResponse | None:
    response = request.get(STREAM)
    if response is None or not response.prepared:
        return None
    log.warning("%s %s was cut off: %s", request.method, request.path, error)
    if request.transport is not None:
        request.transport.abort()
    return response if isinstance(response, web.StreamResponse) else None


def status_response(error: ApiError) -> web.Response:
    """An ApiError as an HTTP response; `retryAfterSeconds` is also the Retry-After header."""
    headers = {}
    retry = (error.details or {}).get("retryAfterSeconds")
    if retry:
        headers["Retry-After"] = str(retry)
    return web.Response(
        body=orjson.dumps(error.to_status()),
        status=error.code,
        content_type="application/json",
        headers=headers,
    )


def _from_http(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return status_response(NotFound())
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return status_response(TooLarge(LIMIT))
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = status_response(MethodNotAllowed(error.method))
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    if error.status < 400:
        raise error
    known = BadRequest(error.reason) if error.status < 500 else InternalError(error.reason)
    known.code = error.status
    return status_response(known)
