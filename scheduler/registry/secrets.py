"""The secrets resource: small data that is not for everybody's eyes.

Rules and wording: `pkg/apis/core/validation/validation.go` (ValidateSecret), `pkg/registry/core/secret`. What is wrong
inside of one is never quoted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from scheduler.registry import names
from scheduler.registry.cells import AGE, NAME, age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_metadata,
    reset_metadata,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.resource import Column, Object, Resource
from shared.models.config import Secret

LIMIT = 1024 * 1024
"""Bytes of all values together, as in Kubernetes."""

OPAQUE = "Opaque"
DOCKER_CONFIG = "kubernetes.io/dockerconfigjson"
OLD_DOCKER_CONFIG = "kubernetes.io/dockercfg"
DOCKER_KEYS = {DOCKER_CONFIG: ".dockerconfigjson", OLD_DOCKER_CONFIG: ".dockercfg"}
_TOKEN = "kubernetes.io/service-account-token"
_ACCOUNT = "kubernetes.io/service-account.name"
_NEEDED = {
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_EITHER = {"kubernetes.io/basic-auth": ("username", "password")}
_REDACTED = "<secret contents redacted>"


def _take_strings(secret: Object) -> None:
    """stringData is for writing only; what it says counts more."""
    text = secret.pop("stringData", None)
    if text:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in text.items()}
        secret["data"] = {**(secret.get("data") or {}), **encoded}


def _prepare_create(secret: Object, _now: datetime) -> Object:
    reset_metadata(secret)
    _take_strings(secret)
    secret["type"] = secret.get("type") or OPAQUE
    return secret


def _validate(secret: Object) -> list[FieldError]:
    data = secret.get("data") or {}
    return [
        *validate_metadata(secret, namespaced=True),
        *validate_keys(data, "data"),
        *validate_size(map(decoded, data.values()), "data"),
        *_validate_type(secret, data),
    ]


def _validate_type(secret: Object, data: dict[str, str]) -> Iterator[FieldError]:
    kind = secret.get("type", "")
    if kind == _TOKEN and not (secret["metadata"].get("annotations") or {}).get(_ACCOUNT):
        yield FieldError.required(f"metadata.annotations[{_ACCOUNT}]")
    if kind in _EITHER and not any(key in data for key in _EITHER[kind]):
        yield from (FieldError.required(f"data[{key}]") for key in _EITHER[kind])
    for key in _NEEDED.get(kind, ()):
        if key not in data or (kind.endswith("/ssh-auth") and not data[key]):
            yield FieldError.required(f"data[{key}]")
    if kind in DOCKER_KEYS:
        yield from _validate_docker(DOCKER_KEYS[kind], data)


def _validate_docker(key: str, data: dict[str, str]) -> Iterator[FieldError]:
    if key not in data:
        yield FieldError.required(f"data[{key}]")
        return
    try:
        config = json.loads(decoded(data[key]))
    except (ValueError, RecursionError):
        yield FieldError.invalid(f"data[{key}]", _REDACTED, "not JSON")
    else:
        if not isinstance(config, dict):
            yield FieldError.invalid(f"data[{key}]", _REDACTED, "not a JSON object")


def validate_keys(data: dict[str, str], path: str) -> Iterator[FieldError]:
    """Of a Secret or ConfigMap."""
    for key in data:
        complaint = names.config_key(key)
        if complaint:
            yield FieldError.invalid(f"{path}[{key}]", key, complaint)


def validate_size(values: Iterable[bytes], path: str) -> Iterator[FieldError]:
    """Of a Secret or ConfigMap."""
    if sum(map(len, values)) > LIMIT:
        yield FieldError.too_long(path, LIMIT)


def decoded(value: str) -> bytes:
    """A value of `data`, which the model has checked."""
    return base64.b64decode(value)


def validate_immutable(new: Object, old: Object, *fields: str) -> Iterator[FieldError]:
    """Once it is immutable, it stays that, and as it is."""
    if not old.get("immutable"):
        return
    why = "field is immutable when `immutable` is set"
    for field in ("immutable", *fields):
        if (new.get(field) or None) != (old.get(field) or None):
            yield FieldError.forbidden(field, why)


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    keep_metadata(new, old)
    _take_strings(new)
    new["type"] = new.get("type") or old.get("type", OPAQUE)
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    errors = validate_metadata_update(new, old)
    if new["type"] != old.get("type"):
        errors.append(FieldError.invalid("type", new["type"], "field is immutable"))
    errors += validate_immutable(new, old, "data")
    return errors + _validate(new)


def _row(secret: Object, now: datetime) -> list[Any]:
    metadata, count = secret["metadata"], len(secret.get("data") or {})
    return [metadata["name"], secret.get("type", ""), count, age(metadata.get("creationTimestamp"), now)]


SECRETS = Resource(
    group="",
    version="v1",
    plural="secrets",
    singular="secret",
    kind="Secret",
    namespaced=True,
    model=Secret,
    columns=(
        NAME,
        Column("Type", description="What it is for."),
        Column("Data", type="integer", description="How many values it has."),
        AGE,
    ),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
    fields={
        "type": lambda secret: str(secret.get("type", "")),
    },
)
