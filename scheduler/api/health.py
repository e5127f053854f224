"""/healthz, /livez, /readyz: text as kube-apiserver's, with `?verbose` a line a check.

Alive: a restart would not help. Ready: requests are served as they should be. The checks come from outside
(`HealthReport`); the store's is added here.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from scheduler.api.auth import has_token
from scheduler.api.context import API, Api


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is well when `problem` is empty. A `fatal` problem ends liveness: restart the process."""

    name: str
    problem: str = ""
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What the process knows of its own health."""

    checks: tuple[Check, ...] = ()


async def livez(request: web.Request) -> web.Response:
    return _answer(request, "livez", [check for check in _checks(request.app[API]) if check.fatal])


async def readyz(request: web.Request) -> web.Response:
    return _answer(request, "readyz", _checks(request.app[API]))


async def healthz(request: web.Request) -> web.Response:
    return _answer(request, "healthz", _checks(request.app[API]))


def _checks(api: Api) -> list[Check]:
    failure = api.store.failure
    store = Check("store", str(failure or ""), fatal=True)
    return [Check("ping", fatal=True), store, *api.health().checks]


def _answer(request: web.Request, name: str, checks: list[Check]) -> web.Response:
    token = request.app[API].token
    trusted = token is None or has_token(request, token)
    failed = any(check.problem for check in checks)
    if not failed and "verbose" not in request.query:
        return web.Response(text="ok")
    lines = [
        f"[-]{check.name} failed: {check.problem if trusted else 'reason withheld'}"
        if check.problem
        else f"[+]{check.name} ok"
        for check in checks
    ]
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    return web.Response(text="\n".join(lines) + "\n", status=500 if failed else 200)
