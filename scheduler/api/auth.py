"""Who may talk to the API: a bearer token, or, on loopback only, anybody on this machine but no web page.

Without a token a page in a local browser could reach the API: by a cross-site request (which carries an
Origin) or by DNS rebinding (which carries the page's Host). Both are refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from functools import lru_cache

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from scheduler.registry.errors import ApiError, Unauthorized

OPEN = ("/healthz", "/livez", "/readyz", "/version")
"""Paths that need no token (and what is below them)."""


def auth_middleware(token: str | None) -> Middleware:
    """Lets authorized requests through; raises Unauthorized or a Forbidden ApiError for others."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None:
            refuse_web_pages(request)
        elif not is_open(request.path) and not has_token(request, token):
            raise Unauthorized
        return await handler(request)

    return check


def is_open(path: str) -> bool:
    return any(path == one or path.startswith(one + "/") for one in OPEN)


def has_token(request: web.Request, token: str) -> bool:
    """Whether the request carries the token, as `Bearer` or as the password of `Basic`. In constant time.

    Basic, because kubectl sends a kubeconfig's token over TLS only; on loopback without TLS the token can stand
    in the server's URL (`http://gantry:TOKEN@127.0.0.1:8080`), and kubectl makes Basic of that.
    """
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    secret = given.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(secret, token.encode())


def refuse_web_pages(request: web.Request) -> None:
    """Without a token: nothing for pages of a browser, and nothing under names that lead here (DNS rebinding). 403."""
    if "Origin" in request.headers:
        raise _forbidden("requests of web pages (with an Origin header) are refused without --token-file")
    if not is_loopback(request.host):
        raise _forbidden(
            f"Host {request.host!r} is not this machine's loopback; set --token-file to allow others"
        )


@lru_cache(maxsize=128)
def is_loopback(host: str) -> bool:
    """Whether `host[:port]` names this machine only: 127.0.0.0/8, ::1, localhost and names below it."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    name = name.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _forbidden(why: str) -> ApiError:
    return ApiError(403, "Forbidden", f"forbidden: {why}")
