"""Small core/v1 types that point at something else."""

from __future__ import annotations

from shared.models.base import KubeModel, Quantity, doc


class LocalObjectReference(KubeModel):
    """An object of the same namespace, by name."""

    name: str | None = doc("Name of the object.")


class TypedLocalObjectReference(KubeModel):
    """An object of some kind in the same namespace."""

    api_group: str | None = doc("Group of the object; empty for core.")
    kind: str | None = doc("Kind of the object.", required=True)
    name: str | None = doc("Name of the object.", required=True)


class TypedObjectReference(KubeModel):
    """An object of some kind in some namespace."""

    api_group: str | None = doc("Group of the object; empty for core.")
    kind: str | None = doc("Kind of the object.", required=True)
    name: str | None = doc("Name of the object.", required=True)
    namespace: str | None = doc("Namespace of the object; empty for the same one.")


class ObjectReference(KubeModel):
    """Any object, or a part of one."""

    api_version: str | None = doc("API version of the object.")
    field_path: str | None = doc("The part that is meant, such as spec.containers{web}.")
    kind: str | None = doc("Kind of the object.")
    name: str | None = doc("Name of the object.")
    namespace: str | None = doc("Namespace of the object.")
    resource_version: str | None = doc("The version that is meant.")
    uid: str | None = doc("UID of the object.")


class ObjectFieldSelector(KubeModel):
    """A field of the pod."""

    api_version: str | None = doc("Version the path is written in; v1.")
    field_path: str | None = doc("Path of the field, such as metadata.name.", required=True)


class ResourceFieldSelector(KubeModel):
    """A resource of a container: its request or limit."""

    container_name: str | None = doc("The container; needed in volumes, else the one itself.")
    divisor: Quantity | None = doc("The unit of the output; 1 unless given.")
    resource: str | None = doc("Such as limits.cpu or requests.memory.", required=True)


class ConfigMapKeySelector(KubeModel):
    """A key of a ConfigMap."""

    key: str | None = doc("The key.", required=True)
    name: str | None = doc("Name of the ConfigMap.")
    optional: bool | None = doc("Whether it may be missing.")


class SecretKeySelector(KubeModel):
    """A key of a Secret."""

    key: str | None = doc("The key.", required=True)
    name: str | None = doc("Name of the Secret.")
    optional: bool | None = doc("Whether it may be missing.")
