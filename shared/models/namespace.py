"""core/v1 Namespace: a scope for names."""

from __future__ import annotations

from shared.models.base import KubeModel, Time, doc
from shared.models.meta import ObjectMeta


class NamespaceSpec(KubeModel):
    """What keeps a namespace."""

    finalizers: list[str] | None = doc("Who must agree before it is removed; kubernetes.")


class NamespaceCondition(KubeModel):
    """One thing that is or is not so."""

    last_transition_time: Time | None = doc("When it last changed.")
    message: str | None = doc("Text for people.")
    reason: str | None = doc("Word for machines.")
    status: str | None = doc("True, False or Unknown.", required=True)
    type: str | None = doc("Type of the condition.", required=True)


class NamespaceStatus(KubeModel):
    """What is known of a namespace."""

    conditions: list[NamespaceCondition] | None = doc("What is so and what not.", merge_key="type")
    phase: str | None = doc("Active or Terminating.")


class Namespace(KubeModel):
    """A scope for the names of objects."""

    api_version: str | None = doc("v1.")
    kind: str | None = doc("Namespace.")
    metadata: ObjectMeta | None = doc("Identity, labels and annotations.")
    spec: NamespaceSpec | None = doc("What keeps it.")
    status: NamespaceStatus | None = doc("What is known of it.")
