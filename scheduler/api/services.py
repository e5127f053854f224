"""Services: there are none yet, and this says so.

`kubectl cluster-info` and `kubectl get all` list services whatever else they do, so reading them must work. The
list is empty because no service can exist: creating one is refused (405).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Column, Object, Resource
from shared.models.base import KubeModel, doc
from shared.models.meta import ObjectMeta


class Service(KubeModel):
    """Service is a named abstraction of software service. This server has none yet."""

    api_version: str | None = doc("APIVersion defines the versioned schema of this object.")
    kind: str | None = doc("Kind is the REST resource this object represents.")
    metadata: ObjectMeta | None = doc("Standard object's metadata.")


def _row(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"]]


def _created(obj: Object, now: datetime) -> Object:
    return obj


def _updated(new: Object, old: Object, *, status: bool) -> Object:
    return new


def _refused(*_: object) -> list[FieldError]:
    return [FieldError.forbidden("kind", "services are not supported by Gantry yet")]


SERVICES = Resource(
    group="",
    version="v1",
    plural="services",
    singular="service",
    kind="Service",
    namespaced=True,
    model=Service,
    columns=(Column("Name", format="name", description="Name must be unique within a namespace."),),
    row=_row,
    prepare_create=_created,
    validate_create=_refused,
    prepare_update=_updated,
    validate_update=_refused,
    short_names=("svc",),
    categories=("all",),
    verbs=("get", "list", "watch"),
)
