"""Self reviews: what may I, who am I. Whoever holds the token may do everything; there is one user.

`kubectl auth can-i` and `auth whoami` ask these. They are created, answered and never stored.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from scheduler.api.body import read_object
from scheduler.api.respond import answer_object
from scheduler.registry.errors import BadRequest

USER = {"username": "admin", "groups": ["system:masters", "system:authenticated"]}

EVERYTHING = {
    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "incomplete": False,
}

REVIEWS: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"): (
        "SelfSubjectAccessReview",
        {"allowed": True, "reason": "the bearer of the token may do everything"},
    ),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews"): ("SelfSubjectRulesReview", EVERYTHING),
    ("authentication.k8s.io", "v1", "selfsubjectreviews"): ("SelfSubjectReview", {"userInfo": USER}),
}
"""(group, version, plural) to kind and the status answered."""


async def review(request: web.Request, group: str, version: str, plural: str) -> web.StreamResponse:
    """POST of a review: it is answered, not stored."""
    kind, status = REVIEWS[group, version, plural]
    body, _ = await read_object(request)
    if body.get("kind", kind) != kind:
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): it is a {body['kind']}"
        )
    answer = {
        "kind": kind,
        "apiVersion": f"{group}/{version}",
        "metadata": {},
        "spec": body.get("spec") or {},
    }
    return await answer_object(request, {**answer, "status": status}, status=201)
