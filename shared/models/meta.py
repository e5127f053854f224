"""meta.k8s.io/v1: what every object carries, and what the API answers with."""

from __future__ import annotations

from typing import Any, ClassVar

from shared.models.base import Int32, Int64, KubeModel, Time, doc

META = "io.k8s.apimachinery.pkg.apis.meta.v1"


class OwnerReference(KubeModel):
    """The object that owns this one; when all owners are gone, so is the owned."""

    schema_prefix: ClassVar[str] = META

    api_version: str | None = doc("API version of the owner.", required=True)
    block_owner_deletion: bool | None = doc(
        "Whether a foreground deletion of the owner waits for this object."
    )
    controller: bool | None = doc(
        "Whether the owner is the controller that manages this object; at most one is."
    )
    kind: str | None = doc("Kind of the owner.", required=True)
    name: str | None = doc("Name of the owner.", required=True)
    uid: str | None = doc("UID of the owner.", required=True)


class ManagedFieldsEntry(KubeModel):
    """Which fields a manager last set, for server-side apply."""

    schema_prefix: ClassVar[str] = META

    api_version: str | None = doc("Version of the resource the field set is written in.")
    fields_type: str | None = doc("Format of fieldsV1; only FieldsV1 exists.")
    fields_v1: dict[str, Any] | None = doc("The set of fields, as a tree.", alias="fieldsV1")
    manager: str | None = doc("The workflow that manages the fields.")
    operation: str | None = doc("Apply or Update.")
    subresource: str | None = doc("The subresource the write went through, or empty.")
    time: Time | None = doc("When the entry last changed.")


class ObjectMeta(KubeModel):
    """What every stored object has: its identity, its labels, its life."""

    schema_prefix: ClassVar[str] = META

    annotations: dict[str, str] | None = doc("Unstructured notes of tools and users; not for selecting.")
    creation_timestamp: Time | None = doc("When the object was created, set by the server (UTC).")
    deletion_grace_period_seconds: Int64 | None = doc("Seconds the object has to end after its deletion.")
    deletion_timestamp: Time | None = doc("When the object is to be gone, set by the server on deletion.")
    finalizers: list[str] | None = doc("Who must agree before the object is removed.", strategy="merge")
    generate_name: str | None = doc("Prefix from which the server makes a unique name when there is no name.")
    generation: Int64 | None = doc("Counts the changes of the desired state; set by the server.")
    labels: dict[str, str] | None = doc("Keys and values to organise and select objects by.")
    managed_fields: list[ManagedFieldsEntry] | None = doc("Who manages which fields; kept by the server.")
    name: str | None = doc("The name, unique among the resource's objects of a namespace.")
    namespace: str | None = doc("The namespace that the name is unique in; empty for cluster-wide objects.")
    owner_references: list[OwnerReference] | None = doc("The objects that own this one.", merge_key="uid")
    resource_version: str | None = doc("Opaque version of this object; compare for equality, watch from it.")
    self_link: str | None = doc("Not used any more.")
    uid: str | None = doc("Unique in time and space, set by the server.")


class ListMeta(KubeModel):
    """What a list carries."""

    schema_prefix: ClassVar[str] = META

    continue_: str | None = doc("Token for the next piece of a list that was cut.", alias="continue")
    remaining_item_count: Int64 | None = doc("How many items are still to come, when known.")
    resource_version: str | None = doc("Version of the collection; watch from it.")
    self_link: str | None = doc("Not used any more.")


class StatusCause(KubeModel):
    """One reason for a failure."""

    schema_prefix: ClassVar[str] = META

    field: str | None = doc("Path of the field that is wrong.")
    message: str | None = doc("Text for people.")
    reason: str | None = doc("Word for machines.")


class StatusDetails(KubeModel):
    """What a failure was about."""

    schema_prefix: ClassVar[str] = META

    causes: list[StatusCause] | None = doc("The single causes.")
    group: str | None = doc("API group of the object.")
    kind: str | None = doc("Kind or resource of the object.")
    name: str | None = doc("Name of the object.")
    retry_after_seconds: Int32 | None = doc("When to try again.")
    uid: str | None = doc("UID of the object.")


class Status(KubeModel):
    """The answer of a call that returns no object."""

    schema_prefix: ClassVar[str] = META

    api_version: str | None = doc("Version of this representation.")
    code: Int32 | None = doc("HTTP status code.")
    details: StatusDetails | None = doc("More about the reason.")
    kind: str | None = doc("Status.")
    message: str | None = doc("Text for people.")
    metadata: ListMeta | None = doc("List metadata.")
    reason: str | None = doc("Word for machines.")
    status: str | None = doc("Success or Failure.")


class Preconditions(KubeModel):
    """What must hold for a deletion to happen."""

    schema_prefix: ClassVar[str] = META

    resource_version: str | None = doc("The resourceVersion the object must have.")
    uid: str | None = doc("The UID the object must have.")


class DeleteOptions(KubeModel):
    """The body of a delete."""

    schema_prefix: ClassVar[str] = META

    api_version: str | None = doc("Version of this representation.")
    dry_run: list[str] | None = doc("All: do everything but persist.")
    grace_period_seconds: Int64 | None = doc("Seconds before the object is removed; 0 at once.")
    ignore_store_read_error_with_cluster_breaking_potential: bool | None = doc("Not used here.")
    kind: str | None = doc("DeleteOptions.")
    orphan_dependents: bool | None = doc("Use propagationPolicy instead.")
    preconditions: Preconditions | None = doc("What must hold, else 409.")
    propagation_policy: str | None = doc("Orphan, Background or Foreground.")


class LabelSelectorRequirement(KubeModel):
    """One term of a label selector."""

    schema_prefix: ClassVar[str] = META

    key: str | None = doc("The label.", required=True)
    operator: str | None = doc("In, NotIn, Exists or DoesNotExist.", required=True)
    values: list[str] | None = doc("The values, for In and NotIn.")


class LabelSelector(KubeModel):
    """Selects objects by their labels; all terms must hold, an empty selector takes all."""

    schema_prefix: ClassVar[str] = META

    match_expressions: list[LabelSelectorRequirement] | None = doc("Terms with an operator.")
    match_labels: dict[str, str] | None = doc("Labels and the value each must have.")
