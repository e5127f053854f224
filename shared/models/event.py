"""core/v1 Event: something that happened to an object, for people to read."""

from __future__ import annotations

from shared.models.base import Int32, KubeModel, MicroTime, Time, doc
from shared.models.meta import ObjectMeta
from shared.models.references import ObjectReference


class EventSeries(KubeModel):
    """The same thing again and again."""

    count: Int32 | None = doc("How often.")
    last_observed_time: MicroTime | None = doc("When last.")


class EventSource(KubeModel):
    """Who says so."""

    component: str | None = doc("The component.")
    host: str | None = doc("The node.")


class Event(KubeModel):
    """Something that happened to an object."""

    action: str | None = doc("What was done.")
    api_version: str | None = doc("v1.")
    count: Int32 | None = doc("How often it happened.")
    event_time: MicroTime | None = doc("When it was first seen.")
    first_timestamp: Time | None = doc("When it first happened.")
    involved_object: ObjectReference | None = doc("The object it happened to.", required=True)
    kind: str | None = doc("Event.")
    last_timestamp: Time | None = doc("When it last happened.")
    message: str | None = doc("Text for people.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.", required=True)
    reason: str | None = doc("Word for machines.")
    related: ObjectReference | None = doc("A second object, if there is one.")
    reporting_component: str | None = doc("Who says so.")
    reporting_instance: str | None = doc("Which of them.")
    series: EventSeries | None = doc("When it happens again and again.")
    source: EventSource | None = doc("Who says so.")
    type: str | None = doc("Normal or Warning.")
