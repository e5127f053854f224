"""ObjectMeta, the same for every resource: what the server owns of it and what users may write.

Rules and wording: apimachinery's `pkg/api/validation/objectmeta.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.registry import names
from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object

_ANNOTATIONS_LIMIT = 256 * 1024
_SERVER_OWNED = ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation")
_KEPT = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
)

Check = Callable[[str], str | None]


def reset_metadata(obj: Object) -> dict[str, Any]:
    """For create: remove what only the server sets; returns the metadata (made when missing)."""
    metadata: dict[str, Any] = obj.setdefault("metadata", {})
    for key in _SERVER_OWNED:
        metadata.pop(key, None)
    return metadata


def keep_metadata(new: Object, old: Object) -> None:
    """For update: what only the server sets stays as it was; name and namespace too when not given."""
    metadata, before = new.setdefault("metadata", {}), old["metadata"]
    metadata.setdefault("name", before.get("name", ""))
    if "namespace" in before:
        metadata.setdefault("namespace", before["namespace"])
    given_uid = metadata.get("uid")
    for key in (*_SERVER_OWNED, *_KEPT):
        metadata.pop(key, None)
    for key in _KEPT:
        if key in before:
            metadata[key] = before[key]
    if given_uid:  # a wrong one is a failed precondition, which validate_metadata_update tells
        metadata["uid"] = given_uid


def keep_all_but_status(new: Object, old: Object) -> Object:
    """For update of a status: `old` with the status of `new`, and its resourceVersion for the conflict check."""
    metadata = dict(old["metadata"])
    version = (new.get("metadata") or {}).get("resourceVersion")
    if version:
        metadata["resourceVersion"] = version
    made = {**old, "metadata": metadata}
    made.pop("status", None)
    if "status" in new:
        made["status"] = new["status"]
    return made


def validate_metadata(
    obj: Object, *, namespaced: bool, name: Check = names.dns_subdomain
) -> list[FieldError]:
    """Name, namespace, labels, annotations, owners, finalizers."""
    metadata = obj.get("metadata") or {}
    errors: list[FieldError] = []
    prefix = metadata.get("generateName")
    if prefix:
        # A trailing dash is fine in a prefix: what is generated follows it.
        complaint = name(prefix[:-1] + "a" if prefix.endswith("-") else prefix)
        if complaint:
            errors.append(FieldError.invalid("metadata.generateName", prefix, complaint))
    if not metadata.get("name"):
        errors.append(FieldError.required("metadata.name", "name or generateName is required"))
    else:
        complaint = name(metadata["name"])
        if complaint:
            errors.append(FieldError.invalid("metadata.name", metadata["name"], complaint))
    namespace = metadata.get("namespace")
    if namespaced:
        if not namespace:
            errors.append(FieldError.required("metadata.namespace"))
        elif complaint := names.dns_label(namespace):
            errors.append(FieldError.invalid("metadata.namespace", namespace, complaint))
    elif namespace:
        errors.append(FieldError.forbidden("metadata.namespace", "not allowed on this type"))
    errors += validate_labels(metadata.get("labels"), "metadata.labels")
    errors += _validate_annotations(metadata.get("annotations"))
    errors += _validate_owners(metadata.get("ownerReferences"))
    for finalizer in metadata.get("finalizers") or ():
        complaint = names.qualified_name(finalizer)
        if complaint:
            errors.append(FieldError.invalid("metadata.finalizers", finalizer, complaint))
    return errors


def validate_metadata_update(new: Object, old: Object) -> list[FieldError]:
    """Name, namespace and uid never change."""
    errors = []
    for key in ("name", "namespace", "uid"):
        value, before = new["metadata"].get(key), old["metadata"].get(key)
        if value != before:
            errors.append(FieldError.invalid(f"metadata.{key}", value, "field is immutable"))
    if old["metadata"].get("deletionTimestamp"):
        had = set(old["metadata"].get("finalizers") or ())
        added = [one for one in new["metadata"].get("finalizers") or () if one not in had]
        if added:
            errors.append(
                FieldError.forbidden(
                    "metadata.finalizers",
                    f"no new finalizers can be added if the object is being deleted, found new finalizers {added}",
                )
            )
    return errors


def validate_labels(labels: dict[str, str] | None, path: str) -> list[FieldError]:
    """Keys are qualified names, values label values."""
    errors: list[FieldError] = []
    for key, value in (labels or {}).items():
        complaint = names.qualified_name(key)
        if complaint:
            errors.append(FieldError.invalid(path, key, complaint))
        complaint = names.label_value(value)
        if complaint:
            errors.append(FieldError.invalid(path, value, complaint))
    return errors


def _validate_annotations(annotations: dict[str, str] | None) -> list[FieldError]:
    if not annotations:
        return []
    errors: list[FieldError] = []
    size = 0
    for key, value in annotations.items():
        complaint = names.qualified_name(key.lower())
        if complaint:
            errors.append(FieldError.invalid("metadata.annotations", key, complaint))
        size += len(key.encode()) + len(value.encode())
    if size > _ANNOTATIONS_LIMIT:
        errors.append(FieldError.too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    return errors


def _validate_owners(owners: list[dict[str, Any]] | None) -> list[FieldError]:
    errors: list[FieldError] = []
    controllers = 0
    for index, owner in enumerate(owners or ()):
        for key, what in (("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")):
            if not owner.get(key):
                path = f"metadata.ownerReferences[{index}].{key}"
                errors.append(FieldError.invalid(path, owner.get(key, ""), f"{what} must not be empty"))
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        errors.append(
            FieldError.invalid(
                "metadata.ownerReferences", owners, "Only one reference can have Controller set to true"
            )
        )
    return errors
