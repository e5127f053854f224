"""PATCH: the three patch formats. Each changes the object it is given; callers give it a fresh copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.api import jsonpatch, strategic
from scheduler.registry.errors import ApiError, BadRequest
from shared.models.base import KubeModel

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
APPLY_PATCHES = ("application/apply-patch+yaml", "application/apply-patch+cbor")

Apply = Callable[[dict[str, Any]], dict[str, Any]]


def patcher(kind: str, patch: Any, model: type[KubeModel]) -> Apply:
    """A function to patch one object of `model`, once. Raises, when called, BadRequest or a 422 ApiError."""

    def apply(old: dict[str, Any]) -> dict[str, Any]:
        try:
            new = _apply(kind, old, patch, model)
        except (jsonpatch.PatchMalformed, strategic.StrategicError) as error:
            raise BadRequest(f"the patch is not valid: {error}") from None
        except jsonpatch.PatchFailed as error:
            raise ApiError(422, "Invalid", f"the patch cannot be applied: {error}") from None
        if not isinstance(new, dict):
            raise ApiError(422, "Invalid", "the patch leaves no object")
        return new

    return apply


def _apply(kind: str, old: dict[str, Any], patch: Any, model: type[KubeModel]) -> Any:
    if kind == JSON_PATCH:
        return jsonpatch.apply(old, patch)
    if not isinstance(patch, dict):
        raise BadRequest(f"the patch is not valid: it must be an object, not a {type(patch).__name__}")
    if kind == MERGE_PATCH:
        return merge(old, patch)
    return strategic.merge(old, patch, model)


def merge(old: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7386); `old` is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = old if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged
