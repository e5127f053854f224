"""The events resource: core/v1 events, which `kubectl describe` and `kubectl get events` read.

events.k8s.io/v1 is another view of the same objects under other field names; kubectl does not need it and it is
not served.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from scheduler.registry.cells import age
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import (
    keep_metadata,
    reset_metadata,
    validate_metadata,
    validate_metadata_update,
)
from scheduler.registry.resource import Column, Object, Resource
from shared.models.event import Event


def _prepare_create(event: Object, _now: datetime) -> Object:
    reset_metadata(event)
    return event


def _validate_create(event: Object) -> list[FieldError]:
    errors = validate_metadata(event, namespaced=True)
    involved = (event.get("involvedObject") or {}).get("namespace") or ""
    # Events about objects without a namespace are kept in default.
    if (involved or "default") != event["metadata"].get("namespace"):
        errors.append(
            FieldError.invalid("involvedObject.namespace", involved, "does not match event.namespace")
        )
    return errors


def _prepare_update(new: Object, old: Object, *, status: bool) -> Object:
    keep_metadata(new, old)
    return new


def _validate_update(new: Object, old: Object) -> list[FieldError]:
    return validate_metadata_update(new, old) + _validate_create(new)


def _first_seen(event: Object) -> str | None:
    return event.get("firstTimestamp") or event.get("eventTime")


def _last_seen(event: Object) -> str | None:
    series = (event.get("series") or {}).get("lastObservedTime")
    return series or event.get("lastTimestamp") or _first_seen(event)


def _object(event: Object) -> str:
    involved = event.get("involvedObject") or {}
    kind = str(involved.get("kind", "")).lower()
    return f"{kind}/{involved['name']}" if involved.get("name") else kind


def _source(event: Object) -> str:
    source = event.get("source") or {}
    component = source.get("component") or event.get("reportingComponent") or ""
    host = source.get("host") or ("" if source.get("component") else event.get("reportingInstance") or "")
    return ", ".join(filter(None, (component, host)))


def _row(event: Object, now: datetime) -> list[Any]:
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    return [
        age(_last_seen(event), now),
        event.get("type", ""),
        event.get("reason", ""),
        _object(event),
        (event.get("involvedObject") or {}).get("fieldPath", ""),
        _source(event),
        event.get("message", "").strip(),
        age(_first_seen(event), now),
        str(count),
        event["metadata"].get("name", ""),
    ]


def _involved(key: str) -> Callable[[Object], str]:
    return lambda event: str((event.get("involvedObject") or {}).get(key, ""))


def _plain(key: str) -> Callable[[Object], str]:
    return lambda event: str(event.get(key, ""))


EVENTS = Resource(
    group="",
    version="v1",
    plural="events",
    singular="event",
    kind="Event",
    namespaced=True,
    short_names=("ev",),
    model=Event,
    columns=(
        Column("Last Seen", description="Time since it last happened."),
        Column("Type", description="Normal or Warning."),
        Column("Reason", description="Word for machines."),
        Column("Object", description="The object it happened to."),
        Column("Subobject", description="The part of the object.", priority=1),
        Column("Source", description="Who says so.", priority=1),
        Column("Message", description="Text for people."),
        Column("First Seen", description="Time since it first happened.", priority=1),
        Column("Count", description="How often it happened.", priority=1),
        Column("Name", format="name", description="Name of the event.", priority=1),
    ),
    row=_row,
    prepare_create=_prepare_create,
    validate_create=_validate_create,
    prepare_update=_prepare_update,
    validate_update=_validate_update,
    fields={
        **{
            f"involvedObject.{key}": _involved(key)
            for key in ("apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid")
        },
        "reason": _plain("reason"),
        "reportingComponent": _plain("reportingComponent"),
        "source": lambda event: str((event.get("source") or {}).get("component", "")),
        "type": _plain("type"),
    },
)
