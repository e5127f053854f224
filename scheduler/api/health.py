"""/healthz, /livez, /readyz: text as kube-apiserver's, with `?verbose` a line a check.

Alive: a restart would not help. Ready: requests are served as they should be. The checks come from outside
(`HealthReport`); the store's is added here.
"""

from __future__ import annotations

from aiohttp import web

from scheduler.api.auth import has_token
from scheduler.api.checks import Check
from scheduler.api.context import API, Api


async def livez(request: web.Request) -> web.Response:
    return _answer(request, "livez", [check for check in _checks(request.app[API]) if check.fatal])


async def readyz(request: web.Request) -> web.Response:
    return _answer(request, "readyz", _checks(request.app[API]))


async def healthz(request: web.Request) -> web.Response:
    return _answer(request, "healthz", _checks(request.app[API]))


def _checks(api: Api) -> list[Check]:
    store = api.store
    unreadable = [f"{key} cannot be read: {why}" for key, why in store.quarantined.items()]
    checks = [
        Check("ping", fatal=True),
        Check("store", str(store.failure or ""), fatal=True, detail="; ".join(unreadable)),
    ]
    if store.trouble:
        checks.append(Check("store-connection", store.trouble))
    return [*checks, *api.health().checks]


def _answer(request: web.Request, name: str, checks: list[Check]) -> web.Response:
    token = request.app[API].token
    trusted = token is None or has_token(request, token)
    failed = any(check.problem for check in checks)
    if not failed and "verbose" not in request.query:
        return web.Response(text="ok")
    lines = [_line(check, trusted=trusted) for check in checks]
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    return web.Response(text="\n".join(lines) + "\n", status=500 if failed else 200)


def _line(check: Check, *, trusted: bool) -> str:
    if check.problem:
        return f"[-]{check.name} failed: {check.problem if trusted else 'reason withheld'}"
    return f"[+]{check.name} ok" + (f": {check.detail}" if check.detail and trusted else "")
