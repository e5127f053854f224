"""The serviceaccounts resource: who a pod is. There are no tokens yet; what counts are its imagePullSecrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_metadata,
    reset_metadata,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.resource import Column, Object, Resource
from shared.models.config import ServiceAccount

DEFAULT = "default"
"""The account that every namespace has."""


def default_account() -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT}}


def _prepare_create(obj: Object, _now: datetime) -> Object:
    reset_metadata(obj)
    return obj


def _validate(obj: Object) -> list[FieldError]:
    return validate_metadata(obj, namespaced=True)


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    keep_metadata(new, old)
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    return validate_metadata_update(new, old) + _validate(new)


def _row(obj: Object, now: datetime) -> list[Any]:
    metadata = obj["metadata"]
    return [metadata["name"], len(obj.get("secrets") or ()), age(metadata.get("creationTimestamp"), now)]


SERVICEACCOUNTS = Resource(
    group="",
    version="v1",
    plural="serviceaccounts",
    singular="serviceaccount",
    kind="ServiceAccount",
    namespaced=True,
    short_names=("sa",),
    model=ServiceAccount,
    columns=(NAME, Column("Secrets", type="integer", description="How many secrets it lists."), AGE),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
)
